"""Prometheus metrics of the server."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from jaxtrain.apps.serve.scheduler import Scheduler
from jaxtrain.apps.serve.store import CompletionStore

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self, schedulers: Sequence[Scheduler], store: CompletionStore | None):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "jaxtrain_requests_total", "Requests by endpoint and status", ("endpoint", "status"), registry=registry
        )  # fmt: skip
        self.tokens = Counter(
            "jaxtrain_tokens_total", "Prompt and completion tokens", ("kind",), registry=registry
        )
        self.disconnected = Counter(
            "jaxtrain_given_up_total", "Requests whose client disconnected before the end", registry=registry
        )
        self.first_token_seconds = Histogram(
            "jaxtrain_first_token_seconds", "Time to a request's first token", buckets=_SECONDS, registry=registry
        )  # fmt: skip
        self.completion_seconds = Histogram(
            "jaxtrain_completion_seconds",
            "Time to a request's last token",
            buckets=_SECONDS,
            registry=registry,
        )
        gauges = {
            "jaxtrain_rows": (
                "Completions that can be decoded at once",
                lambda: sum(one.runner.rows for one in schedulers),
            ),
            "jaxtrain_rows_busy": (
                "Running completions",
                lambda: sum(one.counts.running for one in schedulers),
            ),
            "jaxtrain_waiting": (
                "Completions that wait for a row",
                lambda: sum(one.counts.waiting for one in schedulers),
            ),
            "jaxtrain_store_waiting": ("Queued writes to the store", lambda: store.queued if store else 0),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)

    def response(self) -> Response:
        """The response with all metrics as text."""
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
