"""The metrics of one application, in a registry of its own, named by Prometheus's conventions.

What is counted here is a Counter or a Histogram. What others count (the engine, the job worker) is read at each scrape
by custom collectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api import problems
from app.engine.protocol import ModelServer
from app.imaging.decoder_pool import FAILURES, DecoderPool
from app.jobs.worker import Worker
from app.limits.memory import read_memory_limit, read_proportional_memory
from app.pipeline import ImagePipeline

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)

# `_created` series double the number of series, and no query needs them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts requests, and reads the other metrics from the pipeline, the engine and the job worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files; nothing on systems without /proc
        self.requests = Counter(
            "restore_requests", "Responses sent.", ["path", "method", "status"], registry=self.registry
        )
        self.request_duration = Histogram(
            "restore_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_duration = Histogram(
            "restore_stage_duration_seconds",
            "Time that a request spent in one stage of its processing.",
            ["task", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.problems = Counter(
            "restore_problems", "Error responses sent, by problem.", ["slug"], registry=self.registry
        )
        for row in problems.TABLE:
            # From 0 on: a counter that begins at 1 has not increased, and its first error would not be alerted.
            self.problems.labels(row.slug)
        self.pixels = Counter(
            "restore_input_pixels", "Pixels of decoded input images.", ["task"], registry=self.registry
        )
        self.active = Gauge("restore_requests_active", "Requests being processed.", registry=self.registry)
        self.watch(_collect_memory)

    def watch(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Add the metrics that `collect` returns at each scrape."""
        self.registry.register(_CallbackCollector(collect))

    def count_malformed(self, slug: str) -> None:
        """Count a response to what is not a request, so that no path or method is known."""
        problem = problems.BY_SLUG[slug]
        self.requests.labels("other", "other", problem.status).inc()
        self.problems.labels(slug).inc()

    def count_pixels(self, task: str, pixels: int) -> None:
        """Count the pixels of a decoded picture."""
        self.pixels.labels(task).inc(pixels)

    def observe_stage(self, task: str, stage: str, seconds: float) -> None:
        """Record how long a stage of a request took."""
        self.stage_duration.labels(task, stage).observe(seconds)

    def watch_pipeline(self, pipeline: ImagePipeline) -> None:
        """Add what waits for memory and for the device."""

        def collect() -> Iterable[Metric]:
            budget, admission = pipeline.budget, pipeline.admission
            yield gauge("restore_decoded_pixels", "Pixels held decoded in memory.", round(budget.used * 1e6))
            yield gauge("restore_requests_waiting", "Requests waiting for memory to be decoded.", budget.waiting)
            yield gauge(
                "restore_pending_work_seconds",
                "Estimated device time that admitted requests still need.",
                admission.seconds,
            )

        self.watch(collect)

    def watch_decoders(self, decoders: DecoderPool | None) -> None:
        """Add what the decoder processes use, and how often one failed; zeros if there are none."""

        def collect() -> Iterable[Metric]:
            pids = [] if decoders is None else [pid for pid in (decoders.server_pid, *decoders.pids) if pid is not None]
            failures = dict.fromkeys(FAILURES, 0) | (dict(decoders.failures) if decoders is not None else {})
            used = 0 if decoders is None else decoders.queue.used
            yield gauge("restore_decoders_used", "Decoder processes that work on a file.", used)
            yield gauge(
                "restore_decoder_memory_bytes",
                "Memory of all decoder processes together.",
                sum(map(read_proportional_memory, pids)),
            )
            yield counter(
                "restore_decoder_failures", "Decoder processes that ended while they decoded.", failures, "reason"
            )

        self.watch(collect)

    def watch_engine(self, engine: ModelServer) -> None:
        """Add what the devices have done, and what waits for them."""

        def collect() -> Iterable[Metric]:
            devices, total = engine.devices, engine.counters
            counts = {name: stats.counters for name, stats in devices.items()}
            yield gauge(
                "restore_queue_tiles",
                "Tiles waiting for a device.",
                {name: stats.depth for name, stats in devices.items()},
                "device",
            )
            yield gauge(
                "restore_queue_pixels",
                "Pixels of the tiles waiting for a device.",
                {name: round(stats.megapixels * 1e6) for name, stats in devices.items()},
                "device",
            )
            yield counter(
                "restore_device_busy_seconds",
                "Time that a device was busy.",
                {name: one.busy_seconds for name, one in counts.items()},
                "device",
            )
            yield counter(
                "restore_device_tiles",
                "Tiles computed by a device.",
                {name: one.requests for name, one in counts.items()},
                "device",
            )
            yield counter(
                "restore_device_batches",
                "Batches computed by a device.",
                {name: one.batches for name, one in counts.items()},
                "device",
            )
            yield counter(
                "restore_device_failures",
                "Tiles that failed on a device.",
                {name: one.failures for name, one in counts.items()},
                "device",
            )
            yield counter("restore_device_retries", "Tiles sent again after their replica died.", total.retries)
            yield counter("restore_rejections", "Tiles rejected by the scheduler.", total.rejections, "reason")
            yield histogram("restore_batch_size", "Tiles per batch.", total.batch_sizes, _BATCH_SIZES)
            yield gauge("restore_devices", "Devices or replicas in use.", engine.worker_count)
            yield gauge(
                "restore_models_unavailable",
                "Models in the repository that cannot be served.",
                sum(status.state == "unavailable" for status in engine.statuses()),
            )

        self.watch(collect)

    def watch_jobs(self, worker: Worker) -> None:
        """Add how many jobs wait, run and have finished."""

        def collect() -> Iterable[Metric]:
            yield gauge("restore_jobs_queued", "Jobs waiting to start.", worker.counts.get("queued", 0))
            yield gauge("restore_jobs_running", "Jobs running.", worker.counts.get("running", 0))
            states = {state: worker.finished_counts[state] for state in ("succeeded", "failed", "cancelled")}
            yield counter("restore_jobs_finished", "Jobs finished, by final state.", states, "state")

        self.watch(collect)

    def watch_queue_age(self, ages: Mapping[str, Callable[[], float]]) -> None:
        """Add the age in seconds of the oldest entry of each queue, 0 where it is empty."""

        def collect() -> Iterable[Metric]:
            yield gauge(
                "restore_queue_age_seconds",
                "Age of the oldest entry of a queue, 0 if it is empty.",
                {queue: read() for queue, read in ages.items()},
                "queue",
            )

        self.watch(collect)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def gauge(name: str, meaning: str, values: float | Mapping[str, float], label: str = "") -> Metric:
    """Return a gauge with one value, or with a value for each value of `label`."""
    return _fill(GaugeMetricFamily(name, meaning, labels=[label] if label else []), values)


