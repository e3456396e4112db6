"""Errors of the online API: one name, one HTTP status, one JSON shape."""

from __future__ import annotations

from functools import partial

from emoray.errors import AudioError, EmorayError, TransientError
from emoray_serving.http.schemas import ErrorDetail, ErrorReply

#: Stable code → HTTP status.
STATUS = {
    "bad_parameter": 400,
    "audio_too_short": 400,
    "audio_too_long": 400,
    "uri_not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "undecodable_audio": 422,
    "internal_error": 500,
    "storage_unavailable": 502,
    "no_champion": 503,
    "overloaded": 503,
    "unavailable": 503,
    "timed_out": 504,
}


SEE_LOG = "See the service's log under this request id"


class ApiError(EmorayError):
    """A request that is answered with an error.

    Args:
        code: One of `STATUS`.
        detail: A more specific name, for example the kind of an undecodable clip.
    """

    def __init__(self, code: str, what: str, *, remedy: str | None = None, detail: str | None = None) -> None:
        super().__init__(what, remedy=remedy, kind=code)
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), remedy=self.remedy, detail=self.detail), (self.kind, self.what)

    @property
    def status(self) -> int:
        """HTTP status of the reply."""
        return STATUS[self.kind]

    def reply(self, request_id: str) -> ErrorReply:
        """The body of the reply."""
        detail = ErrorDetail(code=self.kind, message=self.what, remedy=self.remedy, kind=self.detail)
        return ErrorReply(error=detail, request_id=request_id)


def from_emoray(error: EmorayError) -> ApiError:
    """The API's error for one raised by the platform."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AudioError):
        if error.kind in ("audio_too_short", "audio_too_long"):
            return ApiError(error.kind, error.what, remedy=error.remedy)
        if error.kind == "missing_file":
            return ApiError("not_found", error.what, remedy=error.remedy)
        return ApiError("undecodable_audio", error.what, remedy=error.remedy, detail=error.kind)
    if isinstance(error, TransientError):
        return ApiError("storage_unavailable", error.what, remedy="Try again in a moment")
    return ApiError("internal_error", str(error), remedy=SEE_LOG)
