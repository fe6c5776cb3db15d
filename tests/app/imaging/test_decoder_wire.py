"""Messages of decoder processes: what goes in comes out, and what no such process sends is refused."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pytest

from app.errors import InvalidField, ServiceError, TooManyPixels
from app.imaging import decoder_wire
from app.imaging.decoder_memory import MappedSegment, SegmentCache
from app.imaging.decoder_wire import ProtocolError, Segment
from app.imaging.picture import Metadata, Picture
from tests.app.imaging.samples import noise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoder processes need Linux")


def carried(value: object) -> Any:
    """Return a value as it comes out on the other side."""
    segment = Segment()
    described = decoder_wire.flatten(value, segment)
    if not segment.size:
        return decoder_wire.rebuild(described, np.empty(0, np.uint8))
    return decoder_wire.rebuild(described, SegmentCache().view(MappedSegment(segment.write())))


def test_a_picture_with_everything() -> None:
    pixels, alpha = noise(7, 5, 3, np.uint16), noise(7, 5, 1, np.uint16)[..., 0]
    palette = {0: ("sky", (1, 2, 3)), 7: ("road", (4, 5, 6))}
    picture = Picture(pixels, alpha, Metadata(exif=b"a" * 70, icc=b"", xmp=None), "tiff", ("icc=dropped",), palette)
    result = carried(picture)
    np.testing.assert_array_equal(result.pixels, pixels)
    np.testing.assert_array_equal(result.alpha, alpha)
    assert (result.pixels.dtype, result.pixels.flags.writeable) == (np.uint16, True)
    assert result.metadata == picture.metadata
    assert (result.format, result.warnings, result.palette) == ("tiff", ("icc=dropped",), palette)


def test_a_size() -> None:
    assert carried((40, 24)) == (40, 24)


def test_errors_keep_their_class_and_all_fields() -> None:
    for error in (TooManyPixels("a", field="image", value=9, limit=8), InvalidField("b", retry_after=1.5)):
        result = decoder_wire.rebuild_error(decoder_wire.flatten_error(error))
        assert (type(result), vars(result)) == (type(error), vars(error))
        assert str(result) == str(error)


def test_a_value_of_another_class_is_not_sent() -> None:
    with pytest.raises(TypeError, match="cannot send a complex"):
        decoder_wire.flatten((1, 1j), Segment())


@pytest.mark.parametrize(
    "described",
    [
        {"array": 0, "dtype": "|u1", "shape": [65, 1]},  # beyond the end
        {"array": -8, "dtype": "|u1", "shape": [4]},
        {"array": 0, "dtype": "|O", "shape": [1]},  # pointers
        {"array": 0, "dtype": "|u1", "shape": [-1]},
        {"array": 0, "dtype": "|u1", "shape": 3},
        {"class": "Popen", "fields": {"args": "true"}},
        {"class": "Picture", "fields": {"nothing": 1}},
        {"strange": 1},
    ],
)
def test_values_that_no_decoder_sends_are_refused(described: dict[str, Any]) -> None:
    segment = Segment()
    segment.add(b"\1")
    memory = SegmentCache().view(MappedSegment(segment.write()))
    with pytest.raises(ProtocolError):
        decoder_wire.rebuild(described, memory)


@pytest.mark.parametrize("described", [{}, {"class": "Iterable", "fields": {}}, {"class": "ServiceError"}, [], "a"])
def test_errors_that_no_decoder_sends_are_refused(described: Any) -> None:
    with pytest.raises(ProtocolError):
        decoder_wire.rebuild_error(described)


def test_messages_carry_bytes_and_descriptors() -> None:
    own, other = socket.socketpair()
    with own, other, tempfile.TemporaryFile() as file:
        file.write(b"on disk")
        file.flush()
        decoder_wire.send(own, {"do": "it"}, b"data", [file.fileno()])
        message, data, [descriptor] = decoder_wire.receive(other)
        assert (message, data) == ({"do": "it"}, b"data")
        assert os.pread(descriptor, 10, 0) == b"on disk"
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", EOFError),
        (b"abc", EOFError),
        (decoder_wire._HEAD.pack(2, 0) + b"{", EOFError),
        (decoder_wire._HEAD.pack(2, 0) + b"{{", ProtocolError),
        (decoder_wire._HEAD.pack(2, 0) + b"[]", ProtocolError),
        (decoder_wire._HEAD.pack(2**31, 0), ProtocolError),
        (decoder_wire._HEAD.pack(2, 2**60) + b"{}", ProtocolError),
    ],
)
def test_what_is_no_message_is_refused(sent: bytes, error: type[Exception]) -> None:
    own, other = socket.socketpair()
    with other:
        with own:
            own.sendall(sent)
        with pytest.raises(error):
            decoder_wire.receive(other)


def test_a_message_that_does_not_come_in_time() -> None:
    own, other = socket.socketpair()
    with own, other:
        own.sendall(b"abc")
        with pytest.raises(TimeoutError):
            decoder_wire.receive(other, time.monotonic() + 0.05)


def test_every_error_of_the_service_can_be_carried() -> None:
    for kind in ServiceError.__subclasses__():
        assert type(decoder_wire.rebuild_error(decoder_wire.flatten_error(kind("text")))) is kind
