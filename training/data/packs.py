"""Where the data packs are and what is in them."""

from __future__ import annotations

import gzip
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class MissingPack(FileNotFoundError):
    """A data pack that is not where it is looked for; the message says where that is."""


class WrongPack(ValueError):
    """A data pack whose files are not what they should be; the message says what is wrong."""


class Packs:
    """The data packs below `root` (default: `RESTORE_DATA_PACKS`, else `data/`)."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("RESTORE_DATA_PACKS") or "data")

    def folder(self, path: str) -> Path:
        """Return the folder `path` (`photos/train`). Raises MissingPack."""
        folder = self.root / path
        if not folder.is_dir():
            raise MissingPack(
                f"data pack {path!r} is not in {self.root}; set --data or RESTORE_DATA_PACKS to the folder that holds "
                "the packs (docs/data.md describes them)"
            )
        return folder

    def files(self, path: str) -> list[Path]:
        """Return the picture files of folder `path`, sorted by name."""
        return sorted(file for file in self.folder(path).iterdir() if file.suffix.lower() in PICTURES)

    def pictures(self, path: str, keep: slice | None = None) -> list[np.ndarray]:
        """Return the folder's pictures, sorted by name, decoded: uint8 (height, width, 3)."""
        files = self.files(path)
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(read_rgb, files[keep] if keep else files))

    def idx(self, path: str) -> np.ndarray:
        """Return an MNIST `idx.gz` file as uint8, shape as the file says."""
        file = self.folder(str(Path(path).parent)) / Path(path).name
        if not file.is_file():
            raise MissingPack(f"file {path!r} of the data pack is not in {self.root} (docs/data.md lists the files)")
        data = gzip.decompress(file.read_bytes())
        sizes = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)

    def weights(self, path: str) -> Path:
        """Return the file of weights `path`, below RESTORE_WEIGHTS or `weights` in the root. Raises MissingPack."""
        folder = Path(os.environ.get("RESTORE_WEIGHTS") or self.root / "weights")
        if not (folder / path).is_file():
            raise MissingPack(
                f"weights {path!r} are not in {folder}; set RESTORE_WEIGHTS to their parent folder "
                "(docs/data.md says where they come from)"
            )
        return folder / path

    def digest(self, pack: str) -> str:
        """Return the SHA-256 over the names and bytes of every file of `pack`, in sorted order."""
        total = hashlib.sha256()
        folder = self.folder(pack)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            total.update(file.relative_to(folder).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()


def read_rgb(file: Path | IO[bytes]) -> np.ndarray:
    """Return the picture in `file` as uint8 (height, width, 3), upright, decoded with Pillow."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
