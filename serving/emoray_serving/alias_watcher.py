"""Watching an alias: a new version is loaded while the old one serves, and replaces it once it is warmed up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from emoray_serving.http.schemas import LoadFailure

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A version in memory."""

    version: str
    value: T


class AliasWatcher(Generic[T]):
    """Holds the version that an alias names.

    All methods run on one event loop; `lookup` and `load` run in threads. `current` is swapped by one assignment, so
    that a request sees the old version or the new one, never a mixture. A request that began with the old version
    finishes with it.

    Args:
        lookup: Returns the version that the alias names, None if it names none.
        load: Loads and warms up a version; raises if it cannot.
        retry_max_s: Longest pause between attempts at a version that does not load (they double from `poll_s`).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        lookup: Callable[[], str | None],
        load: Callable[[str], T],
        *,
        poll_s: float,
        keep_previous_s: float,
        retry_max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._load = load
        self._poll_s = poll_s
        self._keep_previous_s = keep_previous_s
        self._retry_max_s = retry_max_s
        self._clock = clock
        self._retry_at = 0.0
        self._drop_previous_at = 0.0
        self.current: Loaded[T] | None = None
        self.previous: Loaded[T] | None = None
        self.failure: LoadFailure | None = None

    def get(self, version: str | None) -> Loaded[T] | None:
        """The requested version if it is still in memory, else the current one."""
        if version is not None and self.previous is not None and self.previous.version == version:
            return self.previous
        return self.current

    async def run(self) -> None:
        """Check the alias until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._poll_s)

    async def check(self) -> bool:
        """Check the alias once; load and swap if it names another version. Returns whether it did."""
        if self.previous is not None and self._clock() >= self._drop_previous_at:
            self.previous = None
        try:
            version = await asyncio.to_thread(self._lookup)
        except Exception as error:
            self._failed(None, f"cannot look up the alias: {error}")
            return False
        if version is None or (self.current is not None and self.current.version == version):
            self.failure = None
            return False
        if self.failure is not None and self.failure.version == version and self._clock() < self._retry_at:
            return False
        try:
            value = await asyncio.to_thread(self._load, version)
        except Exception as error:
            self._failed(version, str(error) or type(error).__name__)
            return False
        self.previous = self.current
        self._drop_previous_at = self._clock() + self._keep_previous_s
        self.current = Loaded(version, value)
        self.failure = None
        logger.info("version %s replaced %s", version, self.previous.version if self.previous else "none")
        return True

    def _failed(self, version: str | None, message: str) -> None:
        same = self.failure is not None and self.failure.version == version
        attempts = self.failure.attempts + 1 if same and self.failure is not None else 1
        self.failure = LoadFailure(version=version, message=message, attempts=attempts)
        self._retry_at = self._clock() + min(self._poll_s * 2**attempts, self._retry_max_s)
        kept = f"version {self.current.version} stays" if self.current else "there is no version to serve"
        logger.warning("version %s: %s (attempt %d); %s", version, message, attempts, kept)
