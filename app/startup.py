"""Startup: the engine, and the models that are loaded before the first request."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from app.api.readiness import ReadinessProbe
from app.engine.latency_model import LatencyModel
from app.engine.local import LocalEngine
from app.engine.precision import (
    MeasuredPrecisions,
    PrecisionSetting,
    bfloat16_speed,
    has_bfloat16,
    processor_name,
)
from app.engine.protocol import ModelServer
from app.engine.ray import Cluster, RayEngine
from app.engine.registry import Registry
from app.errors import ServiceError
from app.imaging.decoder_pool import DecoderPool, is_supported
from app.imaging.warmup import compile_loops
from app.settings import Settings
from models.manifest import Manifest

LATENCY_SAVE_S = 300.0

PRECISION_FILE = "precision.json"
"""The file in `RESTORE_DATA_DIR` with the precisions that were measured to be the fastest."""

log = structlog.get_logger("restore.startup")


def start_engine(settings: Settings) -> ModelServer:
    """Return the engine that the settings name. Takes seconds. Raises ClusterError."""
    return _join_cluster(settings) if settings.engine == "ray" else _start_tensorflow(settings)


def make_decoders(settings: Settings) -> DecoderPool | None:
    """Return the decoder processes that the settings name, not started yet; None to decode in this process."""
    if settings.decoders and is_supported():
        return DecoderPool(
            settings.decoders, memory_bytes=settings.decoder_mb * 2**20, timeout_s=settings.decoder_timeout_s
        )
    log.warning("decoding in this process", reason="RESTORE_DECODERS=0" if not settings.decoders else "not on Linux")
    return None


def _start_tensorflow(settings: Settings) -> LocalEngine:
    """Return the engine of this machine. TensorFlow is imported here."""
    with _timed_step("starting TensorFlow"):
        from app.engine.tensorflow_runtime import Runtime

        runtime = Runtime()
    folders = ", ".join(str(folder) for folder in settings.models_dir)
    with _timed_step(f"checking the models in {folders}"):
        registry = Registry(
            settings.models_dir, runtime, budget=settings.models_mb * 2**20, defaults=settings.default_models
        )
    return LocalEngine(
        registry,
        max_batch=settings.max_batch,
        max_megapixels=settings.queue_megapixels,
        max_concurrent_batches=runtime.max_concurrent_batches,
        accelerated=runtime.device != "CPU",
        tile_mebibytes=settings.tile_mb,
        device=runtime.device,
        latency=LatencyModel(f"{runtime.device}, {platform.machine()}, {os.cpu_count()} cores"),
        precision=_choose_precision(settings, on_cpu=runtime.device == "CPU"),
        bfloat16=bfloat16_speed() if runtime.device == "CPU" else "unknown",
        measured=MeasuredPrecisions(
            settings.data_dir / PRECISION_FILE, f"{runtime.device}, {processor_name()}, {os.cpu_count()} cores"
        ),
    )


def _choose_precision(settings: Settings, *, on_cpu: bool) -> PrecisionSetting:
    if settings.precision == "bfloat16" and not (on_cpu and has_bfloat16()):
        log.warning("bfloat16 needs a processor with AVX-512; float32 is used")
        return "float32"
    return settings.precision


def _join_cluster(settings: Settings) -> RayEngine:
    """Return the engine of a Ray cluster. Takes up to a minute where no replica works yet. Raises ClusterError."""
    cluster = Cluster(settings.ray_address, settings.ray_replicas, settings.ray_cpus, settings.ray_gpus)
    with _timed_step("starting replicas on Ray"):
        return RayEngine(
            settings.models_dir,
            cluster,
            preload=settings.preload,
            defaults=settings.default_models,
            max_batch=settings.max_batch,
            max_megapixels=settings.queue_megapixels,
            budget=settings.models_mb * 2**20,
            precision=settings.precision,
            tile_mebibytes=settings.tile_mb,
        )


async def keep_models_current(engine: ModelServer, settings: Settings, readiness: ReadinessProbe) -> None:
    """Load and warm up the models to preload, then follow the model repository until cancelled."""
    try:
        await _preload(engine, settings.preload, readiness)
    except Exception:  # a bug: what is served goes on, and so does the rest of this task
        log.exception("preloading failed")
        readiness.warming = False
    while settings.reload_s:
        await asyncio.sleep(settings.reload_s)
        try:
            await engine.refresh()
        except Exception:  # a disk that is away for a while, or a bug: what is served goes on
            log.exception("model repository not readable")


async def save_latencies(latency: LatencyModel, path: Path) -> None:
    """Save the measured latencies every LATENCY_SAVE_S seconds until cancelled, for a start after a crash."""
    while True:
        await asyncio.sleep(LATENCY_SAVE_S)
        await asyncio.to_thread(latency.save, path)


async def _preload(engine: ModelServer, wanted: tuple[str, ...], readiness: ReadinessProbe) -> None:
    """Load and warm up the models in `wanted`, and print a line for each. One that fails does not stop the others."""
    started = time.perf_counter()
    await _compile_loops()
    for manifest in _find_models(engine, wanted):
        begun = time.perf_counter()
        try:
            await engine.warm(manifest, keep=True)
        except ServiceError as error:
            print_line(f"loading {manifest.id} … failed: {error.detail}")
        except Exception:
            log.exception("warm-up failed", model=manifest.id)
            print_line(f"loading {manifest.id} … failed")
        else:
            print_line(f"loading {manifest.id} … {time.perf_counter() - begun:.1f} s")
    readiness.warming = False
    results = await readiness.check()
    for task, result in results.items():
        print_line(f"{task}: {'ready' if result.ready else result.reason}")
    if not results:
        print_line("no models found; set RESTORE_MODELS_DIR, or train one (docs/add-a-model.md)")
    print_line(f"warm after {time.perf_counter() - started:.1f} s")


async def _compile_loops() -> None:
    """Compile what tasks run besides models. If that fails, so do the requests that need it, and no others."""
    begun = time.perf_counter()
    try:
        await asyncio.to_thread(compile_loops)
    except Exception:
        log.exception("compiling failed")
    print_line(f"compiling loops … {time.perf_counter() - begun:.1f} s")


def _find_models(engine: ModelServer, wanted: tuple[str, ...]) -> list[Manifest]:
    chosen: dict[str, Manifest] = {}
    for entry in wanted:
        if entry == "defaults":
            chosen |= {manifest.id: manifest for manifest in engine.defaults()}
            continue
        task, _, name = entry.partition("/")
        try:
            manifest = engine.find(task, name or None)
            chosen[manifest.id] = manifest
        except ServiceError as error:
            print_line(f"cannot preload {entry}: {error.detail}")
    return list(chosen.values())


def print_line(text: str, end: str = "\n") -> None:
    """Print to standard output. Does nothing if it cannot be written to: a full disk, a closed pipe, no output."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.write(text + end)
        sys.stdout.flush()


@contextmanager
def _timed_step(name: str) -> Iterator[None]:
    """Print the name of a step that takes a while, and then how long it took."""
    print_line(f"{name} … ", end="")
    begun = time.perf_counter()
    yield
    print_line(f"{time.perf_counter() - begun:.1f} s")
