"""The ASGI app: routes, and how errors are answered. It knows a `Service` and nothing of runs or bundles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRouter
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from trialign import __version__
from trialign.serve import page, schema
from trialign.serve.answering import Answering
from trialign.serve.door import Door
from trialign.serve.refusal import RefusedError, error_body, shown
from trialign.serve.service import Service

log = logging.getLogger("trialign")

_STATIC = Path(__file__).with_name("static")
_MOST_LISTED = 100
_REFUSALS: Any = {code: {"model": schema.Error} for code in (400, 401, 404, 408, 413, 415, 422, 503)}
_ADMIN_REFUSALS: Any = {code: {"model": schema.Error} for code in (401, 403, 409, 415)}

router = APIRouter()


def build_app(service: Service) -> FastAPI:
    """Return the app that answers with a service."""
    app = FastAPI(title="trialign", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    app.include_router(page.router)
    app.mount("/", StaticFiles(directory=_STATIC, html=True))
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Door, service=service)
    return app


@router.post("/recommend", response_model=schema.Recommendation, responses=_REFUSALS)
async def recommend(request: schema.RecommendRequest, service: Answering) -> Response:
    """Recommend items to somebody who chose some, or to a user of the logs."""
    return _json(await service.recommend(request))


@router.get("/items", response_model=schema.Items, responses=_REFUSALS)
async def items(
    service: Answering,
    search: Annotated[str, Query(max_length=200, description="words of the title, or a key")] = "",
    k: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 20,
) -> Response:
    """List items of the catalogue: those whose title has all the words, or the first ones."""
    catalogue = service.served.catalogue
    found = await run_in_threadpool(catalogue.search, search, k)
    return _json(schema.Items(items=[catalogue.item(item) for item in found]))


@router.get("/items/{key:path}", response_model=schema.Item, responses=_REFUSALS)
async def item(key: str, service: Answering) -> Response:
    """Return one item of the catalogue."""
    catalogue = service.served.catalogue
    if key not in catalogue.index:
        raise RefusedError(
            404,
            f"no item '{key}' among {len(catalogue.keys)}",
            rule="items are named by their keys in the catalogue",
            remedy="look keys up by GET /items?search=WORDS",
        )
    return _json(catalogue.item(catalogue.index[key]))


@router.get("/health")
async def health(service: Answering) -> schema.Status:
    """Tell that the process answers."""
    return schema.Status(status="alive", bundle=service.served.digest)


@router.get("/ready", responses={503: {"model": schema.Error}})
async def ready(service: Answering) -> schema.Status:
    """Tell whether requests are ranked: what a load balancer asks."""
    if service.draining or not service.batcher.alive:
        raise RefusedError(
            503,
            "ending" if service.draining else "not ready",
            rule="a ready service ranks requests",
            remedy="send requests to another replica",
        )
    return schema.Status(status="ready", bundle=service.served.digest)


def _json(model: BaseModel) -> Response:
    """Return an answer that is not validated again: it is built from the model that OpenAPI describes."""
    return Response(model.model_dump_json(), media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Answering) -> Response:
    """Return the counters in the text format of Prometheus."""
    return Response(service.metrics.text(service.served.digest), media_type="text/plain; version=0.0.4")


@router.post("/reload", responses=_ADMIN_REFUSALS)
async def reload(service: Answering) -> schema.Reloaded:
    """Load the bundle or run that is there now next to the one that answers, and let it answer."""
    changed = await run_in_threadpool(service.reload)
    return schema.Reloaded(bundle=service.served.digest, changed=changed)


@router.post("/rollback", responses=_ADMIN_REFUSALS)
async def rollback(service: Answering) -> schema.Reloaded:
    """Let the bundle or run that answered before answer again."""
    await run_in_threadpool(service.rollback)
    return schema.Reloaded(bundle=service.served.digest, changed=True)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return JSONResponse(error_body(error), error.status, error.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _refused(_request, _why_invalid(error))


def _why_invalid(error: RequestValidationError) -> RefusedError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return RefusedError(
            400, "a body that is not JSON", rule="the body of a request is JSON", remedy="send a JSON object"
        )
    name = ".".join(map(str, first["loc"][1:])) or "body"
    value = first.get("input")
    plain = value is None or isinstance(value, str | int | float)
    return RefusedError(
        422,
        shown(f"{name}={value}") if plain else f"{name} is a {type(value).__name__}",
        rule=f"{name}: {first['msg']}",
        remedy="see /openapi.json for what a request may hold",
    )


async def _no_route(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code < 500 else 503
    refusal = RefusedError(status, str(error.detail), rule="requests follow /openapi.json", remedy="see /openapi.json")
    return JSONResponse(error_body(refusal), status, error.headers)
