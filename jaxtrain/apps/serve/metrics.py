"""What the server tells of itself: Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.apps.serve.store import CompletionStore

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The numbers of one server."""

    def __init__(self, desk: Scheduler, store: CompletionStore | None):
        self._registry = registry = CollectorRegistry()
        name = "jaxtrain_requests_total"
        self.requests = Counter(
            name, "Requests by endpoint and status", ("endpoint", "status"), registry=registry
        )
        self.tokens = Counter("jaxtrain_tokens_total", "Tokens read and drawn", ("kind",), registry=registry)
        self.given_up = Counter(
            "jaxtrain_given_up_total", "Requests whose client left before the end", registry=registry
        )
        self.first = Histogram(
            "jaxtrain_first_token_seconds",
            "Until a request's first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "jaxtrain_completion_seconds", "Until a request's last token", buckets=_SECONDS, registry=registry
        )
        gauges = {
            "jaxtrain_rows": ("Completions that can be under way at once", lambda: desk.sampling.rows),
            "jaxtrain_rows_busy": ("Completions under way", lambda: desk.counts[0]),
            "jaxtrain_waiting": ("Completions that wait for a row", lambda: desk.counts[1]),
            "jaxtrain_store_waiting": (
                "Writes to the store that are queued",
                lambda: store.waiting if store else 0,
            ),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)

    def response(self) -> Response:
        """All of them as text."""
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
