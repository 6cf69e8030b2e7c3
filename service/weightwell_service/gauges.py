"""Gauges: the state of a service, as metrics that are read when they are asked for."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from weightwell_service import __version__
from weightwell_service.observation.metrics import counter, gauge
from weightwell_service.saturation import Load
from weightwell_service.service import Service


def state(service: Service) -> Iterator[Metric]:
    """Yield the metrics of a service's memory, threads, streams and plans."""
    resources, recent = service.resources, service.recent
    budget, totals, lanes = resources.budget, resources.totals, resources.lanes
    plans: dict[str, float] = {"cache": recent.hits, "new": recent.misses}
    about = {"version": __version__, "device": str(service.engine.device)}
    info = gauge("info", "1, with the version and the device as labels", 1.0)
    info.samples[0] = info.samples[0]._replace(labels=about)
    yield info
    yield gauge("responses", "files that are being sent", resources.responses)
    yield gauge("responses_limit", "most files at once (WEIGHTWELL_MAX_RESPONSES)", resources.max_responses)
    yield gauge(
        "memory_bytes",
        "memory in use, by its purpose; everything else but chunks is other",
        {"chunks": budget.chunks, "other": budget.rest, "bodies": budget.bodies},
        "purpose",
    )
    yield gauge("memory_limit_bytes", "memory budget (WEIGHTWELL_MAX_RESIDENT_BYTES)", budget.limit)
    yield gauge("memory_queue", "requests that wait for memory", budget.waiting)
    yield gauge("memory_wait_seconds", "longest time that a request waits for memory now, in seconds", budget.waited)
    yield gauge("jobs", "chunks that wait or are drawn", {name: each.jobs for name, each in lanes.items()}, "lane")
    yield counter("drawn_bytes", "bytes generated", totals.drawn)
    drawing = {name: each.worked for name, each in lanes.items()}
    yield counter("drawing_seconds", "seconds of threads that generate", drawing, "lane")
    yield counter("reader_seconds", "seconds in which streams waited for their readers", totals.reading)
    yield counter("stalls", "times that chunks of a stalled reader were dropped, to be drawn again", totals.stalls)
    yield counter("plans", "plans that queries asked for, by where they came from", plans, "source")
    yield gauge("plan_cache_bytes", "memory of the cache of plans, by estimate", recent.used)


def load(service: Service) -> Callable[[], Load]:
    """Return the load of a service, as a function."""
    resources, patience = service.resources, service.settings.queue_timeout
    return lambda: Load(resources.responses, resources.max_responses, resources.budget.waited, patience)
