"""Segments of decoder processes in the service: sealed, and used again only when no array uses them any more."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import pytest

from app.imaging.decoder_memory import MAX_KEPT, MAX_KEPT_BYTES, MappedSegment, SegmentCache
from app.imaging.decoder_wire import ProtocolError, Segment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoder processes need Linux")


def written(data: bytes, kept: int | None = None) -> int:
    """Return a segment that begins with `data`, as a decoder process sends it."""
    segment = Segment()
    segment.add(data)
    return segment.write(kept)


def test_only_memory_that_cannot_shrink_is_mapped() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(ProtocolError):
        MappedSegment(os.dup(file.fileno()))
    segment = MappedSegment(written(b"abc"))
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 0)
    assert segment.memory[:3] == b"abc"


def test_a_segment_is_used_again_when_its_arrays_are_gone() -> None:
    cache = SegmentCache()
    segment = MappedSegment(written(b"first"))
    array = cache.view(segment)[1:3].reshape(2, 1)  # of the view itself nothing is left
    assert cache.take() is None
    assert array.tobytes() == b"ir"
    del array
    assert cache.take() is segment
    assert written(b"again", segment.descriptor) == segment.descriptor
    assert cache.view(segment)[:5].tobytes() == b"again"


def test_a_segment_that_is_too_small_is_not_used_again() -> None:
    segment = MappedSegment(written(b"small"))
    larger = MappedSegment(written(bytes(segment.size + 1), segment.descriptor))
    assert larger.descriptor != segment.descriptor
    assert segment.memory[:5] == b"small"


def test_few_segments_are_kept_and_no_large_ones() -> None:
    cache = SegmentCache()
    descriptors = []
    for _ in range(MAX_KEPT + 1):
        segment = MappedSegment(written(b"a"))
        descriptors.append(segment.descriptor)
        cache.give_back(segment)
    del segment
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
    large = os.memfd_create("large", os.MFD_ALLOW_SEALING)
    os.ftruncate(large, MAX_KEPT_BYTES + 1)
    cache.clear()
    cache.give_back(MappedSegment(large))
    assert cache.take() is None


def test_arrays_may_outlive_the_cache() -> None:
    cache = SegmentCache()
    array = cache.view(MappedSegment(written(b"abc")))
    del cache
    assert array[:3].tobytes() == b"abc"
    assert array.dtype == np.uint8
