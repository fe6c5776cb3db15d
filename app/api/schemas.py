"""Every JSON answer of the service as a pydantic model: the schemas of the OpenAPI document.

Handlers write their answers themselves; a test holds each answer against its schema.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.manifest import Manifest, Precision, QualityTable

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Link = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """What went wrong (RFC 9457)."""

    type: Link = Field(description="Link to what the problem means.")
    title: str = Field(description="The problem in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong, the value, the limit.")
    instance: str = Field(description="The request id; in a job, its id.")
    field: str | None = Field(None, description="The field or header that it is about.")
    value: Any = Field(None, description="What was given.")
    limit: Any = Field(None, description="What is allowed.")
    retry_after: int | None = Field(None, description="Seconds to wait, also in `Retry-After`.")


class _Facts(_Answer):
    width: int = Field(ge=1, description="Width of the result, in pixels.")
    height: int = Field(ge=1, description="Height of the result, in pixels.")
    model: str = Field(description="As `X-Model`.", examples=["denoise/photo@1"])
    applied: dict[str, str] = Field(description="As `X-Applied`.")
    timing: dict[str, float] = Field(description="Milliseconds by stage.")


class ImageResult(_Facts):
    """The picture in base64, for clients that cannot take a binary body (`Accept: application/json`)."""

    image: str = Field(description="The picture, in base64.", json_schema_extra={"contentEncoding": "base64"})
    content_type: str = Field(description="The media type of `image`.", examples=["image/png"])


class SegmentClass(_Answer):
    """One class of a segmented picture."""

    id: int = Field(ge=0, le=255, description="As in the mask.")
    name: str = Field(description="The class.")
    color: str = Field(pattern="^#[0-9a-f]{6}$", description="As in mask and overlay.")
    pixels: int = Field(ge=0, description="How many pixels are of the class.")
    fraction: float = Field(ge=0, le=1, description="Their share.")
    box: list[int] | None = Field(description="Left, top, right and bottom of what holds them all, ends excluded.")


class SegmentTable(_Facts):
    """What `/segment` answers for `output=json`."""

    classes: list[SegmentClass]


class StylePreset(_Answer):
    """A preset of `/stylize`."""

    name: str = Field(description="The value of the field `style`.")
    title: str = Field(description="The work's.")
    artist: str = Field(description="Who made it.")
    year: str = Field(description="When.")
    painting: str | None = Field(description="Path of a photograph painted in it.")


class StyleList(_Answer):
    """The presets of `/stylize`."""

    model: str | None = Field(description="The model that has them.", examples=["stylize/any@1"])
    styles: list[StylePreset]


class Job(_Answer):
    """Work in the background."""

    id: str = Field(pattern="^[0-9a-f]{32}$", description="128 random bits.")
    task: str = Field(description="What is done.", examples=["superres"])
    state: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] = Field(
        description="One that is interrupted is queued again."
    )
    options: dict[str, Any] = Field(description="The form's fields, as far as they were sent.")
    created: Time = Field(description="When it was sent.")
    started: Time | None = Field(description="When it was begun.")
    finished: Time | None = Field(description="When it was over.")
    expires: Time | None = Field(description="When it and its result are erased.")
    place: Annotated[int, Field(ge=1)] | None = Field(description="Its place in the queue; 1 is the next.")
    progress: float = Field(ge=0, le=1, description="How much is done.")
    done: int = Field(ge=0, description="Tiles or steps that are done.")
    all: int = Field(ge=0, description="Tiles or steps in all; 0 before that is known.")
    eta: float | None = Field(description="Estimated seconds to its end.")
    problem: Problem | None = Field(description="Why it failed.")
    links: dict[str, Link] = Field(description="`self`, `events`, and `result` once there is one.")


class JobList(_Answer):
    """The client's jobs, newest first."""

    jobs: list[Job]


class Model(_Answer):
    """A version of a model. What its manifest says is absent where the manifest cannot be read."""

    id: str = Field(description="task/name@version, as in `X-Model`.")
    task: str
    name: str
    version: int
    default: bool = Field(description="Whether it is its task's default.")
    latest: bool = Field(description="Whether its name without a version means it.")
    state: Literal["unloaded", "loaded", "unavailable"]
    card: Link = Field(description="Path of its card.")
    title: str | None = None
    description: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    flops_per_pixel: int | None = None
    licence: str | None = None
    created: Annotated[datetime.date, Field()] | None = None
    precision: list[Precision] | None = Field(None, description="What it is computed with here.")
    precisions: list[Precision] | None = Field(None, description="What it can be computed with.")
    scales: list[int] | None = Field(None, description="Output size over input size, of each signature.")
    device: str | None = Field(None, description="Where it is loaded.")
    mebibytes_per_megapixel: float | None = None
    quality: list[QualityTable] | None = Field(None, description="What was measured, and with which command.")


class ModelList(_Answer):
    """Every version of every model."""

    models: list[Model]


class ModelCard(Model):
    """A version of a model with its manifest, and the versions of its name."""

    manifest: Manifest | None = None
    versions: list[int]


class Liveness(_Answer):
    status: Literal["alive"]


class Readiness(_Answer):
    """Whether each task's default model works."""

    status: Literal["ready", "not ready", "stopping"]
    tasks: dict[str, str] = Field({}, description="`ready`, or why not, by task.")
