"""Which precision is used: by the processor, the setting, the manifest, the request, and what was measured."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.precision import (
    BFloat16Speed,
    MeasuredPrecisions,
    PrecisionChoice,
    PrecisionSetting,
    bfloat16_speed,
    functions_of,
    has_amx,
    has_bfloat16,
    processor_name,
)
from app.engine.protocol import RequestContext, Usage
from models.manifest import Manifest, QuantizedSignature, Signature
from tests.model_repository import manifest, picture

CPUINFO = "processor\t: 0\nmodel name\t: Example 9000\nflags\t\t: fpu {}\n\nprocessor\t: 1\nflags\t\t: fpu {}\n"


def described(*, bfloat16: bool = False, int8: bool = False, **fields: Any) -> Manifest:
    """Return the manifest of a model with the signature `denoise`."""
    entry = QuantizedSignature(
        signature="denoise", file="quantized/denoise.tflite", bytes=1, precision="dynamic", sizes=[(64, 64), (32, 64)],
        figures={"psnr": (30.0, 30.0)}, faster=2.0, operators=["ADD"],
    )  # fmt: skip
    signature = Signature(inputs={"image": picture()}, outputs={"image": picture()}, bfloat16=bfloat16, **fields)
    files = {"saved_model.pb": "0" * 64, "quantized/denoise.tflite": "1" * 64}
    return manifest(signatures={"denoise": signature}, quantized=[entry] if int8 else [], files=files)


@pytest.mark.parametrize(
    ("flags", "amx", "speed", "possible"),
    [
        ("avx512f avx512_bf16 amx_bf16 amx_tile", True, "fastest", True),
        ("avx512f avx512_bf16", False, "fast", True),
        ("avx512f avx512_vnni", False, "slow", True),
        ("avx2", False, "slow", False),
    ],
)
def test_bfloat16_by_the_flags_of_the_processor(
    flags: str, amx: bool, speed: str, possible: bool, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO.format(flags, flags))
    assert (has_amx(cpuinfo), bfloat16_speed(cpuinfo), has_bfloat16(cpuinfo)) == (amx, speed, possible)
    assert processor_name(cpuinfo) == "Example 9000"


def test_without_cpuinfo_nothing_is_known(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert (has_amx(missing), bfloat16_speed(missing), has_bfloat16(missing)) == (False, "slow", False)
    assert processor_name(missing) == ""


def test_functions_by_precision() -> None:
    assert functions_of(described(), "denoise") == {"float32": "denoise"}
    found = functions_of(described(bfloat16=True, int8=True), "denoise")
    assert found == {"float32": "denoise", "bfloat16": "denoise:bfloat16", "int8": "denoise:int8"}
    assert functions_of(described(precisions={"bfloat16": "half"}), "denoise") == {
        "float32": "denoise",
        "bfloat16": "half",
    }


ALL = {"bfloat16": True, "int8": True}


@pytest.mark.parametrize(
    ("model", "setting", "speed", "expected"),
    [
        (ALL, "auto", "fastest", "bfloat16"),
        (ALL, "auto", "fast", None),  # int8 is measured
        (ALL, "auto", "slow", None),
        ({"bfloat16": True}, "auto", "fast", "bfloat16"),
        ({"bfloat16": True}, "auto", "slow", "float32"),
        ({"int8": True}, "auto", "fastest", None),
        ({"precisions": {"bfloat16": "half"}}, "auto", "fastest", "bfloat16"),
        ({"precisions": {"bfloat16": "half"}}, "auto", "fast", "bfloat16"),
        ({"precisions": {"bfloat16": "half"}}, "auto", "slow", "float32"),
        ({"precisions": {"bfloat16": "half"}}, "auto", "unknown", None),  # it is measured on an accelerator
        ({"bfloat16": True}, "auto", "unknown", "float32"),  # which nothing is derived for
        ({}, "auto", "fastest", "float32"),
        (ALL, "float32", "fastest", "float32"),
        (ALL, "bfloat16", "slow", "bfloat16"),
        (ALL, "int8", "fastest", "int8"),
        ({"bfloat16": True}, "int8", "fast", "float32"),
        ({}, "bfloat16", "fast", "float32"),
        ({"precision": "float16"}, "float32", "slow", "float16"),
    ],
)
def test_what_a_setting_prefers(
    model: dict[str, Any], setting: PrecisionSetting, speed: BFloat16Speed, expected: str | None
) -> None:
    assert PrecisionChoice.of(described(**model), "denoise").preferred(setting, speed) == expected


def test_what_is_measured() -> None:
    choice = PrecisionChoice.of(described(**ALL), "denoise")
    assert (choice.candidates("slow"), choice.known_fastest("slow")) == (["float32", "int8"], "float32")
    assert (choice.candidates("fast"), choice.known_fastest("fast")) == (["bfloat16", "int8"], "bfloat16")
    own = PrecisionChoice.of(described(precision="float16", precisions={"float32": "full"}), "denoise")
    assert (own.candidates("fast"), own.known_fastest("fast")) == (["float16", "float32"], "float16")


@pytest.mark.parametrize(
    ("used", "exact", "size", "expected"),
    [
        ("bfloat16", False, (16, 16), "bfloat16"),
        ("bfloat16", True, (16, 16), "float32"),
        ("int8", False, (64, 64), "int8"),
        ("int8", False, (32, 64), "int8"),
        ("int8", False, (64, 32), "bfloat16"),  # the file has no function for it
        ("int8", True, (64, 64), "float32"),
    ],
)
def test_the_precision_of_a_request(used: Any, exact: bool, size: tuple[int, int], expected: str) -> None:
    choice = PrecisionChoice.of(described(**ALL), "denoise")
    choice.used, choice.rest = used, "bfloat16"
    inputs = {"image": np.zeros((1, *size, 3), np.float32)}
    assert choice.for_request(inputs, RequestContext("one", exact=exact)) == expected


def test_of_tiles_in_several_precisions_the_least_exact_one_is_told() -> None:
    usage = Usage()
    assert usage.precision("denoise") == "float32"
    for precision in ("float32", "bfloat16", "int8", "float32"):
        usage.add_precision("denoise", precision)
    assert usage.precision("denoise") == "int8"
    assert usage.precision("estimate") == "float32"


# --- what was measured ---


def test_an_answer_is_kept_for_the_same_files_on_the_same_processor(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    MeasuredPrecisions(path, "Example 9000").keep(described(), "denoise", "int8")
    again = MeasuredPrecisions(path, "Example 9000")
    assert again.get(described(), "denoise") == "int8"
    assert again.get(described(), "estimate") is None
    assert again.get(described().model_copy(update={"files": {"saved_model.pb": "2" * 64}}), "denoise") is None
    assert MeasuredPrecisions(path, "Example 10").get(described(), "denoise") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name != "posix"


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"a": 1'])
def test_a_broken_file_is_measured_again(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    path.write_bytes(content)
    measured = MeasuredPrecisions(path)
    assert measured.get(described(), "denoise") is None
    measured.keep(described(), "denoise", "int8")
    assert MeasuredPrecisions(path).get(described(), "denoise") == "int8"


def test_without_a_place_answers_hold_until_the_end(tmp_path: Path) -> None:
    for measured in (MeasuredPrecisions(), MeasuredPrecisions(tmp_path / "missing" / "precision.json")):
        measured.keep(described(), "denoise", "int8")
        assert measured.get(described(), "denoise") == "int8"
