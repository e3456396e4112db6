"""Access to files on disk and s3://. Temporary failures are retried with backoff; others get a reason and a remedy."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from emoray.errors import EmorayError, LakeError, TransientError

#: botocore's standard mode: throttling (503 SlowDown), 500s, timeouts and broken connections, with exponential backoff
#: of up to 20 s; s3fs does up to five rounds of it. Its legacy default gives up on a throttled bucket in seconds.
S3_RETRIES = {"mode": "standard", "max_attempts": 8}
#: Numbers of operating system errors that are temporary.
TEMPORARY = {errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EREMOTEIO}
#: What to do about the others.
REMEDIES = {
    errno.ENOSPC: "Free space there, then run the same command again: it resumes",
    errno.EDQUOT: "Raise the quota or free space there, then run the same command again: it resumes",
    errno.EFBIG: "Raise the limit on the size of files, then run the same command again: it resumes",
    errno.EROFS: "Mount it writable",
}
LATER = "When it answers again, run the same command: it resumes"
NO_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or lake.storage_options"


def connect(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The file system behind an address, and the path on it.

    In `options`, options of the file system, `config_kwargs.retries` replaces our policy of retries.
    """
    options = dict(options or {})
    if uri.startswith("s3://"):
        options["config_kwargs"] = {"retries": dict(S3_RETRIES), **options.get("config_kwargs", {})}
    system, path = fsspec.core.url_to_fs(uri, **options)
    return system, str(path)


@contextlib.contextmanager
def translate_storage_errors(doing: str, where: str) -> Iterator[None]:
    """Turn what a file system raises while it is `doing` (`read`, `write` …) into an error with a reason and a remedy.

    Raises:
        TransientError: It may be temporary; the retries are used up.
        LakeError: It is permanent: not allowed, no such bucket, no credentials, no space.
        FileNotFoundError: As it is, unless the bucket is missing.
    """
    try:
        yield
    except EmorayError:
        raise
    except Exception as error:
        translated = _translation(error, doing, where)
        if translated is None:
            raise
        raise translated from error


def _translation(error: Exception, doing: str, where: str) -> EmorayError | None:
    from botocore import exceptions as s3

    if isinstance(error, s3.NoCredentialsError | s3.PartialCredentialsError):
        return LakeError(f"cannot {doing}: no credentials for this storage", where=where, remedy=NO_KEYS)
    if isinstance(error, s3.HTTPClientError | s3.ConnectionError | TimeoutError | ConnectionError):
        return TransientError(f"cannot {doing}: the storage does not answer ({error})", where=where, remedy=LATER)
    if isinstance(error, s3.BotoCoreError):
        return LakeError(f"cannot {doing}: {error}", where=where, remedy="Check lake.root and lake.storage_options")
    if isinstance(error, PermissionError):
        remedy = "Check the permissions; on s3:// the credentials and the bucket's policy"
        return LakeError(f"cannot {doing}: not allowed ({error})", where=where, remedy=remedy, kind="not_allowed")
    if isinstance(error, FileNotFoundError):
        if _s3_code(error) != "NoSuchBucket":
            return None
        remedy = "Create it, or fix the address"
        return LakeError(f"cannot {doing}: no such bucket", where=where, remedy=remedy, kind="missing_bucket")
    if isinstance(error, OSError) and error.errno in TEMPORARY:
        return TransientError(f"cannot {doing}: {error.strerror or error}", where=where, remedy=LATER)
    if isinstance(error, OSError):
        remedy = REMEDIES.get(error.errno or 0, "Fix the cause, then run the same command again")
        return LakeError(
            f"cannot {doing}: {error.strerror or error}", where=where, remedy=remedy, kind="storage_failed"
        )
    return None


def _s3_code(error: BaseException) -> str | None:
    """The code of the S3 error that an exception was made from, if any."""
    response = getattr(error.__cause__ or error.__context__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return str(code) if code else None
