"""Shared memory of decoded pictures, as the service sees it: mapped, and used again when a picture is gone."""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging.decoder_wire import ProtocolError

MAX_KEPT = 2
MAX_KEPT_BYTES = 48 << 20
"""Segments that are kept for later pictures, and the size of the largest: 12 megapixels take 36 MB. The kernel clears
new memory, which costs a JPEG of that size a tenth of its time."""


class MappedSegment:
    """A segment that a decoder process has made; it cannot be shrunk any more. Raises ProtocolError."""

    def __init__(self, descriptor: int) -> None:
        import fcntl  # not on Windows, where there are no decoder processes

        self.descriptor = descriptor
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except OSError as error:
            raise ProtocolError("not a segment") from error
        self.size = os.fstat(descriptor).st_size
        self.memory = mmap.mmap(descriptor, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)

    def __del__(self) -> None:
        os.close(self.descriptor)


class SegmentCache:
    """Segments whose pictures are gone. Safe from any thread, and from finalizers."""

    def __init__(self) -> None:
        self._kept: deque[MappedSegment] = deque(maxlen=MAX_KEPT)  # its methods are atomic; the oldest is dropped

    def take(self) -> MappedSegment | None:
        """Return a segment that nothing uses, if there is one."""
        try:
            return self._kept.pop()
        except IndexError:
            return None

    def give_back(self, segment: MappedSegment) -> None:
        """Keep a segment that nothing uses, or let it go if it is too large."""
        if segment.size <= MAX_KEPT_BYTES:
            self._kept.append(segment)

    def clear(self) -> None:
        """Let all segments go."""
        self._kept.clear()

    def view(self, segment: MappedSegment) -> NDArray[Any]:
        """Return the bytes of a segment, which comes back here when no array uses them any more."""
        view = np.frombuffer(segment.memory, np.uint8)
        weakref.finalize(view, self.give_back, segment).atexit = False
        return view
