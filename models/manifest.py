"""The model contract: what a published model says of itself, checked.

A manifest is the only place for numbers about a model. `training` writes it, `app` reads it, and neither knows
the other. The JSON schema beside this file (`manifest.schema.json`) is generated from these classes
(`python -m models.manifest > models/manifest.schema.json`); a test holds the two together.

Pictures are float32, NHWC, in [0, 1], with free batch, height and width. A size of -1 in a shape is free.
"""

from __future__ import annotations

import datetime
import errno
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.sizes import nearest_size

MANIFEST_NAME = "manifest.json"

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=64)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["float32", "bfloat16", "float16"]
Positive = Annotated[int, Field(gt=0)]


class ManifestError(ValueError):
    """A manifest that breaks the contract. `problems` lists every breach, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[Mapping[str, str]] = {}
    """{key of manifests of 0.1: its name now}; those are read for as long as `schema_version` is 1."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_keys(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        for old, new in cls.renamed.items():
            if old in data and new in data:
                raise ValueError(f"{old} is the old name of {new}; keep only {new}")
        return {cls.renamed.get(key, key): value for key, value in data.items()}


class Tensor(_Part):
    """One input or output of a signature.

    `per` is `tile` for a tensor with the height and width of a tile, and `sample` for one with a value or vector per
    picture, so that requests with different values can share a batch.
    """

    dtype: Literal["float32"] = "float32"
    shape: list[int] = Field(min_length=2, max_length=4)
    range: tuple[float, float] | None = None
    per: Literal["tile", "sample"] = "tile"
    meaning: str = ""

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.shape[0] != -1:
            raise ValueError("the first dimension of a shape is the batch size and must be -1")
        if any(size < 1 and size != -1 for size in self.shape):
            raise ValueError("dimensions must be positive, or -1 for any size")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("the first value of a range must be less than the second")
        return self

    def shape_at(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of a batch of one for a tile of `size` (height, width)."""
        free = iter(size if self.per == "tile" else ())
        return (1, *(next(free, 1) if length == -1 else length for length in self.shape[1:]))


class Signature(_Part):
    """A function of the SavedModel: `scale` is output size over input size.

    `bfloat16` says that the convolutions and matrix products of this function may be computed in bfloat16, with float32
    inputs and outputs and the same weights. `precisions` are further functions {precision: name} of the SavedModel with
    the same float32 inputs and outputs that compute in another precision. The service decides which of them it uses.
    """

    renamed = {"variants": "precisions"}

    inputs: dict[str, Tensor] = Field(min_length=1)
    outputs: dict[str, Tensor] = Field(min_length=1)
    scale: Positive = 1
    precision: Precision = "float32"
    precisions: dict[Precision, str] = {}
    bfloat16: bool = False

    @model_validator(mode="after")
    def _check_precisions(self) -> Self:
        if self.precision in self.precisions:
            raise ValueError(f"precisions: {self.precision} is already the precision of the signature")
        if self.bfloat16 and (self.precision != "float32" or "bfloat16" in self.precisions):
            raise ValueError("bfloat16 needs a float32 signature without a function for bfloat16 in precisions")
        return self

    def at(self, precision: Precision) -> Self:
        """Return the same signature computed with another precision."""
        return self.model_copy(update={"precision": precision})


class SizeRule(_Part):
    """Sizes `n` that a network accepts: n ≡ `remainder` (mod `modulus`)."""

    modulus: Positive
    remainder: Annotated[int, Field(ge=0)] = 0


class Geometry(_Part):
    """How a picture is adapted to the input sizes of the network.

    * `tiled`: split into overlapping tiles. `halo` is the number of surrounding pixels that affect a result, measured
      at export; tiles begin and end at multiples of `multiple`, and their sides are multiples of `tile_step`: up to
      `tile_size`, or more for a large picture.
    * `canonical`: the whole picture is scaled to one of `canonical_sizes` (height, width), and the result scaled back.
    * `fixed`: only pictures of `valid_sizes` are accepted; others get the problem `wrong-size`.
    * `whole`: the whole picture in one piece, if its sides meet `size_rule`.
    """

    kind: Literal["tiled", "canonical", "fixed", "whole"]
    halo: Annotated[int, Field(ge=0)] = 0
    multiple: Positive = 1
    tile_size: Annotated[int, Field(ge=0)] = 0
    tile_step: Positive = 1
    canonical_sizes: list[tuple[Positive, Positive]] = []
    valid_sizes: list[tuple[Positive, Positive]] = []
    size_rule: SizeRule | None = None
    tolerance: Annotated[float, Field(ge=0)] = 5e-4

    @property
    def margin(self) -> int:
        """What a tile has of its neighbours on each side: the halo, rounded up to whole multiples."""
        return -(-self.halo // self.multiple) * self.multiple

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the canonical size (height, width) whose aspect ratio is nearest to that of a picture."""
        return nearest_size(self.canonical_sizes, height, width)

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        needs: dict[str, Any] = {
            "tiled": self.tile_size,
            "canonical": self.canonical_sizes,
            "fixed": self.valid_sizes,
            "whole": True,
        }
        if not needs[self.kind]:
            field = {"tiled": "tile_size", "canonical": "canonical_sizes", "fixed": "valid_sizes"}[self.kind]
            raise ValueError(f"geometry of kind {self.kind} requires {field}")
        if self.kind == "tiled":
            if self.tile_size % self.tile_step or self.tile_step % self.multiple:
                raise ValueError(
                    f"tile_size {self.tile_size} must be a multiple of tile_step {self.tile_step}, "
                    f"and tile_step a multiple of {self.multiple}"
                )
            if self.tile_size <= 2 * self.margin:
                raise ValueError(f"tile_size {self.tile_size} must be greater than twice the margin of {self.margin}")
        return self


class Class(_Part):
    """A class that a segmentation model detects."""

    id: Annotated[int, Field(ge=0, le=255)]
    name: str
    color: tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ]


