"""The only reader of the environment: every setting, its default, its range and what it does.

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
    """The environment holds a value that cannot be. Its text is one line for the person who starts the service."""


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _parse_whole(value: object) -> object:
    """Let `64e6` pass for 64000000."""
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\d{1,2}", value.strip()):
        return int(float(value))
    return value


Listed = BeforeValidator(_split_list)
Whole = Annotated[int, BeforeValidator(_parse_whole)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """What the service is told at start. Lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="Address to listen on. `0.0.0.0` is every address of the machine."
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    models_dir: Annotated[tuple[Path, ...], NoDecode, Listed] = Field(
        (Path("models/published"), Path("models/local")),
        min_length=1,
        description="Folders that hold models, as `<folder>/<task>/<name>/<version>/`. A folder that is not there is "
        "taken for an empty one.",
    )
    engine: Literal["local", "ray"] = Field(
        "local",
        description="Where models run: `local` is this process, `ray` replicas on the nodes of a Ray cluster "
        "(docs/operations.md).",
    )
    ray_address: str = Field(
        "",
        description="With `ENGINE=ray`: the cluster, as `host:port`, or `auto` for the one that this machine is a node "
        "of. Empty: one is started here and ends with the service.",
    )
    ray_replicas: int = Field(
        2, ge=1, le=1000, description="With `ENGINE=ray`: replicas, each with every model that it was asked for."
    )
    ray_cpus: float = Field(
        1.0, ge=0, le=1024, allow_inf_nan=False, description="With `ENGINE=ray`: processor cores for each replica."
    )
    ray_gpus: float = Field(
        0.0,
        ge=0,
        le=64,
        allow_inf_nan=False,
        description="With `ENGINE=ray`: GPUs for each replica; `0.5` lets two share one.",
    )
    preload: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        ("defaults",),
        description="Models to load at start, as `task/name` or `task/name@version`; `defaults` stands for the "
        "default model of each task. The others are loaded when they are first asked for.",
    )
    reload_s: float = Field(
        5.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds between two scans of the model repository. What changed and then stayed as it is for one "
        "such time is loaded without a restart; 0: scan at the start only.",
    )
    models_mb: int = Field(
        1024,
        ge=0,
        le=100_000_000,
        description="Room for models in memory, on each device, in MiB: what was not used for longest is unloaded for "
        "what is asked for, unless it is at work. 0: no limit.",
    )
    max_upload_mb: int = Field(
        256, ge=1, le=4096, description="Largest body of a request, in MiB. A larger one is refused while it streams."
    )
    max_pixels: Whole = Field(
        64_000_000, ge=1, le=1_000_000_000, description="Largest picture taken, in pixels, as its header says."
    )
    max_output_pixels: Whole = Field(
        200_000_000, ge=1, le=4_000_000_000, description="Largest picture made, in pixels."
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that the body of a request may take to arrive, and its answer to be taken, and one second "
        "more for each 16 KiB.",
    )
    request_timeout_s: float = Field(
        120.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds that a request may take once its body is there. `Cancel-After` may ask for less.",
    )
    stop_timeout_s: float = Field(
        20.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that requests under way get when the service is told to stop; what is not done then is "
        "answered `shutting-down`. Whoever stops it should wait for ten seconds more.",
    )
    decoded_megapixels: float = Field(
        256.0,
        gt=0,
        allow_inf_nan=False,
        description="Pictures held decoded at once, input and result together, in megapixels: bounds the memory. "
        "Further requests wait with their file on disk; a single larger picture is worked on alone.",
    )
    max_requests: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Pictures that may be here at once, on their way in or out, waiting or worked on; more are "
        "`overloaded`. One client alone has room for three quarters of them. "
        "Times `MAX_UPLOAD_MB`, it bounds the room for temporary files.",
    )
    queue_megapixels: float = Field(
        64.0,
        gt=0,
        allow_inf_nan=False,
        description="Tiles that may wait for the device, in megapixels; a request that finds more is `overloaded`.",
    )
    max_batch: int = Field(
        64, ge=1, le=1024, description="Most tiles that go to the device at once. A model's manifest may say less."
    )
    data_dir: Path = Field(
        Path("var"),
        description="Folder of the jobs: a database and their pictures and results. It is made where it is not there.",
    )
    jobs_max: int = Field(
        100, ge=1, le=100_000, description="Jobs that may wait or run at once; more are refused with `jobs-full`."
    )
    jobs_at_once: int = Field(
        1, ge=1, le=64, description="Jobs that run at once, each with its picture decoded in memory."
    )
    jobs_disk_mb: int = Field(
        4096,
        ge=1,
        le=100_000_000,
        description="Room for the pictures and results of jobs, in MiB; what would be more is refused with "
        "`storage-full`.",
    )
    job_ttl_h: float = Field(
        24.0,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="Hours that the result of a job is kept. As long again, its address answers `job-expired`.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, Listed] = Field(
        (), description="Keys that clients must send one of. Empty: every client is admitted."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, Listed] = Field(
        (),
        description="Addresses or networks of reverse proxies whose `X-Forwarded-For` is believed.",
    )
    rate_limit: str = Field(
        "",
        description="Requests that one client (its API key, else its address) may send, as `60/minute` (or `second`, "
        "`hour`). Empty: no limit.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, Listed] = Field(
        (), description="Origins of web pages that may call from a browser; `*` is every one. Empty: none."
    )
    log_format: Literal["text", "json"] = Field("text", description="One line a request, to read or to collect.")

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        if value and parse_rate(value) is None:
            raise ValueError("must look like 60/minute (or /second, /hour), or be empty")
        return value

    @property
    def rate(self) -> tuple[int, float] | None:
        """`rate_limit` as (requests, seconds), None for no limit."""
        return parse_rate(self.rate_limit)


def parse_rate(text: str) -> tuple[int, float] | None:
    """Return `60/minute` as (60, 60.0), or None where `text` is not a rate."""
    match = re.fullmatch(r"([1-9]\d{0,8})\s*/\s*(second|minute|hour)", text.strip())
    return (int(match[1]), {"second": 1.0, "minute": 60.0, "hour": 3600.0}[match[2]]) if match else None


def read() -> Settings:
    """Return the settings that the environment holds. Raises SettingsError with one line that names every breach."""
    try:
        return Settings()
    except ValidationError as error:
        breaches: dict[str, str] = {}
        for entry in error.errors(include_url=False, include_input=False, include_context=False):
            name = str(entry["loc"][0])
            breaches.setdefault(name, _sentence(name, os.environ.get(variable(name), ""), entry["msg"]))
        raise SettingsError("; ".join(breaches.values())) from None


def find_misspelled() -> list[str]:
    """Return a sentence for each environment variable that looks like a misspelt setting."""
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
        "Settings are environment variables. A value that cannot be is told in one line at start, with exit code 2.",
        "Lists are separated by commas. This page is generated: `python -m app.settings > docs/configuration.md`.",
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