def counter(name: str, meaning: str, values: float | Mapping[str, float], label: str = "") -> Metric:
    """Return a counter, exposed as `name`_total, with one value, or with a value for each value of `label`."""
    return _fill(CounterMetricFamily(name, meaning, labels=[label] if label else []), values)


def histogram(name: str, meaning: str, counts: Mapping[int, int], bounds: Iterable[int]) -> Metric:
    """Return the histogram of `counts`, {value: how often it was observed}, with buckets up to each of `bounds`."""
    buckets = [(str(bound), sum(count for value, count in counts.items() if value <= bound)) for bound in bounds]
    total = sum(value * count for value, count in counts.items())
    return HistogramMetricFamily(name, meaning, [*buckets, ("+Inf", sum(counts.values()))], total)


def _fill(family: GaugeMetricFamily | CounterMetricFamily, values: float | Mapping[str, float]) -> Metric:
    if isinstance(values, Mapping):
        for label, value in sorted(values.items()):
            family.add_metric([label], value)
    else:
        family.add_metric([], values)
    return family


def _collect_memory() -> Iterable[Metric]:
    limit = read_memory_limit()
    if limit is not None:
        meaning = "Memory that the process may use: the limit of its control group, or else the machine's memory."
        yield gauge("restore_memory_limit_bytes", meaning, limit)


class _CallbackCollector(Collector):
    """The metrics that a function returns."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()
