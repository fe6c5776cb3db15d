"""`Task`: the options of a task, the function that runs it, and what the service needs to offer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.engine.protocol import Engine
from app.imaging.picture import Picture
from models.manifest import Manifest

O = TypeVar("O", bound="TaskOptions")  # noqa: E741


class Size(NamedTuple):
    """Width and height of a picture in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width × height."""
        return self.width * self.height


Sizes = Mapping[str, Size]
"""Sizes of the pictures of a request as stored (EXIF orientation is not applied), by field."""


class TaskOptions(BaseModel):
    """The options of a task, for its form, its jobs and its function.

    Values are validated only here: a value out of range is a pydantic ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(
        "",
        max_length=140,
        description="Model to use, as `name` or `name@version`; `GET /models` lists them. Empty: the default model of "
        "the task.",
        examples=[""],
    )

    @property
    def model_name(self) -> str | None:
        """The name of the model, or None for the default of the task."""
        return self.model.strip() or None

    @property
    def needs_model(self) -> bool:
        """Whether a model must be found for these options."""
        return True

    @property
    def uses_device(self) -> bool:
        """Whether a model may run, even if the options do not name one."""
        return True

    @property
    def work_kind(self) -> str:
        """What kind of work the options ask for, if there are several: their device time is estimated separately."""
        return ""

    @property
    def scale_factor(self) -> int:
        """Width and height of the result divided by those of the picture."""
        return 1

    def model_size(self, size: Size) -> Size:
        """Return the size at which a tiled model gets a picture of `size`."""
        return size

    @property
    def returns_table(self) -> bool:
        """Whether the result is a table in JSON instead of a picture."""
        return False


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The result of a task. `model` is the id of its manifest, or empty if no model was used; `decisions` are settings
    that the task chose, as in `X-Applied`; `seconds` is the duration of each stage.

    `warnings` are sentences about results that are probably not what was meant.

    If there is a `table` (as JSON types), it is the response, and `picture` is the picture that it describes.
    """

    picture: Picture
    model: str
    decisions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    table: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def _check_nothing(options: Any, sizes: Sizes, engine: Engine) -> None:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(Generic[O]):
    """One task and its endpoint `POST /{name}`, or `POST /{endpoint}` if there is one.

    * `run(picture, options, engine, context, **pictures)` runs the task. `pictures` has the other pictures that were
      sent, by form field.
    * `pictures` are the optional file fields besides `image`, with their descriptions.
    * `check` raises errors in the options, the picture sizes and the choice of the model that can be found before a
      picture is decoded.
    * `outline` returns a picture with the channels, depth and alpha of the result, of any size, so that an output
      format that cannot store the result is rejected before the task runs.
    * `probe` returns the options and other pictures with which the readiness probe runs a model on a picture.
    * `shortcuts` are the same task under other endpoints, with other options. Their requests and jobs are those of the
      task: the options they are made of must be complete, for the task's own form to read.
    * `problems` are the slugs of problems of this endpoint, in addition to those of all picture endpoints.
    """

    name: str
    summary: str
    options: type[O]
    run: Callable[..., Awaitable[TaskResult]]
    probe: Callable[[Manifest, Picture], tuple[O, dict[str, Picture]]]
    check: Callable[[O, Sizes, Engine], object] = _check_nothing
    outline: Callable[[O, Mapping[str, Picture]], Picture] = lambda _, pictures: pictures["image"]
    pictures: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    description: str = ""
    endpoint: str = ""
    shortcuts: tuple[Task[Any], ...] = ()

    @property
    def path(self) -> str:
        """The last part of the endpoint's path, also the name of its operation."""
        return self.endpoint or self.name
