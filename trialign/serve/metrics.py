"""What a service counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one service.

    Args:
        waiting: returns the number of requests that wait to be ranked.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "trialign_requests", "answers by path and status", ("path", "status"), registry=registry
        )
        self.seconds = Histogram(
            "trialign_request_seconds", "from a request to its answer", ("path",), buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(
            "trialign_batch_requests", "requests that were ranked together", buckets=_SIZES, registry=registry
        )
        self.reloads = Counter("trialign_reloads", "reloads and rollbacks by outcome", ("outcome",), registry=registry)
        self._bundle = Gauge("trialign_bundle_info", "1 for the bundle that answers", ("digest",), registry=registry)
        queue = Gauge("trialign_waiting_requests", "requests that wait to be ranked", registry=registry)
        queue.set_function(waiting)

    def text(self, digest: str) -> bytes:
        """Return all figures; `digest` is that of the bundle that answers."""
        self._bundle.clear()
        self._bundle.labels(digest).set(1)
        return generate_latest(self._registry)
