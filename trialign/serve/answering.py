"""How routes get the service of their app."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from trialign.serve.service import Service


async def service_of(request: Request) -> Service:
    """Return the service of the app that got a request."""
    service: Service = request.app.state.service
    return service


Answering = Annotated[Service, Depends(service_of)]
