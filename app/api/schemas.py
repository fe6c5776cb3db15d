"""The JSON responses of the service as pydantic models: the schemas of the OpenAPI document.

Handlers build their responses as dictionaries; tests check that each response matches its schema.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.engine.precision import Precision
from models.manifest import Manifest, QualityTable

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Link = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: Link = Field(description="Path of the page that explains the problem.")
    title: str = Field(description="The problem in a few words.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What is wrong with this request, with the value and the limit.")
    instance: str = Field(description="Id of the request, or of the job.")
    field: str | None = Field(None, description="Name of the field or header that caused the problem.")
    value: Any = Field(None, description="Value that was sent or measured.")
    limit: Any = Field(None, description="Limit or allowed values.")
    retry_after: int | None = Field(
        None, description="Seconds to wait before sending the request again, also in `Retry-After`."
    )


class ProblemType(_Answer):
    """One of the problems that this API returns."""

    slug: str = Field(description="Last part of the path in `type`.", examples=["unknown-field"])
    status: int = Field(description="HTTP status.")
    title: str = Field(description="The problem in a few words.")
    meaning: str = Field(description="What happened.")
    remedy: str = Field(description="What to do.")


class ProblemTypeList(_Answer):
    """All problems that this API returns."""

    problems: list[ProblemType]


class _Facts(_Answer):
    width: int = Field(ge=1, description="Width of the result, in pixels.")
    height: int = Field(ge=1, description="Height of the result, in pixels.")
    model: str = Field(description="Model that was used, as in `X-Model`.", examples=["denoise/photo@1"])
    applied: dict[str, str] = Field(
        description="Settings that were used, and what the result could not keep, as in `X-Applied`."
    )
    warnings: list[str] = Field(
        description="What is probably not as it was meant, in sentences: that nothing was found. Usually empty.",
        examples=[["Nothing was found: what was looked for is less than 0.1 % of the picture."]],
    )
    timing: dict[str, float] = Field(description="Duration of each stage, in milliseconds.")


class ImageResult(_Facts):
    """The picture in base64, for clients that cannot receive a binary body (`Accept: application/json`)."""

    image: str = Field(description="The picture, in base64.", json_schema_extra={"contentEncoding": "base64"})
    content_type: str = Field(description="The media type of `image`.", examples=["image/png"])


class SegmentClass(_Answer):
    """One class in a segmented picture."""

    id: int = Field(ge=0, le=255, description="Value of the class in the mask.")
    name: str = Field(description="Name of the class.")
    color: str = Field(pattern="^#[0-9a-f]{6}$", description="Color of the class in mask and overlay.")
    pixels: int = Field(ge=0, description="Number of pixels of the class.")
    fraction: float = Field(ge=0, le=1, description="Share of the picture's pixels.")
    box: list[int] | None = Field(
        description="Bounding box in pixels: left, top, right, bottom, ends excluded. Null if the class does not occur."
    )


class SegmentTable(_Facts):
    """The response of `/segment` with `output=json`."""

    classes: list[SegmentClass]


class StylePreset(_Answer):
    """A style preset of `/stylize`."""

    name: str = Field(description="Value for the field `style`.")
    title: str = Field(description="Title of the painting.")
    artist: str = Field(description="Artist of the painting.")
    year: str = Field(description="Year of the painting.")
    preview: str | None = Field(description="Path of a photo in this style.")
    painting: str | None = Field(description="The same as `preview`, its name before.")
    model: str = Field(description="Model that paints this style by default.", examples=["stylize/presets@1"])


class StyleList(_Answer):
    """The style presets of `/stylize`."""

    model: str | None = Field(
        description="Model that paints the first of these presets by default.", examples=["stylize/presets@1"]
    )
    styles: list[StylePreset]


class Job(_Answer):
    """A request that runs in the background."""

    id: str = Field(pattern="^[0-9a-f]{32}$", description="Random id, 128 bits in hexadecimal.")
    task: str = Field(description="Task of the job.", examples=["superres"])
    state: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] = Field(
        description="State of the job. An interrupted job is queued again."
    )
    options: dict[str, Any] = Field(description="Form fields that were sent.")
    created: Time = Field(description="Time when the job was created.")
    started: Time | None = Field(description="Time when the job was started.")
    finished: Time | None = Field(description="Time when the job finished.")
    expires: Time | None = Field(description="Time when the result is deleted.")
    place: Annotated[int, Field(ge=1)] | None = Field(description="Position in the queue; 1 is next.")
    progress: float = Field(ge=0, le=1, description="Completed share, from 0 to 1.")
    done: int = Field(ge=0, description="Completed tiles or steps.")
    all: int = Field(ge=0, description="Total number of tiles or steps; 0 until it is known.")
    eta: float | None = Field(description="Estimated seconds until the job finishes.")
    problem: Problem | None = Field(description="Why the job failed.")
    links: dict[str, Link] = Field(description="Paths: `self`, `events`, and `result` when the job has succeeded.")


class JobList(_Answer):
    """The client's jobs, newest first."""

    jobs: list[Job]


