from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from models import manifest as contract
from models import store
from models.manifest import MANIFEST_NAME, ManifestError
from models.store import ShelfError
from tests.shelf import manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "card.md").write_text("A card.\n", encoding="utf-8")
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


def test_publish_then_open(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    assert folder == shelf / "denoise" / "identity" / "1"
    opened = store.open_model(folder)
    assert opened == manifest(files=store.files(source))
    assert set(opened.files) == {"saved_model.pb", "variables/variables.index", "card.md"}
    assert opened.files["saved_model.pb"] == store.digest(source / "saved_model.pb")
    assert list(store.folders([shelf])) == [folder]


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's own example.
    assert store.digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_manifest_in_the_source_is_not_copied(source: Path, shelf: Path) -> None:
    (source / MANIFEST_NAME).write_text("{}", encoding="utf-8")
    assert store.open_model(store.publish(manifest(), source, shelf)).title == "identity for tests"


def test_versions_follow_each_other_and_are_listed_by_number(source: Path, shelf: Path) -> None:
    assert store.next_version("denoise", "identity", shelf) == 1
    for version in (1, 2, 10):
        store.publish(manifest(version=version), source, shelf)
    assert store.next_version("denoise", "identity", shelf) == 11
    assert [folder.name for folder in store.folders([shelf])] == ["1", "2", "10"]


def test_a_published_version_is_never_replaced(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    (source / "saved_model.pb").write_bytes(b"another graph")
    with pytest.raises(ShelfError, match="on the shelf already; the next is 2"):
        store.publish(manifest(), source, shelf)
    assert (folder / "saved_model.pb").read_bytes() == b"graph"


def test_of_many_who_publish_at_once_one_wins_and_nothing_is_left_behind(source: Path, shelf: Path) -> None:
    errors: list[ShelfError] = []
    start = threading.Barrier(8)

    def publish() -> None:
        start.wait()
        try:
            store.publish(manifest(), source, shelf)
        except ShelfError as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    assert [path.name for path in (shelf / "denoise" / "identity").iterdir()] == ["1"]
    store.open_model(shelf / "denoise" / "identity" / "1")


def test_a_failed_publication_leaves_nothing(tmp_path: Path, shelf: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        store.publish(manifest(), tmp_path / "nowhere", shelf)
    assert list((shelf / "denoise" / "identity").iterdir()) == []
    assert list(store.folders([shelf])) == []


def test_every_difference_is_reported_at_once(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    (folder / "saved_model.pb").write_bytes(b"other")
    (folder / "variables" / "variables.index").unlink()
    (folder / "variables" / "extra").write_bytes(b"")
    with pytest.raises(ShelfError) as caught:
        store.open_model(folder)
    assert caught.value.problems == [
        "variables/extra is not listed in the manifest",
        "saved_model.pb has another SHA-256 than the manifest says",
        "variables/variables.index is missing",
    ]


def test_a_file_that_cannot_be_read_is_a_difference(source: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.publish(manifest(), source, shelf)

    def failing(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "digest", failing)
    with pytest.raises(ShelfError, match=r"saved_model\.pb cannot be read: Input/output error"):
        store.open_model(folder)


def test_a_stamp_tells_of_any_change_without_reading(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    stamps = [store.stamp(folder)]
    (folder / "variables" / "extra").write_bytes(b"")
    stamps.append(store.stamp(folder))
    (folder / "variables" / "extra").write_bytes(b"more")
    stamps.append(store.stamp(folder))
    os.utime(folder / "saved_model.pb", (1, 1))
    stamps.append(store.stamp(folder))
    (folder / "card.md").unlink()
    stamps.append(store.stamp(folder))
    assert len(set(stamps)) == 5
    assert store.stamp(folder) == stamps[-1]


def test_links_are_no_files(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to(source / "card.md")
    with pytest.raises(ShelfError, match=r"card\.md is a link"):
        store.open_model(folder)


def test_a_model_in_anothers_place_is_refused(source: Path, shelf: Path) -> None:
    folder = store.publish(manifest(), source, shelf)
    other = folder.rename(folder.with_name("2"))
    with pytest.raises(ShelfError, match="the folder is denoise/identity/2, the manifest says denoise/identity@1"):
        store.open_model(other)


def test_a_folder_without_manifest_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=MANIFEST_NAME):
        store.open_model(tmp_path)


def test_shelves_in_order_and_nothing_that_is_no_model(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    b = store.publish(manifest(name="b"), source, second)
    a = store.publish(manifest(name="a"), source, first)
    (first / "README.md").write_text("no model", encoding="utf-8")
    (first / "denoise" / "a" / ".publishing-x").mkdir()
    (first / "denoise" / "a" / "draft").mkdir()
    assert list(store.folders([tmp_path / "missing", second, first])) == [b, a]


def test_a_folder_that_cannot_be_read_is_skipped_and_told_of(
    source: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.publish(manifest(), source, shelf)
    (shelf / "lost+found").mkdir()
    (shelf / "denoise" / "private").mkdir()
    iterdir = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:
        if path.name in ("lost+found", "private"):
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    told: list[tuple[str, str | None]] = []
    found = store.folders([shelf], lambda path, error: told.append((path.name, error.strerror)))
    assert list(found) == list(store.folders([shelf])) == [folder]
    assert sorted(told) == [("lost+found", "Permission denied"), ("private", "Permission denied")]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_no_difference(source: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    folder = store.publish(manifest(), source, shelf)
    for function in ("open", "read_bytes"):  # of a file, of the manifest
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, Mock(side_effect=OSError(code, "not now")))
            with pytest.raises(OSError, match="not now"):
                store.open_model(folder)
    store.open_model(folder)


def test_default_is_one_a_task(source: Path, shelf: Path) -> None:
    digits = store.publish(manifest(name="digits"), source, shelf, default=True)
    nearest = store.publish(manifest("superres", "nearest"), source, shelf, default=True)
    assert store.is_default(store.open_model(digits))
    photo = store.publish(manifest(name="photo"), source, shelf, default=True)
    assert [store.is_default(store.open_model(folder)) for folder in (digits, photo, nearest)] == [False, True, True]
    marked = json.loads((photo / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert marked["defaults"] == {"default": True}
    assert sorted(path.name for path in digits.iterdir()) == ["card.md", MANIFEST_NAME, "saved_model.pb", "variables"]


def test_a_broken_manifest_beside_it_keeps_no_default_from_being_the_one(source: Path, shelf: Path) -> None:
    broken = store.publish(manifest(name="broken"), source, shelf)
    (broken / MANIFEST_NAME).write_text("{", encoding="utf-8")
    photo = store.publish(manifest(name="photo"), source, shelf, default=True)
    chosen = store.publish(manifest(name="chosen"), source, shelf, default=True)
    assert [store.is_default(contract.read(folder)) for folder in (photo, chosen)] == [False, True]
    assert (broken / MANIFEST_NAME).read_text(encoding="utf-8") == "{"


def test_default_false_takes_the_mark_and_none_keeps_it(source: Path, shelf: Path) -> None:
    kept = store.publish(manifest(default=True), source, shelf)
    inherited = store.publish(manifest(version=3), source, shelf)
    taken = store.publish(manifest(version=2, default=True), source, shelf, default=False)
    assert store.is_default(contract.read(kept))
    assert store.is_default(contract.read(inherited))  # or the task had none when the older version is removed
    assert not store.is_default(contract.read(taken))
