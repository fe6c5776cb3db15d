"""Reads and validates `multipart/form-data` forms. The classes of forms also describe them in OpenAPI."""

from __future__ import annotations

import errno
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api import negotiation
from app.errors import InvalidField, MalformedRequest, MissingField, Overloaded, UnknownField, nearest
from app.imaging.codec import Output
from app.pipeline import ImageRequest, Upload
from app.tasks.base import Task, TaskOptions

FormItems = list[tuple[str, str | UploadFile]]
"""The fields of a form by name: texts and files."""
MAX_PARTS = 32
MAX_TEXT = 64 * 1024
ALIASES = {
    "image": ("file", "files", "img", "images", "input", "input_image", "image_file", "image_url", "init_image",
              "photo", "pic", "picture", "source", "upload", "data"),
    "mask": ("mask_file", "mask_image", "mask_img", "inpaint_mask"),
    "scale": ("factor", "outscale", "resize", "scale_factor", "size", "upscale", "upscale_factor", "upscaling", "zoom"),
    "strength": ("amount", "denoise_strength", "level", "noise", "noise_level", "sigma"),
    "style_image": ("reference", "reference_image", "style_file", "style_img", "style_picture"),
    "style": ("preset", "style_name", "style_preset"),
    "background": ("background_color", "bg", "bg_color", "bgcolor"),
    "background_image": ("background_file", "background_img", "bg_image", "bg_image_file"),
    "classes": ("class", "class_name", "label", "labels", "object", "objects"),
    "output": ("mode", "output_type", "result", "return", "type"),
    "format": ("file_format", "image_format", "output_format", "response_format"),
    "quality": ("jpeg_quality", "jpg_quality", "output_quality"),
    "metadata": ("exif", "keep_exif", "keep_metadata", "strip"),
    "model": ("engine", "model_id", "model_name", "network", "version"),
    "method": ("algorithm", "algo"),
    "stroke_size": ("brush_size", "stroke", "stroke_scale", "style_scale", "style_size"),
    "steps": ("iterations", "num_steps", "num_inference_steps"),
    "preserve_color": ("color_preserve", "keep_color", "keep_colors", "original_colors", "preserve_colors"),
}  # fmt: skip
"""Names that other services use for the fields of this one."""


class ImageForm(BaseModel):
    """The options of all picture endpoints that control how the result is encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: Literal["auto", "png", "jpeg", "webp", "tiff", "avif"] = Field(
        "auto",
        description="Format of the result. `auto` uses the format in `Accept`, else the format of the input if it can "
        "store the result (16 bit, transparency, size; JPEG for HEIC), else PNG.",
        examples=["auto"],
    )
    quality: int = Field(90, ge=1, le=100, description="Quality of JPEG, WebP and AVIF; 100 is best.", examples=[90])
    lossless: bool = Field(False, description="Encode WebP and AVIF without loss.", examples=[False])
    metadata: Literal["keep", "color", "strip"] = Field(
        "keep",
        description="`keep` keeps EXIF, ICC profile, XMP and print resolution (dots per inch, also of an enlarged "
        "result), but applies the orientation and drops the thumbnail; `color` keeps only the ICC profile; `strip` "
        "removes all metadata.",
        examples=["keep"],
    )

    @property
    def encoding(self) -> Output:
        """How to encode the result. The format may be `auto`."""
        return Output(format=self.format, quality=self.quality, lossless=self.lossless, metadata=self.metadata)


class TaskForm(ImageForm, TaskOptions):
    """The form of a task: its options, and how to encode the result."""


@functools.cache
def form_class(task: Task[Any]) -> type[TaskForm]:
    """Return the form class of a task: its options and those of ImageForm."""
    return create_model(f"{task.path.capitalize()}Form", __base__=(TaskForm, task.options))


def make_request(task: Task[Any], form: TaskForm, uploads: Mapping[str, Upload], accept: str | None) -> ImageRequest:
    """Return a form as a request for the pipeline; `accept` is the value of the `Accept` header."""
    return ImageRequest(task, form, form.encoding, uploads, accept)


class _Parser(MultiPartParser):
    """Rejects an incomplete form, which Starlette's parser accepts."""

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
async def read_request(
    headers: Headers, body: AsyncGenerator[bytes, None], task: Task[Any]
) -> AsyncIterator[ImageRequest]:
    """Yield the form of a task as a request for the pipeline; its files are closed at the end of the block.

    Raises MalformedRequest, MissingField, UnknownField, InvalidField, ConflictingFields, NotAcceptable, and errors from
    reading `body`.
    """
    accept = ", ".join(headers.getlist("accept")) or None
    async with read_multipart(headers, body) as items:
        texts, files = _separate(items, task)
        form = parse_form(form_class(task), texts)
        if form.returns_table:
            negotiation.check_table(accept, form.format)
        yield make_request(task, form, {name: to_upload(one) for name, one in files.items()}, accept)


