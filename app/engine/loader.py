"""The interface between the engine and whatever brings models into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from app.engine.protocol import Arrays
from models.manifest import Manifest


class Model(Protocol):
    """A model in memory. Several threads call it at once where a device runs several batches at once."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name, float32; raises Overloaded or ModelUnavailable.

        `signature` is the name of one, or of a function that computes it in another precision (`precision`)."""


class Loader(Protocol):
    """Checks, loads and unloads models: `tensorflow_runtime.Runtime`."""

    @property
    def devices(self) -> Sequence[str]:
        """What models can be loaded on, the default first; never empty."""

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the model's graph, without loading it."""

    def size(self, folder: Path) -> int:
        """Return about how many bytes of memory the model takes once it is loaded."""

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
        """Return the model in memory; raises ModelUnavailable, or Overloaded where there is too little of it now."""

    def unload(self, model: Any) -> None:
        """Free the memory of a model that `load` returned; it is not called again."""
