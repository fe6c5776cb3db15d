"""What Prometheus may read: counters of one application, in a registry of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api import problems
from app.engine.protocol import DeviceStats, ModelServer
from app.jobs.worker import Worker
from app.pipeline import ImagePipeline

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

    def count_pixels(self, task: str, pixels: int) -> None:
        """Count the pixels of a decoded picture."""
        self.pixels.labels(task).inc(pixels)

    def observe_stage(self, task: str, stage: str, seconds: float) -> None:
        """Take in how long a stage of a request took."""
        self.stages.labels(task, stage).observe(seconds)

    def watch_pipeline(self, pipeline: ImagePipeline) -> None:
        """Add the gauges of what waits for memory, and for the device's time."""
        budget, admission = pipeline.budget, pipeline.admission
        self.watch("restore_decoded_megapixels", "Megapixels held decoded.", lambda: budget.used)
        self.watch("restore_requests_waiting", "Requests that wait to be decoded.", lambda: budget.waiting)
        self.watch("restore_work_seconds", "Seconds of a device that requests need.", lambda: admission.seconds)

    def watch_engine(self, engine: ModelServer) -> None:
        """Add what the devices do, and what waits for them."""

        def watch(name: str, meaning: str, read: Callable[[DeviceStats], float]) -> None:
            each = {device: functools.partial(read, stats) for device, stats in engine.devices.items()}
            self.watch_each(name, meaning, "device", each)

        watch("restore_queue_tiles", "Tiles that wait for a device.", lambda one: one.depth)
        watch("restore_queue_megapixels", "Megapixels that wait for a device.", lambda one: one.megapixels)
        watch("restore_device_busy_seconds", "Seconds that a device worked.", lambda one: one.counters.busy_seconds)
        watch("restore_device_tiles", "Tiles that a device did.", lambda one: one.counters.requests)
        watch("restore_device_batches", "Batches that a device did.", lambda one: one.counters.batches)
        watch("restore_device_failures", "Tiles that failed.", lambda one: one.counters.failures)
        self.watch("restore_device_retries", "Tiles sent to another replica.", lambda: engine.counters.retries)
        self.watch("restore_devices", "Devices, or replicas, that work.", lambda: engine.worker_count)
        self.watch_sizes("restore_batch_size", "Tiles in a batch.", lambda: engine.counters.batch_sizes)
        self.watch_kinds(
            "restore_rejections", "Tiles refused, by reason.", "reason", lambda: engine.counters.rejections
        )
        self.watch(
            "restore_models_unavailable",
            "Models in the repository that cannot be served.",
            lambda: sum(status.state == "unavailable" for status in engine.statuses()),
        )

    def watch_jobs(self, worker: Worker) -> None:
        """Add how many jobs wait and run, and how many ended in which state."""
        for state, meaning in (("queued", "wait"), ("running", "run")):
            self.watch(f"restore_jobs_{state}", f"Jobs that {meaning}.", functools.partial(_read_count, worker, state))
        for state in ("succeeded", "failed", "cancelled"):
            meaning = f"Jobs that ended so since the start: {state}."
            self.watch(f"restore_jobs_{state}", meaning, functools.partial(worker.finished_counts.__getitem__, state))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Read(Collector):
    """A metric that is made when it is asked for."""

    def __init__(self, collect: Callable[[], Metric]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        yield self._collect()


def _read_count(worker: Worker, state: str) -> float:
    return worker.counts.get(state, 0)
