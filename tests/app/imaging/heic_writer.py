"""Writes HEIC files with pillow-heif, in a process of its own.

pillow-heif and pi-heif each bring libde265. In one process, one of them would get the functions of the other's version.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

from numpy.typing import NDArray

Order = tuple[NDArray[Any], dict[str, Any]]
"""Samples, uint8 or uint16 (height, width, 1 to 4), and options of pillow-heif's `save`; `mode` overrides the mode."""
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def write_heic(orders: dict[str, Order]) -> dict[str, bytes]:
    """Return a HEIC file for each order; `nclx` is (primaries, transfer)."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=pickle.dumps(orders), stdout=subprocess.PIPE, check=True)
    files: dict[str, bytes] = pickle.loads(done.stdout)
    return files


def _write(samples: NDArray[Any], options: dict[str, Any]) -> bytes:
    from io import BytesIO

    import pillow_heif

    height, width, channels = samples.shape
    mode = options.pop("mode", _MODES[channels]) + (";16" if samples.itemsize == 2 else "")
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    file = pillow_heif.from_bytes(mode=mode, size=(width, height), data=data)
    file.info.update(options.pop("info", {}))
    if channels > 2:
        options.setdefault("chroma", 444)
    out = BytesIO()
    file.save(out, **{"quality": 95, **options})
    return out.getvalue()


if __name__ == "__main__":
    given: dict[str, Order] = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps({name: _write(*order) for name, order in given.items()}))
