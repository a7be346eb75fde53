"""Serve a finished run or an exported bundle over HTTP: recommendations, search, a page.

trialign serve run=DIR
trialign serve serve.bundle=DIR serve.port=8080
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from trialign.config.config import Config
from trialign.config.serve import ServeConfig
from trialign.errors import ConfigError

if TYPE_CHECKING:
    from trialign.serve.versions import Source


PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
INSTALL = "pip install 'trialign[serve]'"


def run(config: Config) -> None:
    """Answer requests until the process is asked to end."""
    if missing := missing_packages():
        raise ConfigError(
            f"{missing[0]} is not installed",
            rule="a service needs the extra serve",
            remedy=INSTALL,
        )
    from trialign.serve.server import bind, serve
    from trialign.serve.service import Service
    from trialign.serve.versions import Versions, available_memory

    token = _token(config.serve)
    with bind(config.serve) as listener:  # before a model is loaded: a port that is taken is reported at once
        source = _source(config)
        serve(Service(Versions(source, available_memory), config.serve, token), listener)


def missing_packages() -> list[str]:
    """Return what the extra serve would install and is not there."""
    return [name for name in PACKAGES if find_spec(name) is None]


def _source(config: Config) -> Source:
    from trialign.serve.served import BundleSource, RunSource

    if config.serve.bundle is not None:
        return BundleSource(Path(config.serve.bundle).expanduser().absolute(), num_beams=config.serve.num_beams)
    return RunSource(
        config.run,
        from_stage=config.from_stage,
        generator=config.evaluate.generator,
        accelerator=config.runtime.accelerator,
        num_beams=config.serve.num_beams,
        batch_size=config.serve.max_batch,
    )


def _token(settings: ServeConfig) -> str | None:
    """Return the token, from the environment alone: settings are written to logs."""
    if settings.token_env is None:
        return None
    if not (token := os.environ.get(settings.token_env)):
        raise ConfigError(
            f"serve.token_env={settings.token_env}, but that environment variable is not set",
            rule="the token is in the environment variable",
            remedy=f"export {settings.token_env}=..., or set serve.token_env=null for a service without a token",
        )
    return token
