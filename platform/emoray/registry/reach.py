"""A tracking server that does not answer: how it is recognised, what is said of it, and how long to wait for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import requests

from emoray.errors import ServiceError

#: MLflow's variable: how long a request may take.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
#: How long one with a large file may take.
UPLOAD_S = 600


def is_lost(error: BaseException) -> bool:
    """Whether an error comes from a tracking server that does not answer, or not any more."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, requests.ConnectionError | requests.Timeout | requests.exceptions.RetryError):
            return True
        found = found.__cause__ or found.__context__
    return False


def lost_error(uri: str, error: BaseException) -> ServiceError:
    """What to raise for it."""
    return ServiceError(
        f"the tracking server does not answer ({str(error).splitlines()[0][:200]})",
        where=uri,
        remedy="Start it, or check tracking.uri and the network; then run the same command again",
        kind="tracking_unreachable",
    )


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Wait longer for answers while a block runs: a server that stores a large file answers when it is stored."""
    with environment_kept(_TIMEOUT):
        os.environ[_TIMEOUT] = str(max(UPLOAD_S, int(os.environ.get(_TIMEOUT) or 0)))
        yield


@contextlib.contextmanager
def environment_kept(name: str) -> Iterator[None]:
    """Restore an environment variable after a block."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
