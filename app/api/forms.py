"""Forms: what each endpoint takes, read from `multipart/form-data`, and described for OpenAPI by the same classes."""

from __future__ import annotations

import difflib
import errno
import functools
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.problems import MalformedRequest
from app.errors import InvalidField, MissingField, Overloaded, UnknownField
from app.imaging.codec import Output

MOST_PARTS = 32
LONGEST_TEXT = 64 * 1024
_END = 64 * 1024
COLOUR = "^#[0-9a-fA-F]{6}$"

F = TypeVar("F", bound="PictureForm")


def _number(value: object) -> object:
    """Form fields are texts; a choice among numbers needs the number."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else value


class PictureForm(BaseModel):
    """The options that every picture endpoint has. The picture itself is the file field `image`.

    `files` are the form's other pictures, by field, with what they are for; none of them is required.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    files: ClassVar[Mapping[str, str]] = {}

    model: str = Field(
        "",
        max_length=140,
        description="Model by `name`, or `name@version`, as `GET /models` lists them. Empty: the task's default.",
        examples=[""],
    )
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
    def wants_table(self) -> bool:
        """Whether the answer is no picture but a table, in JSON."""
        return False

    @property
    def model_name(self) -> str | None:
        """The model that was asked for, None for the task's default."""
        return self.model.strip() or None

    @property
    def needs_model(self) -> bool:
        """Whether the answer comes from a model."""
        return True

    @property
    def needs_device(self) -> bool:
        """Whether the answer may come from a model, be it one that the form does not name."""
        return True

    @property
    def encoding(self) -> Output:
        """How the result is to be encoded; its format may still be `auto`."""
        return Output(format=self.format, quality=self.quality, lossless=self.lossless, metadata=self.metadata)


class DenoiseForm(PictureForm):
    strength: Literal["auto"] | Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        "auto",
        description="How strong the noise is: `auto` estimates it from the picture; a number is the noise level as a "
        "fraction of 75/255. `X-Applied` says what was used.",
        examples=["auto"],
    )
    preserve: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the original to blend back in, which keeps grain: 0 none, 1 all.",
        examples=[0.0],
    )


class SuperresForm(PictureForm):
    scale: Annotated[Literal[2, 3, 4], BeforeValidator(_number)] = Field(
        2, description="How many times wider and higher the result is.", examples=[2]
    )


class SegmentForm(PictureForm):
    files = {
        "background_image": "What to put behind a cut-out instead of `background`. Its middle covers; its alpha stays."
    }

    output: Literal["mask", "cutout", "overlay", "json"] = Field(
        "mask",
        description="`mask`: a PNG of class ids with names and colours in its palette, 0 and 255 where the model knows "
        "one class only; `cutout`: the picture, transparent where none of the classes is; `overlay`: the classes' "
        "colours over the picture; `json`: pixels, fraction and bounding box (left, top, right, bottom) of each class.",
        examples=["mask"],
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How probable the foreground must be. Only for models of one class.",
        examples=[""],
    )
    classes: str = Field(
        "",
        max_length=1000,
        description="Names or ids, separated by commas, of the only classes that count. Empty: all.",
        examples=[""],
    )
    background: Literal["transparent"] | Annotated[str, Field(pattern=COLOUR, description="a colour as #rrggbb")] = (
        Field(
            "transparent",
            description="What is behind a cut-out: `transparent`, or a colour as `#rrggbb`.",
            examples=["transparent"],
        )
    )
    opacity: float = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="How much of the overlay's colours is seen.", examples=[0.5]
    )

    @property
    def wants_table(self) -> bool:
        return self.output == "json"


class InpaintForm(PictureForm):
    files = {
        "mask": "What to fill: white (any value but zero; in lossy files, more than an eighth) is missing. As large as "
        "the picture, upright; it is never resized."
    }

    mask_from: Literal["file", "alpha"] = Field(
        "file",
        description="Where the mask is: `file`, the field `mask`; `alpha`, the picture's own transparency: whatever is "
        "not opaque is missing, and the result is opaque.",
        examples=["file"],
    )
    method: Literal["auto", "neural", "dcgan", "telea", "ns", "biharmonic"] = Field(
        "auto",
        description="`neural`: the model; `dcgan`: what a generator makes that agrees with the rest, searched for by a "
        "model that does (by default `digits`); `telea`: fast marching; `ns`: Navier-Stokes; `biharmonic`: the "
        "smoothest surface, best for small holes; `auto`: what measured best, which is the model where there is one. "
        "`X-Applied` says what was used.",
        examples=["auto"],
    )
    radius: int = Field(
        3, ge=1, le=64, description="How far `telea` and `ns` look for what is known, in pixels.", examples=[3]
    )
    dilate: int = Field(
        0, ge=0, le=64, description="By how many pixels to widen the mask: edges of stamps are blurred.", examples=[0]
    )
    feather: int = Field(
        0,
        ge=0,
        le=64,
        description="Over how many pixels around the widened mask the filling fades into the picture.",
        examples=[0],
    )

    @property
    def model_name(self) -> str | None:
        return self.model.strip() or ("digits" if self.method == "dcgan" else None)

    @property
    def needs_model(self) -> bool:
        return self.method in ("neural", "dcgan")

    @property
    def needs_device(self) -> bool:
        return self.method in ("auto", "neural", "dcgan")


