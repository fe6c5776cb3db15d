"""What Prometheus may read: counters of one application, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api import problems

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class Metrics:
    """The counters that the API keeps."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files; nothing where there is no /proc
        self.requests = Counter(
            "restore_requests", "Requests answered.", ["path", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "restore_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "restore_stage_seconds",
            "Seconds of a picture's way, by stage.",
            ["task", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.problems = Counter("restore_problems", "Problems answered.", ["slug"], registry=self.registry)
        for row in problems.TABLE:
            # From 0 on: a counter that begins at 1 has not increased, and the first of its kind would alert nobody.
            self.problems.labels(row.slug)
        self.pixels = Counter("restore_pixels", "Pixels taken in.", ["task"], registry=self.registry)
        self.active = Gauge("restore_requests_active", "Requests under way.", registry=self.registry)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def watch_kinds(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Add a counter with a value for each kind of `label`, which are read when they are asked for."""

        def collect() -> Metric:
            family = CounterMetricFamily(name, meaning, labels=[label])
            for kind, count in sorted(read().items()):
                family.add_metric([kind], count)
            return family

        self.registry.register(_Read(collect))

    def watch_sizes(self, name: str, meaning: str, read: Callable[[], Mapping[int, int]]) -> None:
        """Add a histogram of sizes, {size: how often}, which is read when it is asked for."""

        def collect() -> Metric:
            counts = read()
            below = [(str(most), sum(often for size, often in counts.items() if size <= most)) for most in _SIZES]
            buckets = [*below, ("+Inf", sum(counts.values()))]
            return HistogramMetricFamily(name, meaning, buckets, sum(size * often for size, often in counts.items()))

        self.registry.register(_Read(collect))

    def watch_each(self, name: str, meaning: str, label: str, reads: Mapping[str, Callable[[], float]]) -> None:
        """Add a gauge with a label, which is read for each of its values when it is asked for."""
        gauge = Gauge(name, meaning, [label], registry=self.registry)
        for value, read in reads.items():
            gauge.labels(value).set_function(read)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Read(Collector):
    """A metric that is made when it is asked for."""

    def __init__(self, collect: Callable[[], Metric]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        yield self._collect()
