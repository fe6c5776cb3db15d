"""The precision that signatures are computed in: which ones there are, which is used, and what was measured.

A function of the SavedModel goes by its own name, what the runtime derives from a signature by `signature:bfloat16`
(the same function, computed in bfloat16) and `signature:int8` (its LiteRT file). The scheduler and the latency model
see these names, so that a batch is of one precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from app.engine.protocol import Arrays, RequestContext
from app.private_files import open_private
from models.manifest import Manifest

log = structlog.get_logger(__name__)

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PrecisionSetting = Literal["auto", "float32", "bfloat16", "int8"]
BFloat16Speed = Literal["unknown", "slow", "fast", "fastest"]

BFLOAT16, INT8 = ":bfloat16", ":int8"
CPUINFO = Path("/proc/cpuinfo")

_Shapes = frozenset[tuple[str, tuple[int, ...]]]


def has_amx(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor multiplies matrices of bfloat16 (AMX); False where that cannot be read."""
    return "amx_bf16" in _flags(cpuinfo)


def bfloat16_speed(cpuinfo: Path = CPUINFO) -> BFloat16Speed:
    """Return how fast the processor computes in bfloat16: `fastest` of all precisions with AMX, `fast`, about twice as
    fast as in float32, with AVX-512's instructions for it, and else `slow`, slower than in float32. Of an accelerator
    it is unknown."""
    if has_amx(cpuinfo):
        return "fastest"
    return "fast" if "avx512_bf16" in _flags(cpuinfo) else "slow"


def has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether TensorFlow can compute in bfloat16, fast or not: with AVX-512."""
    return "avx512f" in _flags(cpuinfo)


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the model name of the processor; empty where it cannot be read."""
    return next((line.partition(":")[2].strip() for line in _lines(cpuinfo) if line.startswith("model name")), "")


def _flags(cpuinfo: Path) -> set[str]:
    return next((set(line.partition(":")[2].split()) for line in _lines(cpuinfo) if line.startswith("flags")), set())


def _lines(cpuinfo: Path) -> list[str]:
    try:
        return cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []


def functions_of(manifest: Manifest, signature: str) -> dict[Precision, str]:
    """Return {precision: function} of all functions that compute `signature`."""
    described = manifest.signatures[signature]
    found: dict[Precision, str] = {described.precision: signature}
    found.update(described.precisions.items())
    if described.bfloat16:
        found["bfloat16"] = signature + BFLOAT16
    if any(entry.signature == signature for entry in manifest.quantized):
        found["int8"] = signature + INT8
    return found


@dataclass(slots=True)
class PrecisionChoice:
    """The functions that compute a signature, by precision: `own` is that of the signature, `used` that in use.

    `quantized_shapes` are the inputs that the function for int8 takes; others are computed in `rest`.
    """

    own: Precision
    functions: Mapping[Precision, str]
    quantized_shapes: frozenset[_Shapes]
    used: Precision
    rest: Precision

    @classmethod
    def of(cls, manifest: Manifest, signature: str) -> PrecisionChoice:
        """Return those of `signature`, with its own precision in use."""
        described = manifest.signatures[signature]
        shapes = (
            frozenset((name, tensor.shape_at(size)) for name, tensor in described.inputs.items())
            for entry in manifest.quantized
            if entry.signature == signature
            for size in entry.sizes
        )
        own = described.precision
        return cls(own, functions_of(manifest, signature), frozenset(shapes), used=own, rest=own)

    def preferred(self, setting: PrecisionSetting, bfloat16: BFloat16Speed = "unknown") -> Precision | None:
        """Return the precision to use by `setting`, or None where the candidates must be measured."""
        if setting != "auto":
            return setting if setting in self.functions else self.own
        known = self.known_fastest(bfloat16)
        if known == "bfloat16" and bfloat16 == "fastest":
            return known
        return known if len(self.candidates(bfloat16)) == 1 else None

    def known_fastest(self, bfloat16: BFloat16Speed) -> Precision:
        """Return the precision that is the fastest as far as the processor tells: bfloat16 of a signature that has it,
        where that is fast, or the own one."""
        return "bfloat16" if bfloat16 in ("fast", "fastest") and "bfloat16" in self.functions else self.own

    def candidates(self, bfloat16: BFloat16Speed) -> list[Precision]:
        """Return the precisions to measure: the one that is known to be the fastest, and those of which nothing is
        known."""
        known = {self.own} if bfloat16 == "unknown" and not self._derives_bfloat16 else {self.own, "bfloat16"}
        return [self.known_fastest(bfloat16), *(one for one in self.functions if one not in known)]

    @property
    def _derives_bfloat16(self) -> bool:
        return self.functions.get("bfloat16", "").endswith(BFLOAT16)

    def for_request(self, inputs: Arrays, context: RequestContext) -> Precision:
        """Return the precision for a request: float32 for one that must be exact, and `rest` for inputs that the
        function for int8 does not take."""
        if context.exact and "float32" in self.functions:
            return "float32"
        if self.used == "int8":
            shapes = frozenset((name, array.shape) for name, array in inputs.items())
            return "int8" if shapes in self.quantized_shapes else self.rest
        return self.used


class MeasuredPrecisions:
    """Which precision was measured to be the fastest, in the file `path`, so that each model is measured once.

    An answer holds for one model, by its version and files, and for one `processor`. Without `path` nothing is kept.
    """

    def __init__(self, path: Path | None = None, processor: str = "") -> None:
        self._path, self._processor = path, processor
        self._found: dict[str, str] = self._read()

    def get(self, manifest: Manifest, signature: str) -> str | None:
        """Return the precision that was measured to be the fastest, None where it was not measured."""
        return self._found.get(self._key(manifest, signature))

    def keep(self, manifest: Manifest, signature: str, precision: Precision) -> None:
        """Write an answer to the file. A disk error is logged, and the model is measured again at the next start."""
        self._found[self._key(manifest, signature)] = precision
        if self._path is None:
            return
        temporary = self._path.with_name(f"{self._path.name}.new")
        try:
            with open_private(temporary, "w") as file:
                json.dump(self._found, file, indent=1)
            temporary.replace(self._path)
        except OSError as error:
            log.warning("measured precisions not saved", error=error.strerror)

    def _key(self, manifest: Manifest, signature: str) -> str:
        digest = hashlib.sha256("".join(manifest.files[path] for path in sorted(manifest.files)).encode()).hexdigest()
        return f"{manifest.id} {signature} {digest[:16]} {self._processor}"

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
            return {str(key): str(value) for key, value in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError):
            log.warning("measured precisions not read: they are measured again")
            return {}
