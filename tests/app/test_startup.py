"""The start: models are loaded, standard output is told, and the model repository is followed."""

from __future__ import annotations

import errno
import io
import sys
from unittest.mock import Mock

import pytest

from app import startup
from app.settings import Settings
from tests.app.api.service import serving, wait_until
from tests.app.api.test_reload import publish


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", ["full", "closed", "none"])
def test_a_standard_output_that_cannot_be_written_keeps_nobody_from_work(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    output = Full() if kind == "full" else io.StringIO()
    if kind == "closed":
        output.close()
    monkeypatch.setattr(sys, "stdout", None if kind == "none" else output)
    with startup._timed_step("starting"):
        pass
    with serving(reload_s=0.05) as service:  # it waits until nothing is loading any more
        publish(service, 2)
        wait_until(lambda: service.denoise().headers["x-model"] == "denoise/photo@2")


def test_replicas_are_told_what_their_models_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mock()
    monkeypatch.setattr(startup, "RayEngine", made)
    startup._join_cluster(Settings(engine="ray", models_mb=5, precision="bfloat16"))
    assert made.call_args.kwargs["budget"] == 5 * 2**20
    assert made.call_args.kwargs["precision"] == "bfloat16"


@pytest.mark.parametrize("possible", [False, True])
def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, possible: bool) -> None:
    monkeypatch.setattr(startup, "has_bfloat16", lambda: possible)
    settings = Settings(precision="bfloat16")
    assert startup._choose_precision(settings, on_cpu=True) == ("bfloat16" if possible else "float32")
    assert startup._choose_precision(settings, on_cpu=False) == "float32"
    assert startup._choose_precision(Settings(), on_cpu=True) == "auto"


def test_a_warm_up_that_breaks_off_leaves_the_repository_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(startup, "_preload", broken)
    with serving(reload_s=0.05) as service:
        publish(service, 2)
        wait_until(lambda: service.denoise().headers["x-model"] == "denoise/photo@2")