@asynccontextmanager
async def read_multipart(headers: Headers, body: AsyncGenerator[bytes, None]) -> AsyncIterator[FormItems]:
    """Yield the fields of a form, in its order; their files are closed at the end of the block.

    Raises MalformedRequest, Overloaded, and errors from reading `body`.
    """
    items = await _parse_multipart(headers, body)
    try:
        yield items
    finally:
        for _, item in items:
            if isinstance(item, UploadFile):
                await item.close()  # on a thread, because deleting a large file is slow


def to_upload(file: UploadFile) -> Upload:
    """Return a file of a form for the pipeline."""
    return Upload(file.file, file.size or 0, file.filename or "")


def parse_form(form: type[TaskForm], texts: Mapping[str, str]) -> TaskForm:
    """Return `texts` as a validated form. An empty text means the default. Raises InvalidField."""
    try:
        return form.model_validate({name: text for name, text in texts.items() if text.strip()})
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_context=False)[0]["loc"][0])
        text = texts[name]
        raise InvalidField(
            f"`{name}` must be {describe_field(form, name)}, not {text[:60]!r}.", field=name, value=text
        ) from None


def describe_field(form: type[TaskForm], name: str) -> str:
    """Return the allowed values of field `name` in words, from the schema that OpenAPI has."""
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


async def _parse_multipart(headers: Headers, body: AsyncGenerator[bytes, None]) -> FormItems:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        sent = f"not {content_type[:60]!r}" if content_type else "but the request has none"
        raise MalformedRequest(f"The `Content-Type` must be multipart/form-data, {sent}.")
    _, parameters = parse_options_header(content_type)
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise MalformedRequest("The form must be encoded in UTF-8.")
    parser = _Parser(headers, body, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_TEXT)
    try:
        return (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise MalformedRequest(_explain(error.message)) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Overloaded("No disk space is left for uploads. Try again later.", retry_after=30) from None


def _explain(message: str) -> str:
    if message == "cut short":
        return "The form is incomplete: its closing boundary is missing."
    if "exceeded maximum size" in message:
        return f"A text field exceeds {MAX_TEXT // 1024} KiB. Send pictures as files, with a file name."
    if "Too many" in message:
        return f"The form has more than {MAX_PARTS} fields or files."
    if "boundary" in message:
        return "The `Content-Type` header has no boundary."
    if "Content-Disposition" in message:
        return "A part of the form has no name."
    return "The body is not a well-formed multipart form."


def suggest_field(name: str, known: Sequence[str]) -> str:
    """Return ` Did you mean …?` with the field in `known` that `name` stands for, or an empty string if none does."""
    plain = name.strip().lower().replace("-", "_").removesuffix("[]")
    for field, aliases in ALIASES.items():
        if field in known and plain in aliases:
            return f" Did you mean `{field}`?"
    return nearest(plain, known)


def _separate(items: FormItems, task: Task[Any]) -> tuple[dict[str, str], dict[str, UploadFile]]:
    """Return the texts and the files by field. Raises UnknownField, InvalidField, MissingField."""
    pictures = ["image", *task.pictures]
    known = [*pictures, *form_class(task).model_fields]
    texts: dict[str, str] = {}
    uploads: dict[str, UploadFile] = {}
    for name, item in items:
        if name not in known:
            hint = suggest_field(name, known) or f" The fields are {', '.join(known)}."
            raise UnknownField(f"Unknown field `{name[:60]}`.{hint}", field=name)
        if name in texts or name in uploads:
            raise InvalidField(f"The field `{name}` was sent more than once.", field=name)
        if isinstance(item, UploadFile):
            if name not in pictures:
                raise InvalidField(f"`{name}` must be a text, not a file.", field=name)
            if item.size or name == "image":  # browsers send an empty file field if no file was chosen
                uploads[name] = item
        elif name in pictures:
            if item.strip():
                raise InvalidField(f"`{name}` must be a file, sent with a file name, not a text.", field=name)
        else:
            texts[name] = item
    if "image" not in uploads or not uploads["image"].size:
        is_empty = uploads.get("image") is not None and bool(uploads["image"].filename)
        raise MissingField(
            "The file in the field `image` is empty." if is_empty else "The file field `image` is missing.",
            field="image",
        )
    return texts, uploads