class Model(_Answer):
    """A version of a model. Fields from its manifest are absent if the manifest cannot be read."""

    id: str = Field(description="`task/name@version`, as in `X-Model`.")
    task: str = Field(description="Task of the model.", examples=["denoise"])
    name: str = Field(description="Name of the model.", examples=["photo"])
    version: int = Field(description="Version of the model.")
    default: bool = Field(description="Whether the task uses this model by default.")
    latest: bool = Field(description="Whether the name without a version refers to this version.")
    state: Literal["unloaded", "loaded", "unavailable"] = Field(
        description="An unloaded model is loaded when it is needed; an unavailable one failed to load."
    )
    card: Link = Field(description="Path of the model card.")
    title: str | None = Field(None, description="Title of the model.")
    description: str | None = Field(None, description="Description of the model.")
    architecture: str | None = Field(None, description="Architecture of the network.")
    parameters: int | None = Field(None, description="Number of parameters.")
    flops_per_pixel: int | None = Field(None, description="Floating-point operations per pixel of the input.")
    licence: str | None = Field(None, description="License of the weights.")
    created: Annotated[datetime.date, Field()] | None = Field(None, description="Date of the export.")
    precision: list[Precision] | None = Field(
        None, description="Precisions that are used on this machine; 16-bit pictures are computed in float32."
    )
    precisions: list[Precision] | None = Field(None, description="Precisions that the model can be computed in.")
    scales: list[int] | None = Field(None, description="Scale factors that the model supports.")
    device: str | None = Field(None, description="Device on which the model is loaded.")
    mebibytes_per_megapixel: float | None = Field(None, description="Memory per megapixel of input, in MiB.")
    quality: list[QualityTable] | None = Field(None, description="Measured quality, and the command that measured it.")


class ModelList(_Answer):
    """All versions of all models."""

    models: list[Model]


class ModelCard(Model):
    """A version of a model with its manifest, and all versions of the same name."""

    manifest: Manifest | None = Field(None, description="The manifest of this version.")
    versions: list[int] = Field(description="All versions with the same name.")


class Limits(_Answer):
    """Limits of the service, from its settings."""

    max_upload_mb: int = Field(description="Largest upload in MB (2^20 bytes).")
    max_pixels: int = Field(description="Most pixels of a picture.")
    max_output_pixels: int = Field(description="Most pixels of a result.")
    job_ttl_h: float = Field(description="Hours for which the results of jobs are kept.")


class Index(_Answer):
    """The service, its limits and its entry points."""

    name: Literal["restore"]
    version: str = Field(description="Version of the service.")
    needs_key: bool = Field(description="Whether requests need an API key.")
    limits: Limits
    links: dict[str, Link] = Field(description="Paths of the entry points.")


class Liveness(_Answer):
    """Whether the process responds."""

    status: Literal["alive"]


class Readiness(_Answer):
    """Whether the default model of each task works."""

    status: Literal["ready", "not ready", "stopping"]
    tasks: dict[str, str] = Field({}, description="For each task, `ready` or the reason why it is not.")