class Style(_Part):
    """A style preset. The signature `preset` takes its index in the list."""

    name: Name
    title: str
    artist: str
    year: str


class QualityTable(_Part):
    """A table of measured quality. `command` reproduces it."""

    title: str
    command: str
    columns: list[str] = Field(min_length=1)
    rows: list[list[str | float]] = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("each row must have one cell per column")
        return self


class Start(_Part):
    """Other people's weights that a training started from; `licence_file` is the text of their licence."""

    name: str
    licence: str
    licence_file: str


class Provenance(_Part):
    """How the model was trained. `recipe_digest` and `data` are the SHA-256 of the recipe and of each data pack."""

    recipe: str
    recipe_digest: Digest
    data: dict[str, Digest]
    command: str
    hours: Annotated[float, Field(ge=0)]
    device: str
    seed: int
    steps: Annotated[int, Field(ge=0)]
    started_from: str = ""
    precision: str = "float32"
    starts: list[Start] = []


class Serving(_Part):
    """Limits for serving. The largest of `batch_sizes` is the maximum batch size; the service measures the best one."""

    batch_sizes: list[Positive] = [1]
    mebibytes_per_megapixel: Annotated[float, Field(gt=0)]


MAX_LOSS = {"psnr": 0.1, "iou": 0.3}
"""What 8 bit may cost by the kind of figure: dB, and per cent of IoU."""


def kind_of(figure: str) -> str | None:
    """Return the key of MAX_LOSS that says what `figure` (`psnr25`, `iou`) may lose; None where nothing does."""
    return next((kind for kind in MAX_LOSS if figure.startswith(kind)), None)


