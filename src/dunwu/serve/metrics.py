"""Counts for Prometheus. Labels take few values: routes by their patterns, methods, statuses, and names of models that the server
itself offers; never a path, a key or what a client called a model."""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from dunwu.infer.engine import EngineStats
from dunwu.serve.visit import Visit

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_GAUGES = {
    "waiting": "Completions that wait for their turn.",
    "running": "Completions that are being written.",
    "blocks": "Blocks that the key/value cache has.",
    "free_blocks": "Blocks of the cache that no running text holds.",
    "idle_blocks": "Free blocks of the cache that still remember a text.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of the prompts that were taken in.",
    "hit_tokens": "Tokens of prompts that the cache already held.",
    "read_tokens": "Tokens that passed through the model to be read.",
    "written_tokens": "Tokens that were written.",
    "proposed_tokens": "Tokens that were guessed ahead.",
    "accepted_tokens": "Guessed tokens that were right.",
    "preemptions": "Times that a text gave its blocks up to others and was read again.",
    "steps": "Passes through the model.",
}
_BY_MODEL = {
    "requests": "Requests that a model, or a delta over it, read.",
    "prompt_tokens": "Tokens of prompts that it read.",
    "completion_tokens": "Tokens that it wrote.",
}
disable_created_metrics()  # a gauge of its birthday beside each counter: twice as much to send


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "dunwu_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "dunwu_request_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "dunwu_time_to_first_token_seconds",
            "Seconds from the first byte of a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._each = Histogram(
            "dunwu_time_per_output_token_seconds",
            "Seconds between the tokens of an answer, on average.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._prompt = Counter("dunwu_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter(
            "dunwu_cached_prompt_tokens", "Tokens of prompts that the cache already held.", registry=registry
        )
        self._completion = Counter("dunwu_completion_tokens", "Tokens of answers.", registry=registry)
        self._of_model = {
            what: Counter(f"dunwu_model_{what}", meaning, ["model"], registry=registry)
            for what, meaning in _BY_MODEL.items()
        }
        self._open = Gauge("dunwu_requests_in_flight", "Requests that are not yet answered.", registry=registry)
        self._gone = Counter(
            "dunwu_disconnects", "Requests whose caller left before the answer was whole.", registry=registry
        )
        self._refused = Counter(
            "dunwu_refusals",
            "Requests that were turned away because they went over a limit.",
            ["reason"],
            registry=registry,
        )
        self._engine = _EngineCounts()
        registry.register(self._engine)
        ProcessCollector(registry=registry)

    def begins(self, visit: Visit) -> None:
        """A request came."""
        self._open.inc()

    def ends(self, visit: Visit) -> None:
        """It is over."""
        self._open.dec()
        self._requests.labels(visit.route, visit.method, str(visit.status)).inc()
        self._seconds.labels(visit.route).observe(visit.seconds)
        self._prompt.inc(visit.prompt_tokens)
        self._cached.inc(visit.cached_tokens)
        self._completion.inc(visit.completion_tokens)
        if visit.model is not None:
            for what, counter in self._of_model.items():
                counter.labels(visit.model).inc(1 if what == "requests" else getattr(visit, what))
        if visit.first_token is not None:
            self._first.observe(visit.first_token - visit.began)
        if visit.seconds_per_token is not None:
            self._each.observe(visit.seconds_per_token)
        if visit.gone:
            self._gone.inc()
        if visit.refusal is not None:
            self._refused.labels(visit.refusal).inc()

    def watch(self, collector: Collector) -> None:
        """Print what another counts too."""
        self._registry.register(collector)

    def text(self, stats: EngineStats | None = None) -> bytes:
        """Prometheus' text form; what the engine counts is of `stats`, or of the last that were given."""
        self._engine.stats = stats or self._engine.stats
        return generate_latest(self._registry)


class _EngineCounts:
    """What the engine counts, by its own names."""

    def __init__(self) -> None:
        self.stats: EngineStats | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        if self.stats is None:
            return
        for one in fields(self.stats):
            value = getattr(self.stats, one.name)
            if one.name in _GAUGES:
                yield GaugeMetricFamily(f"dunwu_engine_{one.name}", _GAUGES[one.name], value)
            elif one.name in _COUNTERS:
                yield CounterMetricFamily(f"dunwu_engine_{one.name}", _COUNTERS[one.name], value)
        finished = CounterMetricFamily("dunwu_engine_finished", "Completions that are over.", labels=["reason"])
        for reason, count in self.stats.finished.items():
            finished.add_metric([reason], count)
        yield finished
