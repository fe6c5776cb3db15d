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
from models import repository
from models.manifest import MANIFEST_NAME, ManifestError
from models.repository import RepositoryError
from tests.model_repository import manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "card.md").write_text("A card.\n", encoding="utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


def test_publish_then_open(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    assert folder == root / "denoise" / "identity" / "1"
    opened = repository.open_model(folder)
    assert opened == manifest(files=repository.files(source))
    assert set(opened.files) == {"saved_model.pb", "variables/variables.index", "card.md"}
    assert opened.files["saved_model.pb"] == repository.digest(source / "saved_model.pb")
    assert list(repository.folders([root])) == [folder]


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's own example.
    assert repository.digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_manifest_in_the_source_is_not_copied(source: Path, root: Path) -> None:
    (source / MANIFEST_NAME).write_text("{}", encoding="utf-8")
    assert repository.open_model(repository.publish(manifest(), source, root)).title == "identity for tests"


def test_versions_follow_each_other_and_are_listed_by_number(source: Path, root: Path) -> None:
    assert repository.next_version("denoise", "identity", root) == 1
    for version in (1, 2, 10):
        repository.publish(manifest(version=version), source, root)
    assert repository.next_version("denoise", "identity", root) == 11
    assert [folder.name for folder in repository.folders([root])] == ["1", "2", "10"]


def test_a_published_version_is_never_replaced(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    (source / "saved_model.pb").write_bytes(b"another graph")
    with pytest.raises(RepositoryError, match="already exists; use version 2"):
        repository.publish(manifest(), source, root)
    assert (folder / "saved_model.pb").read_bytes() == b"graph"


def test_of_many_who_publish_at_once_one_wins_and_nothing_is_left_behind(source: Path, root: Path) -> None:
    errors: list[RepositoryError] = []
    start = threading.Barrier(8)

    def publish() -> None:
        start.wait()
        try:
            repository.publish(manifest(), source, root)
        except RepositoryError as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    assert [path.name for path in (root / "denoise" / "identity").iterdir()] == ["1"]
    repository.open_model(root / "denoise" / "identity" / "1")


def test_a_failed_publication_leaves_nothing(tmp_path: Path, root: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        repository.publish(manifest(), tmp_path / "nowhere", root)
    assert list((root / "denoise" / "identity").iterdir()) == []
    assert list(repository.folders([root])) == []


def test_every_difference_is_reported_at_once(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    (folder / "saved_model.pb").write_bytes(b"other")
    (folder / "variables" / "variables.index").unlink()
    (folder / "variables" / "extra").write_bytes(b"")
    with pytest.raises(RepositoryError) as caught:
        repository.open_model(folder)
    assert caught.value.problems == [
        "variables/extra is not listed in the manifest",
        "saved_model.pb has another SHA-256 than the manifest says",
        "variables/variables.index is missing",
    ]


def test_a_file_that_cannot_be_read_is_a_difference(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository.publish(manifest(), source, root)

    def failing(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(repository, "digest", failing)
    with pytest.raises(RepositoryError, match=r"saved_model\.pb cannot be read: Input/output error"):
        repository.open_model(folder)


def test_a_stamp_tells_of_any_change_without_reading(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    fingerprints = [repository.fingerprint(folder)]
    (folder / "variables" / "extra").write_bytes(b"")
    fingerprints.append(repository.fingerprint(folder))
    (folder / "variables" / "extra").write_bytes(b"more")
    fingerprints.append(repository.fingerprint(folder))
    os.utime(folder / "saved_model.pb", (1, 1))
    fingerprints.append(repository.fingerprint(folder))
    (folder / "card.md").unlink()
    fingerprints.append(repository.fingerprint(folder))
    assert len(set(fingerprints)) == 5
    assert repository.fingerprint(folder) == fingerprints[-1]


def test_links_are_no_files(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to(source / "card.md")
    with pytest.raises(RepositoryError, match=r"card\.md is a symbolic link"):
        repository.open_model(folder)


def test_a_model_in_anothers_place_is_refused(source: Path, root: Path) -> None:
    folder = repository.publish(manifest(), source, root)
    other = folder.rename(folder.with_name("2"))
    with pytest.raises(
        RepositoryError, match="the folder is denoise/identity/2, but the manifest says denoise/identity@1"
    ):
        repository.open_model(other)


def test_a_folder_without_manifest_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=MANIFEST_NAME):
        repository.open_model(tmp_path)


def test_shelves_in_order_and_nothing_that_is_no_model(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    b = repository.publish(manifest(name="b"), source, second)
    a = repository.publish(manifest(name="a"), source, first)
    (first / "README.md").write_text("no model", encoding="utf-8")
    (first / "denoise" / "a" / ".publishing-x").mkdir()
    (first / "denoise" / "a" / "draft").mkdir()
    assert list(repository.folders([tmp_path / "missing", second, first])) == [b, a]


def test_a_folder_that_cannot_be_read_is_skipped_and_told_of(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository.publish(manifest(), source, root)
    (root / "lost+found").mkdir()
    (root / "denoise" / "private").mkdir()
    iterdir = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:
        if path.name in ("lost+found", "private"):
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    told: list[tuple[str, str | None]] = []
    found = repository.folders([root], lambda path, error: told.append((path.name, error.strerror)))
    assert list(found) == list(repository.folders([root])) == [folder]
    assert sorted(told) == [("lost+found", "Permission denied"), ("private", "Permission denied")]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_no_difference(source: Path, root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    folder = repository.publish(manifest(), source, root)
    for function in ("open", "read_bytes"):  # of a file, of the manifest
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, Mock(side_effect=OSError(code, "not now")))
            with pytest.raises(OSError, match="not now"):
                repository.open_model(folder)
    repository.open_model(folder)


def test_default_is_one_a_task(source: Path, root: Path) -> None:
    digits = repository.publish(manifest(name="digits"), source, root, default=True)
    nearest = repository.publish(manifest("superres", "nearest"), source, root, default=True)
    assert repository.is_default(repository.open_model(digits))
    photo = repository.publish(manifest(name="photo"), source, root, default=True)
    assert [repository.is_default(repository.open_model(folder)) for folder in (digits, photo, nearest)] == [
        False,
        True,
        True,
    ]
    marked = json.loads((photo / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert marked["defaults"] == {"default": True}
    assert sorted(path.name for path in digits.iterdir()) == ["card.md", MANIFEST_NAME, "saved_model.pb", "variables"]


def test_a_broken_manifest_beside_it_keeps_no_default_from_being_the_one(source: Path, root: Path) -> None:
    broken = repository.publish(manifest(name="broken"), source, root)
    (broken / MANIFEST_NAME).write_text("{", encoding="utf-8")
    photo = repository.publish(manifest(name="photo"), source, root, default=True)
    chosen = repository.publish(manifest(name="chosen"), source, root, default=True)
    assert [repository.is_default(contract.read(folder)) for folder in (photo, chosen)] == [False, True]
    assert (broken / MANIFEST_NAME).read_text(encoding="utf-8") == "{"


def test_default_false_takes_the_mark_and_none_keeps_it(source: Path, root: Path) -> None:
    kept = repository.publish(manifest(default=True), source, root)
    inherited = repository.publish(manifest(version=3), source, root)
    taken = repository.publish(manifest(version=2, default=True), source, root, default=False)
    assert repository.is_default(contract.read(kept))
    assert repository.is_default(contract.read(inherited))  # or the task had none when the older version is removed
    assert not repository.is_default(contract.read(taken))
