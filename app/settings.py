"""All settings: default, range and description. No other module reads the environment.

`python -m app.settings > docs/configuration.md` writes them as a document.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "RESTORE_"


class SettingsError(ValueError):
    """A setting is invalid. The message is one line, shown when the service starts."""


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _parse_whole(value: object) -> object:
    """Accept `64e6` for 64000000."""
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\d{1,2}", value.strip()):
        return int(float(value))
    return value


Listed = BeforeValidator(_split_list)
Whole = Annotated[int, BeforeValidator(_parse_whole)]
Facade = Literal["openai", "rembg", "iopaint", "removebg", "a1111"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """The settings, read from environment variables. Lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="Address to listen on. `0.0.0.0` listens on all IPv4 addresses of the machine."
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    models_dir: Annotated[tuple[Path, ...], NoDecode, Listed] = Field(
        (Path("models/published"), Path("models/local")),
        min_length=1,
        description="Folders of the model repository, laid out as `<folder>/<task>/<name>/<version>/`. Where "
        "two folders hold the same version, the first one is used. A missing folder counts as "
        "empty.",
    )
    engine: Literal["local", "ray"] = Field(
        "local",
        description="Where models run: `local` in this process, `ray` in replicas on the nodes of a Ray "
        "cluster (docs/operations.md).",
    )
    ray_address: str = Field(
        "",
        description="With `ENGINE=ray`: the address of the cluster as `host:port`, or `auto` for the cluster "
        "that this machine is a node of. Empty: the service starts a cluster on this machine and "
        "stops it at its end.",
    )
    ray_replicas: int = Field(
        2, ge=1, le=1000, description="With `ENGINE=ray`: number of replicas. Each can load every model."
    )
    ray_cpus: float = Field(
        1.0, ge=0, le=1024, allow_inf_nan=False, description="With `ENGINE=ray`: CPU cores per replica."
    )
    ray_gpus: float = Field(
        0.0,
        ge=0,
        le=64,
        allow_inf_nan=False,
        description="With `ENGINE=ray`: GPUs per replica. With `0.5`, two replicas share a GPU.",
    )
    preload: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        ("defaults",),
        description="Models to load at startup, as `task/name` or `task/name@version`. `defaults` means the "
        "default model of each task. Other models are loaded at their first request.",
    )
    defaults: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        (),
        description="Default models other than those that the repository marks, as `task=name`: `segment=street` makes "
        "`/segment` without `model` use `segment/street`. Where there is no such model, the marked one is used.",
    )
    reload_s: float = Field(
        5.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds between two scans of the model repository. New and changed models are loaded "
        "without a restart, once their files have stayed the same for two scans. 0: the "
        "repository is scanned at startup only.",
    )
    models_mb: int = Field(
        1024,
        ge=0,
        le=100_000_000,
        description="Memory for models on each device, in MiB. If a model does not fit, models that are not "
        "in use are unloaded, the least recently used first. 0: no limit.",
    )
    max_upload_mb: int = Field(
        256,
        ge=1,
        le=4096,
        description="Maximum size of a request body, in MiB. Larger requests get `upload-too-large`, before "
        "the whole body is read.",
    )
    max_pixels: Whole = Field(
        64_000_000,
        ge=1,
        le=1_000_000_000,
        description="Maximum size of an input picture, in pixels. Larger ones get `too-many-pixels`, before "
        "they are decoded.",
    )
    max_output_pixels: Whole = Field(
        200_000_000,
        ge=1,
        le=4_000_000_000,
        description="Maximum size of an enlarged picture, in pixels. Requests for more get `result-too-large`.",
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds within which a request body must arrive, plus one second for each 16 KiB of it. A "
        "response must be read within the same time.",
    )
    request_timeout_s: float = Field(
        120.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds within which a request is answered once its body has arrived; after that it "
        "gets `deadline-exceeded`. A client can set less with `Cancel-After`.",
    )
    stop_timeout_s: float = Field(
        20.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that running requests get to finish when the service is stopped. After that "
        "they get `shutting-down`. Wait 10 seconds longer before you kill the process.",
    )
    decoded_megapixels: float = Field(
        256.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum size of the decoded pictures in memory, inputs and results together, in "
        "megapixels. It limits the memory of the process. Requests above it wait, with their "
        "files on disk. A picture that is larger than this is processed alone.",
    )
    decoders: int = Field(
        4,
        ge=0,
        le=256,
        description="Number of processes that decode pictures. A picture that crashes a decoder, or takes too much of "
        "its memory or time, costs its sender an error and nobody else anything. One client, and large pictures "
        "together, use all but one of them. 0: pictures are decoded in the process of the service, as they are where "
        "the system is not Linux.",
    )
    decoder_mb: int = Field(
        3072,
        ge=64,
        le=1_000_000,
        description="Memory that a decoder may use for one picture, in MiB: the file, the pixels, and what the "
        "libraries need meanwhile. Pictures that take more get `too-many-pixels`.",
    )
    decoder_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that a decoder may take for one picture. After that the decoder is replaced, and the "
        "request gets `broken-image`.",
    )
    max_requests: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Maximum number of concurrent picture requests, from the first byte received to the last "
        "byte sent. More get `overloaded`. One client can have at most three quarters of them. "
        "Times `MAX_UPLOAD_MB`, it limits the disk space for uploads.",
    )
    queue_megapixels: float = Field(
        64.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum size of the tiles that wait for a device, in megapixels. Requests above it get "
        "`overloaded`.",
    )
    tile_mb: int = Field(
        1024,
        ge=0,
        le=1_000_000,
        description="Memory that the arithmetic of a tile may take, in MiB. Tiles of large pictures are made larger "
        "within it, until together they have at most 1.15 times the pixels of the picture. A CPU computes two tiles at "
        "a time, but only one that takes long. 0: tiles have the size that the manifest of the model gives.",
    )
    max_batch: int = Field(
        64, ge=1, le=1024, description="Maximum batch size, in tiles. The manifest of a model can set less."
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="Precision that models are computed in, where they allow it; everything else is computed in "
        "float32, and so are 16-bit pictures. `auto`: bfloat16 on a processor with AMX; else int8 where a model has "
        "it and it is measured to be the fastest, bfloat16 on a processor with AVX512-BF16. `X-Applied` has the "
        "precision that was used.",
    )
    data_dir: Path = Field(
        Path("var"),
        description="Folder for jobs: a database, and the input and result files. It is created if it does not exist. "
        "Only the user of the service can read it (0700).",
    )
    jobs_max: int = Field(
        100, ge=1, le=100_000, description="Maximum number of queued and running jobs. More get `jobs-full`."
    )
    jobs_at_once: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of jobs that run at the same time. Each holds its picture decoded in memory.",
    )
    jobs_disk_mb: int = Field(
        4096,
        ge=1,
        le=100_000_000,
        description="Disk space for the files of jobs, in MiB. Jobs above it get `storage-full`.",
    )
    job_ttl_h: float = Field(
        24.0,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="Hours for which the result of a job is kept. For the same time after that, its address answers "
        "`job-expired`.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, Listed] = Field(
        (), description="API keys. Clients must send one of them. Empty: no key is needed."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, Listed] = Field(
        (),
        description="Addresses or networks of reverse proxies. Their `X-Forwarded-For` gives the address of "
        "the client.",
    )
    rate_limit: str = Field(
        "",
        description="Rate limit per client (its API key, or without keys its address), as `60/minute`, or per "
        "`second` or `hour`. Requests above it get `too-many-requests`. While it is set, responses have the headers "
        "`RateLimit` and `RateLimit-Policy`. Empty: no limit.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        (), description="Origins of web pages whose scripts can use the API (CORS). `*` allows all. Empty: none."
    )
    facades: Annotated[tuple[Facade, ...], NoDecode, Listed] = Field(
        ("openai",),
        description="Interfaces of other services to offer besides this one, for their clients (docs/integrations.md): "
        "`openai`, `rembg`, `iopaint`, `removebg`, `a1111`. Empty: none.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log, one line per event: `text` for reading, `json` for log collectors."
    )

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        if value and parse_rate(value) is None:
            raise ValueError("must be empty, or a rate such as 60/minute (or /second, /hour)")
        return value

    @field_validator("defaults")
    @classmethod
    def _check_defaults(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        tasks = [entry.partition("=")[0] for entry in value]
        if not all(re.fullmatch(r"[a-z0-9-]+=[a-z0-9-]+", entry) for entry in value) or len(set(tasks)) < len(tasks):
            raise ValueError("must name one model for each task, such as segment=street,inpaint=mountain")
        return value

    @property
    def default_models(self) -> dict[str, str]:
        """`defaults` as names of models by task."""
        return dict(entry.split("=") for entry in self.defaults)

    @property
    def rate(self) -> tuple[int, float] | None:
        """`rate_limit` as (requests, seconds), None for no limit."""
        return parse_rate(self.rate_limit)


def parse_rate(text: str) -> tuple[int, float] | None:
    """Return `60/minute` as (60, 60.0), or None where `text` is not a rate."""
    match = re.fullmatch(r"([1-9]\d{0,8})\s*/\s*(second|minute|hour)", text.strip())
    return (int(match[1]), {"second": 1.0, "minute": 60.0, "hour": 3600.0}[match[2]]) if match else None


def read() -> Settings:
    """Return the settings of the environment. Raises SettingsError with one line that names all invalid settings."""
    try:
        return Settings()
    except ValidationError as error:
        invalid: dict[str, str] = {}
        for entry in error.errors(include_url=False, include_input=False, include_context=False):
            name = str(entry["loc"][0])
            invalid.setdefault(name, _sentence(name, os.environ.get(variable(name), ""), entry["msg"]))
        raise SettingsError("; ".join(invalid.values())) from None


def find_misspelled() -> list[str]:
    """Return a sentence for each environment variable that looks like a misspelled setting."""
    known = [variable(name) for name in Settings.model_fields]
    strange = [name for name in sorted(os.environ) if name.startswith(PREFIX) and name not in known]
    hints = {name: get_close_matches(name, known, 1, 0.85) for name in strange}
    return [f"{name} is not a setting. Did you mean {near[0]}?" for name, near in hints.items() if near]


def variable(name: str) -> str:
    """Return the environment variable of field `name`."""
    return PREFIX + name.upper()


def _sentence(name: str, given: str, message: str) -> str:
    shown = "" if name == "api_keys" else f"={given!r}" if given else " is empty"
    told = re.sub("^Value error, ", "", message)
    return f"{variable(name)}{shown}: {told[:1].lower()}{told[1:]}"


def _format_default(value: Any) -> str:
    if isinstance(value, tuple):
        value = ",".join(str(part) for part in value)
    return f"`{value}`" if str(value) else "empty"


def render_markdown() -> str:
    """Return every setting as Markdown: the text of `docs/configuration.md`."""
    schema = Settings.model_json_schema()["properties"]
    lines = [
        "# Configuration",
        "",
        "Settings are environment variables. Lists are separated by commas.",
        "If a setting is invalid, the service prints one line at startup and exits with code 2.",
        "",
        "This page is generated: `python -m app.settings > docs/configuration.md`.",
        "",
        "| variable | default | allowed | what it does |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        entry = schema[name]
        low = entry.get("minimum", entry.get("exclusiveMinimum"))
        allowed = {"array": "list", "string": "text", "integer": "whole number", "number": "number"}[entry["type"]]
        if "enum" in entry:
            allowed = ", ".join(f"`{choice}`" for choice in entry["enum"])
        elif low is not None:
            sign = "above" if "exclusiveMinimum" in entry else "from"
            allowed += f" {sign} {low:g}" + (f" to {entry['maximum']:.10g}" if "maximum" in entry else "")
        lines.append(f"| `{variable(name)}` | {_format_default(field.default)} | {allowed} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
