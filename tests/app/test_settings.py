from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import settings
from app.settings import Settings, SettingsError

ROOT = Path(__file__).parents[2]
PROPERTIES = {"rate_limit": "settings.rate", "defaults": "settings.default_models"}
"""What the settings are read through that hold more than their text."""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def test_the_document_is_the_settings() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == settings.render_markdown()
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "app").rglob("*.py"))
    for name in Settings.model_fields:
        used = f"settings.{name}" in source or PROPERTIES.get(name, "-") in source
        assert used, name


def test_defaults() -> None:
    read = settings.read()
    assert (read.host, read.port) == ("127.0.0.1", 8000)
    assert read.models_dir == (Path("models/published"), Path("models/local"))
    assert read.rate is None
    assert read.api_keys == ()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PORT": "9001",
        "MODELS_DIR": "a, b/c",
        "MAX_PIXELS": "64e6",
        "API_KEYS": "one,two, ",
        "TRUSTED_PROXIES": "10.0.0.0/8,::1",
        "RATE_LIMIT": "60/minute",
        "DEFAULTS": "segment=street, inpaint=mountain",
        "LOG_FORMAT": "json",
    }
    for name, value in given.items():
        monkeypatch.setenv(settings.PREFIX + name, value)
    read = settings.read()
    assert read.port == 9001
    assert read.models_dir == (Path("a"), Path("b/c"))
    assert read.max_pixels == 64_000_000
    assert [key.get_secret_value() for key in read.api_keys] == ["one", "two"]
    assert [str(network) for network in read.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert read.rate == (60, 60.0)
    assert read.default_models == {"segment": "street", "inpaint": "mountain"}
    assert "one" not in repr(read)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", ""),
        ("PORT", "0"),
        ("PORT", "http"),
        ("HOST", ""),
        ("MODELS_DIR", ""),
        ("MAX_UPLOAD_MB", "-1"),
        ("MAX_PIXELS", "many"),
        ("REQUEST_TIMEOUT_S", "inf"),
        ("BODY_TIMEOUT_S", "nan"),
        ("RATE_LIMIT", "fast"),
        ("RATE_LIMIT", "0/minute"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("DEFAULTS", "segment/street"),
        ("DEFAULTS", "segment=street,segment=voc"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(settings.PREFIX + name, value)
    with pytest.raises(SettingsError) as told:
        settings.read()
    line = str(told.value)
    assert line.startswith(f"RESTORE_{name}")
    assert "\n" not in line
    assert (repr(value) in line) if value else (" is empty: " in line)


@pytest.mark.integration
def test_all_breaches_are_told_at_once_and_the_process_ends_with_2() -> None:
    wrong = {"RESTORE_PORT": "x", "RESTORE_LOG_FORMAT": "", "RESTORE_MAX_PIXEL": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env={**os.environ, **wrong},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "RESTORE_PORT='x'" in line
    assert "RESTORE_LOG_FORMAT is empty" in line


def test_a_misspelt_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORE_MAX_PIXEL", "1")
    monkeypatch.setenv("RESTORE_DATA_PACKS", "somewhere")
    assert settings.find_misspelled() == ["RESTORE_MAX_PIXEL is not a setting. Did you mean RESTORE_MAX_PIXELS?"]
