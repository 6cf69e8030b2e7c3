"""Metrics: numbers about the service for Prometheus, in its text format. The labels have few values."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from weightwell_service.observation.record import Ended
from weightwell_service.processes import is_alive

# The variable that prometheus_client reads when it is imported.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

# The states whose value is the highest of all processes; others are sums.
_HIGHEST = {"weightwell_info", "weightwell_memory_wait_seconds"}

# The methods that have their own label.
_METHODS = {"GET", "HEAD", "POST", "OPTIONS"}


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._state: Callable[[], Iterable[Metric]] = tuple
        self._mirrored: dict[str, Gauge] = {}
        self._routes: dict[str, tuple[Gauge, Counter, Histogram, Histogram]] = {}
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self._requests = Counter(
            "weightwell_requests", "requests that have ended", ["route", "method", "status"], registry=self.registry
        )
        self._refusals = Counter(
            "weightwell_refusals", "refused requests, by the type of the problem", ["reason"], registry=self.registry
        )
        self._sent = Counter("weightwell_sent_bytes", "bytes of bodies sent", ["route"], registry=self.registry)
        self._under_way = Gauge(
            "weightwell_requests_under_way",
            "requests that are being answered",
            ["route"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._first = Histogram(
            "weightwell_first_byte_seconds",
            "seconds from the head of a request to the head of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._all = Histogram(
            "weightwell_request_seconds",
            "seconds from the head of a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def begin(self, route: str) -> None:
        """Count a request that has begun."""
        self._of_route(route)[0].inc()

    def end(self, ended: Ended) -> None:
        """Count a request that has ended."""
        under_way, sent, seconds, first = self._of_route(ended.route)
        under_way.dec()
        sent.inc(ended.sent)
        seconds.observe(ended.seconds)
        if ended.status:
            first.observe(ended.first)
        method = ended.method if ended.method in _METHODS else "other"
        key = ended.route, method, str(ended.status or "none")
        if (requests := self._counters.get(key)) is None:
            requests = self._counters[key] = self._requests.labels(*key)
        requests.inc()
        if ended.reason is not None:
            self._refusals.labels(ended.reason).inc()

    def _of_route(self, route: str) -> tuple[Gauge, Counter, Histogram, Histogram]:
        """Return the metrics of a route. They are kept, as looking up their labels takes longer than counting."""
        if (found := self._routes.get(route)) is None:
            found = self._routes[route] = (
                self._under_way.labels(route),
                self._sent.labels(route),
                self._all.labels(route),
                self._first.labels(route),
            )
        return found

    def show(self, state: Callable[[], Iterable[Metric]]) -> None:
        """Add metrics that are read when they are asked for."""
        self._state = state
        self.registry.register(_State(state))

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header prefers, and its media type.

        If several processes serve, the metrics are those of all of them. Their states are at most a second old.
        """
        encode, media_type = choose_encoder(accept)
        return encode(self._of_all() if several() else self.registry), media_type

    def _of_all(self) -> CollectorRegistry:
        _forget_dead()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    async def mirror(self) -> None:
        """Write the state of this process where the other processes read it. The server calls this once a second."""
        for family in self._state():
            for sample in family.samples:
                total = family.type == "counter"
                if sample.name not in self._mirrored:
                    mode: Any = "sum" if total else "livemax" if sample.name in _HIGHEST else "livesum"
                    self._mirrored[sample.name] = Gauge(
                        sample.name, family.documentation, [*sample.labels], registry=None, multiprocess_mode=mode
                    )
                mirrored = self._mirrored[sample.name]
                (mirrored.labels(**sample.labels) if sample.labels else mirrored).set(sample.value)


def several() -> bool:
    """Whether several processes have metrics: prometheus_client then keeps them in files of a folder."""
    return _FOLDER in os.environ


def _forget_dead() -> None:
    """Remove the states of processes that have died. Their totals stay."""
    folder = os.environ[_FOLDER]
    for path in Path(folder).glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        if not is_alive(process):
            mark_process_dead(process, folder)  # type: ignore[no-untyped-call]


class _State(Collector):
    def __init__(self, state: Callable[[], Iterable[Metric]]):
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return self._state()

    def describe(self) -> Iterable[Metric]:
        """Return no names: they are only known when the service is complete."""
        return ()


def gauge(name: str, doc: str, values: dict[str, float] | float, label: str = "") -> Metric:
    """Return the metric of a state: one value, or a value for each value of a label."""
    return _family(GaugeMetricFamily, name, doc, values, label)


def counter(name: str, doc: str, values: dict[str, float] | float, label: str = "") -> Metric:
    """Return the metric of a total: one value, or a value for each value of a label."""
    return _family(CounterMetricFamily, name, doc, values, label)


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    doc: str,
    values: dict[str, float] | float,
    label: str,
) -> Metric:
    family = kind(f"weightwell_{name}", doc, labels=[label] if label else [])
    for value, number in values.items() if isinstance(values, dict) else [("", values)]:
        family.add_metric([value] if label else [], number)
    return family
