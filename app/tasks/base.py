"""What a task is: its options, what it does to a picture, and what the service has to know to offer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.engine.protocol import Engine
from app.imaging.picture import Picture
from models.manifest import Manifest

O = TypeVar("O", bound="TaskOptions")  # noqa: E741

Sizes = Mapping[str, int]
"""Pixels of the pictures of a request, by field."""


class TaskOptions(BaseModel):
    """The options of a task: the fields of its form, of a job and of its function in Python alike.

    Values are checked here and nowhere else: a value out of range is a pydantic ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(
        "",
        max_length=140,
        description="Model by `name`, or `name@version`, as `GET /models` lists them. Empty: the task's default.",
        examples=[""],
    )

    @property
    def model_name(self) -> str | None:
        """The model that was named, None for the task's default."""
        return self.model.strip() or None

    @property
    def needs_model(self) -> bool:
        """Whether the answer comes from a model."""
        return True

    @property
    def uses_device(self) -> bool:
        """Whether the answer may come from a model, even one that the options do not name."""
        return True

    @property
    def scale_factor(self) -> int:
        """How many times wider and higher the result is."""
        return 1

    @property
    def returns_table(self) -> bool:
        """Whether the answer is a table in JSON instead of a picture."""
        return False


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task returns. `model` is a manifest's id, empty where no model was used; `decisions` is what was decided
    for the client, as `X-Applied` lists it; `seconds` is the time by stage.

    Where there is a `table`, it is the answer, as JSON, and `picture` is what it describes.
    """

    picture: Picture
    model: str
    decisions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    table: dict[str, Any] | None = None


def _check_nothing(options: Any, sizes: Sizes, engine: Engine) -> None:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(Generic[O]):
    """One task and its endpoint `POST /{name}`.

    * `run(picture, options, engine, context, **pictures)` does it. Further pictures are keyword arguments, named as the
      fields that they come in, only those that came.
    * `pictures` are the optional file fields beside `image`, with their descriptions.
    * `check` raises what is wrong with the options, the sizes of the pictures and the models there are, as far as that
      is known before a picture is decoded.
    * `outline` returns a picture of the kind that the answer will be (its size aside), so that an output format that
      cannot hold it is refused before the work.
    * `probe` returns the options and further pictures with which the readiness probe runs a model on a picture.
    * `problems` are the slugs of problems that only this endpoint answers, beside those of all.
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
