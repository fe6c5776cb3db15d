"""Rights of folders and files on systems that have them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.private_files import make_private, make_private_folder, open_private

pytestmark = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def umask(request: Any) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_files_and_folders(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "data"
    make_private_folder(folder)
    with open_private(folder / "file", "w") as file:
        assert mode(folder / "file") == 0o600  # before anything is written
        file.write("text")
    assert mode(folder) == 0o700
    assert (folder / "file").read_text() == "text"


def test_what_exists_is_narrowed_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(0o777)
    (tmp_path / "data").chmod(0o2775)
    (tmp_path / "file").write_text("text")
    (tmp_path / "file").chmod(0o644)
    make_private_folder(tmp_path / "data")
    make_private(tmp_path / "file")
    assert (mode(tmp_path / "data") & 0o777, mode(tmp_path / "file")) == (0o700, 0o600)
    assert (tmp_path / "file").read_text() == "text"


def test_a_folder_of_another_user_is_left_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with capture_logs() as logs:
        make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o755
    assert logs == [
        {
            "event": "files of jobs may be read by others",
            "log_level": "warning",
            "path": str(tmp_path),
            "mode": "0755",
            "reason": f"it belongs to user {os.getuid()}",
        }
    ]


def test_a_folder_for_all_users_is_left_and_logged(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "file of another").touch()
    with capture_logs() as logs:
        make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o1777
    assert [entry["reason"] for entry in logs] == ["it is a folder for all users"]


def test_a_new_mount_is_narrowed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o700


def test_what_does_not_exist_is_nothing_to_do(tmp_path: Path) -> None:
    make_private(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")
