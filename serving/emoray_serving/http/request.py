"""Reading a request: bounded bodies, binary or multipart, or an object behind an allowed s3:// address."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import fsspec
from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from emoray_serving.config import LimitsConfig
from emoray_serving.http.errors import ApiError
from emoray_serving.http.schemas import ScoreParameters

#: Containers that libsndfile reads. The decoder decides by the content, whatever type the client names.
AUDIO_TYPES = frozenset(
    {
        "application/octet-stream",
        "application/ogg",
        "audio/aiff",
        "audio/flac",
        "audio/mp3",
        "audio/mpeg",
        "audio/ogg",
        "audio/vnd.wave",
        "audio/wav",
        "audio/wave",
        "audio/x-aiff",
        "audio/x-flac",
        "audio/x-wav",
    }
)
MULTIPART = "multipart/form-data"
_MEDIA_REMEDY = "Send it as the body with Content-Type audio/wav or audio/flac, or as `file` of multipart/form-data"


@dataclass(frozen=True)
class ParsedRequest:
    """A request: the audio's bytes (None if `parameters.uri` names them) and its parameters."""

    audio: bytes | None
    parameters: ScoreParameters


async def read_request(request: Request, query: ScoreParameters, limits: LimitsConfig) -> ParsedRequest:
    """Read the whole request; a body over the limit is refused before it is read to the end.

    Args:
        query: Parameters of the query; fields of a multipart form override them.

    Raises:
        ApiError: payload_too_large, unsupported_media_type, bad_parameter, undecodable_audio (an empty body).
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    audio: bytes | None = None
    parameters = query
    if media_type == MULTIPART:
        body = await _bounded_body(request, limits.max_body_bytes)
        audio, fields = await _parse_multipart(request.headers, body, limits.max_body_bytes)
        try:
            parameters = ScoreParameters.model_validate(query.model_dump(exclude_unset=True) | fields)
        except ValidationError as error:
            raise bad_parameter(error.errors()) from None
    elif media_type in AUDIO_TYPES or (query.uri is not None and not media_type):
        audio = await _bounded_body(request, limits.max_body_bytes) or None
    else:
        given = f"media type {media_type!r}" if media_type else "a body without a Content-Type"
        raise ApiError("unsupported_media_type", f"cannot read {given}", remedy=_MEDIA_REMEDY)
    if parameters.uri is not None and audio is not None:
        raise ApiError("bad_parameter", "the request holds audio and a `uri`", remedy="Send one or the other")
    if parameters.uri is None and not audio:
        raise ApiError("undecodable_audio", "the request holds no audio", remedy=_MEDIA_REMEDY, detail="empty_file")
    if parameters.budget_ms is not None and parameters.budget_ms > limits.max_budget_ms:
        raise ApiError(
            "bad_parameter",
            f"budget_ms {parameters.budget_ms:g} exceeds {limits.max_budget_ms:g}",
            remedy="Set a smaller budget",
        )
    return ParsedRequest(audio, parameters)


def bad_parameter(errors: Sequence[Any]) -> ApiError:
    """The error for invalid parameters, from pydantic's or FastAPI's list of errors."""
    first = errors[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return ApiError(
            "bad_parameter", f"unknown parameter {name!r}", remedy=f"Known: {', '.join(ScoreParameters.model_fields)}"
        )
    return ApiError(
        "bad_parameter", f"parameter {name!r}: {first['msg']}, got {first['input']!r}", remedy="GET /docs lists them"
    )


def fetch_audio(uri: str, limits: LimitsConfig, storage_options: dict[str, Any]) -> bytes:
    """Bytes of an object whose bucket is on the list (blocking: call it in a thread).

    Raises:
        ApiError: bad_parameter, uri_not_allowed, not_found, payload_too_large, storage_unavailable.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
        raise ApiError(
            "bad_parameter",
            f"uri {uri!r} is not of the form s3://bucket/key",
            remedy="No other address is read",
        )
    if parts.netloc not in limits.uri_buckets:
        raise ApiError(
            "uri_not_allowed",
            f"bucket {parts.netloc!r} is not on this service's list",
            remedy="Send the audio in the request, or ask the operator to add the bucket to serve.limits.uri_buckets",
        )
    options = dict(storage_options)
    if os.environ.get("AWS_ENDPOINT_URL"):
        options.setdefault("endpoint_url", os.environ["AWS_ENDPOINT_URL"])
    key = parts.netloc + parts.path
    try:
        storage = fsspec.filesystem("s3", **options)
        storage.invalidate_cache(key)
        size = int(storage.info(key)["size"])
        if size > limits.max_body_bytes:
            raise too_large(size, limits.max_body_bytes)
        return bytes(storage.cat_file(key))
    except FileNotFoundError:
        raise ApiError("not_found", f"no object at {uri}", remedy="Check bucket and key") from None
    except PermissionError as error:
        raise ApiError(
            "uri_not_allowed", f"the service may not read {uri}: {error}", remedy="Grant it read access"
        ) from error
    except OSError as error:
        raise ApiError("storage_unavailable", f"cannot read {uri}: {error}", remedy="Try again in a moment") from error


def too_large(size: int, limit: int) -> ApiError:
    """The error for a body or object over the limit."""
    return ApiError(
        "payload_too_large", f"{size} bytes or more exceed the limit of {limit}", remedy="Send a shorter clip, or FLAC"
    )


async def _bounded_body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(int(declared), limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:  # a chunked body declares no length
            raise too_large(len(body), limit)
    return bytes(body)


async def _parse_multipart(headers: Headers, body: bytes, limit: int) -> tuple[bytes | None, dict[str, Any]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(headers, stream(), max_files=1, max_fields=16, max_part_size=limit).parse()
    except (MultiPartException, KeyError) as error:
        raise ApiError("bad_parameter", f"not a readable multipart form: {error}", remedy=_MEDIA_REMEDY) from error
    audio: bytes | None = None
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise ApiError("bad_parameter", f"unknown file field {name!r}", remedy="Name it `file`")
            audio = await value.read()
        else:
            fields[name] = value
    await form.close()
    return audio, fields
