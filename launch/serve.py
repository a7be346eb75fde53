"""Serve a finished run or an exported bundle over HTTP: recommendations, search, a page.

trialign serve run=DIR
trialign serve serve.bundle=DIR serve.port=8080
"""

from __future__ import annotations

from importlib.util import find_spec

from trialign.config.config import Config
from trialign.errors import ConfigError


def run(config: Config) -> None:
    """Answer requests until the process is asked to end."""
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise ConfigError(
            f"{missing[0]} is not installed",
            rule="a service needs the extra serve",
            remedy="pip install 'trialign[serve]'",
        )
    from trialign.run import Run
    from trialign.serve.served import serve_run
    from trialign.serve.server import bind, serve

    with bind(config.serve) as listener:  # before a model is loaded: a port that is taken is told at once
        generator = config.evaluate.generator
        run = Run(config.run, from_stage=config.from_stage, generator=generator, accelerator=config.runtime.accelerator)
        served = serve_run(
            run, generator=generator, num_beams=config.serve.num_beams, batch_size=config.serve.max_batch
        )
        serve(served, config.serve, listener)
