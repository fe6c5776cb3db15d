"""The service with a simulated device: `python -m benchmarks.simulated_service`.

This is the whole service (HTTP, forms, codecs, tiles, scheduler) with the published models' manifests, but without
TensorFlow: a model sleeps FIXED_S per batch plus SECONDS_PER_MEGAPIXEL, and returns its input, enlarged if needed. This
shows waiting times, batch sizes and memory independently of the speed of the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import uvicorn

from app import settings as configuration
from app.api.server import Server, ignore_signals
from app.engine.loader import Model
from app.engine.local import LocalEngine
from app.engine.protocol import Arrays
from app.engine.registry import Registry
from app.main import create_app
from app.settings import Settings
from models.manifest import Manifest

PUBLISHED = Path(__file__).resolve().parent.parent / "models" / "published"
FIXED_S = 0.004
SECONDS_PER_MEGAPIXEL = 0.1


class SimulatedModel:
    """A model that takes a given time and returns its input."""

    def __init__(self, manifest: Manifest, fixed: float, per_megapixel: float) -> None:
        self._scales = {name: signature.scale for name, signature in manifest.signatures.items()}
        self._fixed = fixed
        self._per_megapixel = per_megapixel

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        image = inputs["image"]
        time.sleep(self._fixed + self._per_megapixel * image.size / image.shape[-1] / 1e6)
        if signature == "estimate":
            return {"level": np.zeros((len(image), 1, 1, 1), np.float32)}
        scale = self._scales[signature]
        return {"image": image.repeat(scale, axis=1).repeat(scale, axis=2)}


class SimulatedLoader:
    """Loads a Costed for any manifest of denoising or super-resolution."""

    def __init__(self, fixed: float = FIXED_S, per_megapixel: float = SECONDS_PER_MEGAPIXEL) -> None:
        self._fixed = fixed
        self._per_megapixel = per_megapixel

    devices = ("CPU:0",)

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:  # noqa: ARG002
        return []

    def size(self, folder: Path) -> int:  # noqa: ARG002
        return 0

    def unload(self, model: Model) -> None:
        pass

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:  # noqa: ARG002
        return SimulatedModel(manifest, self._fixed, self._per_megapixel)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fixed", type=float, default=FIXED_S, help="seconds per batch")
    arguments.add_argument(
        "--per-megapixel", type=float, default=SECONDS_PER_MEGAPIXEL, help="additional seconds per megapixel"
    )
    options = arguments.parse_args()
    settings = configuration.read()
    with tempfile.TemporaryDirectory() as root:
        for task in ("denoise", "superres"):
            (Path(root) / task).symlink_to(PUBLISHED / task)
        serve(settings, Registry([Path(root)], SimulatedLoader(options.fixed, options.per_megapixel)))


def serve(settings: Settings, registry: Registry) -> None:
    """Serve the models of `registry` until a signal comes."""
    engine = LocalEngine(registry, max_batch=settings.max_batch, max_megapixels=settings.queue_megapixels)
    app = create_app(settings, engine=engine)
    config = uvicorn.Config(app, settings.host, settings.port, log_config=None, access_log=False)
    ignore_signals()
    Server(config, app.state.shutdown, settings, lambda: None, app.state.metrics.count_malformed).run()


if __name__ == "__main__":
    main()
