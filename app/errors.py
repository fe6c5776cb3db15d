"""All errors of the service, as one tree. Independent of HTTP: `app.api.problems` maps them to status codes.

    ServiceError
    ├── BadRequest                 the client must change the request
    │   ├── MissingField  UnknownField  InvalidField  ConflictingFields
    │   ├── UnknownModel  UnknownStyle  UnknownClass
    │   ├── UnsupportedImage  BrokenImage  AnimatedImage  WrongSize
    │   ├── MaskSize  MaskEmpty  MaskFull
    │   ├── NotAcceptable  MalformedRequest  RequestTimeout
    │   └── JobConflict  IdempotencyMismatch  JobExpired
    ├── TooLarge                   a limit is exceeded
    │   └── UploadTooLarge  TooManyPixels  ResultTooLarge  WorkTooLarge
    └── Unavailable                not caused by the client; `retry_after` in seconds if it is known
        ├── Overloaded  TooManyRequests  DeadlineExceeded  ModelUnavailable  WeightsMissing  ShuttingDown
        └── JobsFull  StorageFull  JobInterrupted

A message tells the client in a sentence what is wrong, with the value, and what to do. It has no file paths and no
messages of libraries. Names of fields and headers are in backticks, values that the client sent in quotes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ServiceError(Exception):
    """`detail` is shown to the client. `field`, `value`, `limit` and `retry_after` (seconds) are None if unknown."""

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        value: object = None,
        limit: object = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.value = value
        self.limit = limit
        self.retry_after = retry_after


class BadRequest(ServiceError): ...


class MissingField(BadRequest): ...


class UnknownField(BadRequest): ...


class InvalidField(BadRequest): ...


class ConflictingFields(BadRequest): ...


class UnknownModel(BadRequest): ...


class UnknownStyle(BadRequest): ...


class UnknownClass(BadRequest): ...


class UnsupportedImage(BadRequest): ...


class BrokenImage(BadRequest): ...


class AnimatedImage(BadRequest): ...


class WrongSize(BadRequest): ...


class MaskSize(BadRequest): ...


class MaskEmpty(BadRequest): ...


class MaskFull(BadRequest): ...


class NotAcceptable(BadRequest): ...


class MalformedRequest(BadRequest): ...


class RequestTimeout(BadRequest): ...


class JobConflict(BadRequest): ...


class IdempotencyMismatch(BadRequest): ...


class JobExpired(BadRequest): ...


class TooLarge(ServiceError): ...


class UploadTooLarge(TooLarge): ...


class TooManyPixels(TooLarge): ...


class ResultTooLarge(TooLarge): ...


class WorkTooLarge(TooLarge): ...


class Unavailable(ServiceError): ...


class Overloaded(Unavailable): ...


class TooManyRequests(Unavailable): ...


class DeadlineExceeded(Unavailable): ...


class ModelUnavailable(Unavailable): ...


class WeightsMissing(Unavailable): ...


class ShuttingDown(Unavailable): ...


class JobsFull(Unavailable): ...


class StorageFull(Unavailable): ...


class JobInterrupted(Unavailable): ...


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean …?` with the most similar name in `known`, or an empty string if none is similar."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