class StylizeForm(PictureForm):
    files = {"style_image": "The picture in whose manner to paint, instead of `style`."}

    style: str = Field(
        "",
        max_length=64,
        description="The name of a preset, as `GET /styles` lists them. It or `style_image` is required.",
        examples=["starry-night"],
    )
    method: Literal["fast", "optimize"] = Field(
        "fast",
        description="`fast`: one pass of the model. `optimize`: the picture itself is changed, step by step, until "
        "VGG19 sees in it the style of `style_image`: minutes, as a job. It works on a reduced picture, and carries to "
        "the whole one what changed.",
        examples=["fast"],
    )
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the style: 0 is nearly the picture's own, 1 all of it.",
        examples=[1.0],
    )
    preserve_color: bool = Field(
        False, description="Keep the picture's colours and take only luminance from the painting.", examples=[False]
    )
    steps: int = Field(300, ge=10, le=2000, description="Steps of `optimize`.", examples=[300])

    @property
    def needs_model(self) -> bool:
        return self.method == "fast"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came: on disk, if it is large, until it is read."""

    file: BinaryIO
    size: int
    filename: str

    def read(self) -> bytes:
        """Return the file's bytes. Reads from disk: call it on a thread."""
        self.file.seek(0)
        return self.file.read()

    def mark(self) -> tuple[int, int]:
        """Return what the same file has when it comes again and another hardly ever: its size, and a checksum of its
        end, where pictures in compressed formats differ. Reads from disk: call it on a thread."""
        self.file.seek(max(0, self.size - _END))
        return self.size, zlib.crc32(self.file.read())


class _Parser(MultiPartParser):
    """Starlette's parser takes a form that is cut short for a whole one; this one refuses it."""

    ended = False

    def on_end(self) -> None:
        self.ended = True

    async def parse(self) -> FormData:
        self.stream = self._to_the_end(self.stream)
        return await super().parse()

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self.ended:
            raise MultiPartException("cut short")


@asynccontextmanager
async def read_form(
    headers: Headers, body: AsyncGenerator[bytes, None], kind: type[F]
) -> AsyncIterator[tuple[F, dict[str, Upload]]]:
    """Give the options and the pictures of a form by field; their files are closed at the end of the block.

    Raises MalformedRequest, MissingField, UnknownField, InvalidField, and what reading `body` raises.
    """
    items = await _parts(headers, body)
    try:
        texts, uploads = _sorted_out(items, kind)
        files = {name: Upload(one.file, one.size or 0, one.filename or "") for name, one in uploads.items()}
        yield options(kind, texts), files
    finally:
        for _, item in items:
            if isinstance(item, UploadFile):
                await item.close()  # on a thread: letting go of a large file takes its time


def options(kind: type[F], texts: Mapping[str, str]) -> F:
    """Return the form of class `kind` that `texts` fill. An empty text stands for the default. Raises InvalidField."""
    try:
        return kind.model_validate({name: text for name, text in texts.items() if text.strip()})
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_context=False)[0]["loc"][0])
        text = texts[name]
        raise InvalidField(
            f"{name} must be {allowed(kind, name)}, not {text[:60]!r}.", field=name, value=text
        ) from None


def allowed(kind: type[PictureForm], name: str) -> str:
    """Return what field `name` may be, in words, from the schema that OpenAPI shows."""
    return _in_words(_schema(kind)["properties"][name])


@functools.cache
def _schema(kind: type[PictureForm]) -> dict[str, Any]:
    return kind.model_json_schema()


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(part) for part in schema["anyOf"])
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


async def _parts(headers: Headers, body: AsyncGenerator[bytes, None]) -> list[tuple[str, str | UploadFile]]:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        shown = f"not {content_type[:60]!r}" if content_type else "and none was named"
        raise MalformedRequest(f"The body must be multipart/form-data, {shown}.")
    _, parameters = parse_options_header(content_type)
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise MalformedRequest("The form must be in UTF-8.")
    parser = _Parser(headers, body, max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=LONGEST_TEXT)
    try:
        return (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise MalformedRequest(_explained(error.message)) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Overloaded("There is no room left for uploads now.", retry_after=30) from None


def _explained(message: str) -> str:
    if message == "cut short":
        return "The form is cut short: its closing boundary never came."
    if "exceeded maximum size" in message:
        return f"A text field is longer than {LONGEST_TEXT // 1024} KiB. A picture is sent as a file, with a file name."
    if "Too many" in message:
        return f"The form has more than {MOST_PARTS} fields or files."
    if "boundary" in message:
        return "The header Content-Type names no boundary."
    if "Content-Disposition" in message:
        return "A part of the form has no name."
    return "The body is not a well-formed multipart form."


def _sorted_out(
    items: list[tuple[str, str | UploadFile]], kind: type[PictureForm]
) -> tuple[dict[str, str], dict[str, UploadFile]]:
    pictures = ["image", *kind.files]
    known = [*pictures, *kind.model_fields]
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
