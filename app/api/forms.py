"""Forms: what each endpoint takes, read from `multipart/form-data`; the same classes describe them in OpenAPI."""

from __future__ import annotations

import difflib
import errno
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.errors import InvalidField, MalformedRequest, MissingField, Overloaded, UnknownField
from app.imaging.codec import Output
from app.pipeline import ImageRequest, Upload
from app.tasks.base import Task, TaskOptions

MAX_PARTS = 32
MAX_TEXT = 64 * 1024


class ImageForm(BaseModel):
    """The options of every picture endpoint on how the result is encoded. The picture itself is the file `image`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: Literal["auto", "png", "jpeg", "webp", "tiff", "avif"] = Field(
        "auto",
        description="Format of the result. `auto`: what `Accept` says, else the input's own format where it can carry "
        "the result (16 bit, transparency, size), else PNG.",
        examples=["auto"],
    )
    quality: int = Field(90, ge=1, le=100, description="Quality of the lossy formats.", examples=[90])
    lossless: bool = Field(False, description="WebP and AVIF without loss.", examples=[False])
    metadata: Literal["keep", "color", "strip"] = Field(
        "keep",
        description="`keep` EXIF, ICC profile and XMP (orientation is applied and reset, the embedded thumbnail "
        "dropped); `color`: the ICC profile only; `strip`: nothing.",
        examples=["keep"],
    )

    @property
    def encoding(self) -> Output:
        """How the result is to be encoded; its format may still be `auto`."""
        return Output(format=self.format, quality=self.quality, lossless=self.lossless, metadata=self.metadata)


class TaskForm(ImageForm, TaskOptions):
    """What a form of any task is: its options, and how the result is encoded."""


@functools.cache
def form_class(task: Task[Any]) -> type[TaskForm]:
    """Return the class of the task's form: its options and those of ImageForm."""
    return create_model(f"{task.name.capitalize()}Form", __base__=(TaskForm, task.options))


def make_request(task: Task[Any], form: TaskForm, uploads: Mapping[str, Upload], accept: str | None) -> ImageRequest:
    """Return what a form asks of the pipeline; `accept` is the header's value."""
    return ImageRequest(task, form, form.encoding, uploads, accept)


class _Parser(MultiPartParser):
    """Starlette's parser takes a form that is cut short for a whole one; this one refuses it."""

    ended = False

    def on_end(self) -> None:
        self.ended = True

    async def parse(self) -> FormData:
        self.stream = self._check_end(self.stream)
        return await super().parse()

    async def _check_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self.ended:
            raise MultiPartException("cut short")


@asynccontextmanager
async def read_form(
    headers: Headers, body: AsyncGenerator[bytes, None], task: Task[Any]
) -> AsyncIterator[tuple[TaskForm, dict[str, Upload]]]:
    """Give the options and the pictures of a form by field; their files are closed at the end of the block.

    Raises MalformedRequest, MissingField, UnknownField, InvalidField, and what reading `body` raises.
    """
    items = await _parse_multipart(headers, body)
    try:
        texts, uploads = _separate(items, task)
        files = {name: Upload(one.file, one.size or 0, one.filename or "") for name, one in uploads.items()}
        yield parse_form(form_class(task), texts), files
    finally:
        for _, item in items:
            if isinstance(item, UploadFile):
                await item.close()  # on a thread: letting go of a large file takes its time


def parse_form(form: type[TaskForm], texts: Mapping[str, str]) -> TaskForm:
    """Return the form that `texts` fill. An empty text stands for the default. Raises InvalidField."""
    try:
        return form.model_validate({name: text for name, text in texts.items() if text.strip()})
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_context=False)[0]["loc"][0])
        text = texts[name]
        raise InvalidField(
            f"{name} must be {describe_field(form, name)}, not {text[:60]!r}.", field=name, value=text
        ) from None


def describe_field(form: type[TaskForm], name: str) -> str:
    """Return what field `name` may be, in words, from the schema that OpenAPI shows."""
    return _describe(_schema(form)["properties"][name])


@functools.cache
def _schema(form: type[TaskForm]) -> dict[str, Any]:
    return form.model_json_schema()


def _describe(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(part) for part in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        *others, last = (str(value) for value in schema["enum"])
        return f"{', '.join(others)} or {last}"
    if schema["type"] == "boolean":
        return "true or false"
    if "pattern" in schema:
        return str(schema["description"])
    if schema["type"] == "string":
        return f"a text of at most {schema['maxLength']} characters"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    return f"{kind} from {schema['minimum']:g} to {schema['maximum']:g}"


async def _parse_multipart(headers: Headers, body: AsyncGenerator[bytes, None]) -> list[tuple[str, str | UploadFile]]:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        shown = f"not {content_type[:60]!r}" if content_type else "and none was named"
        raise MalformedRequest(f"The body must be multipart/form-data, {shown}.")
    _, parameters = parse_options_header(content_type)
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise MalformedRequest("The form must be in UTF-8.")
    parser = _Parser(headers, body, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_TEXT)
    try:
        return (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise MalformedRequest(_explain(error.message)) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Overloaded("There is no room left for uploads now.", retry_after=30) from None


def _explain(message: str) -> str:
    if message == "cut short":
        return "The form is cut short: its closing boundary never came."
    if "exceeded maximum size" in message:
        return f"A text field is longer than {MAX_TEXT // 1024} KiB. A picture is sent as a file, with a file name."
    if "Too many" in message:
        return f"The form has more than {MAX_PARTS} fields or files."
    if "boundary" in message:
        return "The header Content-Type names no boundary."
    if "Content-Disposition" in message:
        return "A part of the form has no name."
    return "The body is not a well-formed multipart form."


def _separate(
    items: list[tuple[str, str | UploadFile]], task: Task[Any]
) -> tuple[dict[str, str], dict[str, UploadFile]]:
    """Return the texts and the files by field. Raises UnknownField, InvalidField, MissingField."""
    pictures = ["image", *task.pictures]
    known = [*pictures, *form_class(task).model_fields]
    texts: dict[str, str] = {}
    uploads: dict[str, UploadFile] = {}
    for name, item in items:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The fields are {', '.join(known)}."
            raise UnknownField(f"There is no field {name[:60]!r}.{hint}", field=name)
        if name in texts or name in uploads:
            raise InvalidField(f"The field {name} came more than once.", field=name)
        if isinstance(item, UploadFile):
            if name not in pictures:
                raise InvalidField(f"{name} must be a text, not a file.", field=name)
            if item.size or name == "image":  # a page's empty file field is no file
                uploads[name] = item
        elif name in pictures:
            if item.strip():
                raise InvalidField(f"{name} must be a file, sent with a file name, not a text.", field=name)
        else:
            texts[name] = item
    if "image" not in uploads or not uploads["image"].size:
        came_empty = uploads.get("image") is not None and bool(uploads["image"].filename)
        raise MissingField(
            "The file in the field image is empty." if came_empty else "The file field image is missing.",
            field="image",
        )
    return texts, uploads