def excessive_losses(figures: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return what is wrong with {figure: (float32's, 8 bit's)}: those that lose too much, one sentence each."""
    problems = []
    for name, (before, after) in figures.items():
        kind = kind_of(name)
        if kind is None:
            problems.append(f"there is no limit for the loss of {name}")
        elif not before - after < MAX_LOSS[kind]:
            problems.append(f"{name} falls from {before:.3f} to {after:.3f}; it must lose less than {MAX_LOSS[kind]}")
    return problems


class QuantizedSignature(_Part):
    """A signature quantized to 8 bit, as a LiteRT file. The service uses it for batches of one if it is faster.

    `file` has a signature `<height>x<width>` for each of `sizes`, with the input and output names of `signature`.
    Weights are int8 with one scale per channel. Activations are int8, too: with ranges measured on training pictures
    (`int8`), or at run time (`dynamic`). `figures` are the quality of the SavedModel and of this file on pictures
    outside the training data. `faster` is the speedup on the machine that created the file. `operators` are the LiteRT
    operators in the file.
    """

    signature: str
    file: str
    bytes: Positive
    precision: Literal["int8", "dynamic"]
    sizes: list[tuple[Positive, Positive]] = Field(min_length=1)
    figures: dict[str, tuple[float, float]] = Field(min_length=1)
    faster: Annotated[float, Field(gt=0)]
    operators: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        problems = excessive_losses(self.figures)
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Manifest(_Part):
    """`manifest.json` of a model version: what the model computes, and what the service needs to run it."""

    renamed = {"variants": "quantized"}

    schema_version: Literal[1] = 1
    task: Name
    name: Name
    version: Positive
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)
    created: datetime.date
    architecture: str = Field(min_length=1)
    parameters: Positive
    flops_per_pixel: Positive
    licence: str = Field(min_length=1)
    signatures: dict[str, Signature] = Field(min_length=1)
    geometry: Geometry
    classes: list[Class] = []
    styles: list[Style] = []
    defaults: dict[str, str | int | float | bool] = {}
    quality: list[QualityTable] = []
    provenance: Provenance
    files: dict[str, Digest]
    serving: Serving
    operations: list[str] = Field(min_length=1)
    quantized: list[QuantizedSignature] = []

    @property
    def id(self) -> str:
        """`task/name@version`, as in `X-Model`."""
        return f"{self.task}/{self.name}@{self.version}"

    @property
    def versioned_name(self) -> str:
        """`name@version`, as the option `model` takes it."""
        return f"{self.name}@{self.version}"

    @property
    def scales(self) -> dict[int, str]:
        """The signature of each scale, of those that answer with something for every pixel."""
        return {
            signature.scale: name
            for name, signature in self.signatures.items()
            if any(output.per == "tile" for output in signature.outputs.values())
        }

    @property
    def functions(self) -> dict[str, Signature]:
        """Every function of the SavedModel: the signatures, and the same in their other precisions, by name."""
        others = {
            name: signature.at(precision)
            for signature in self.signatures.values()
            for precision, name in signature.precisions.items()
        }
        return {**self.signatures, **others}

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for path in self.files:
            parts = path.split("/")
            if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
                raise ValueError(f"files: {path!r} must be a relative path inside the model's folder")
        if MANIFEST_NAME in self.files:
            raise ValueError(f"files: {MANIFEST_NAME} must not be listed")
        if len({entry.id for entry in self.classes}) != len(self.classes):
            raise ValueError("classes: ids must be unique")
        if len({style.name for style in self.styles}) != len(self.styles):
            raise ValueError("styles: names must be unique")
        if len(self.functions) != sum(1 + len(signature.precisions) for signature in self.signatures.values()):
            raise ValueError("signatures: each function may be listed only once, as a signature or as a precision")
        return self

    @model_validator(mode="after")
    def _check_quantized(self) -> Self:
        if len({one.signature for one in self.quantized}) != len(self.quantized):
            raise ValueError("quantized: each signature may have only one entry")
        for one in self.quantized:
            if one.signature not in self.signatures:
                raise ValueError(f"quantized: there is no signature {one.signature!r}")
            if one.file not in self.files:
                raise ValueError(f"quantized: {one.file!r} is not listed in files")
        return self


def parse(text: str | bytes) -> Manifest:
    """Return the manifest in `text` (JSON). Raises ManifestError that lists all violations."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = []
        for entry in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in entry["loc"]) or "manifest"
            problems.append(f"{where}: {re.sub('^Value error, ', '', entry['msg'])}")
        raise ManifestError(problems) from None


def is_transient(error: OSError) -> bool:
    """Return whether this is of the machine or its network at the moment, and says nothing about a file."""
    return error.errno in _PASSING


def read(folder: Path) -> Manifest:
    """Return the manifest of the model in `folder`. Raises ManifestError, a missing file is one too, or OSError for
    what passes."""
    try:
        text = (folder / MANIFEST_NAME).read_bytes()
    except OSError as error:
        if is_transient(error):
            raise
        raise ManifestError([f"{MANIFEST_NAME}: {error.strerror}"]) from None
    return parse(text)


def write(manifest: Manifest, folder: Path) -> None:
    """Write `manifest` into `folder` as indented JSON."""
    text = json.dumps(manifest.model_dump(mode="json", exclude_defaults=False), indent=2, ensure_ascii=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def schema() -> str:
    """Return the contract as JSON schema text."""
    return json.dumps(Manifest.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
