"""Access to model versions: the one that the alias names, its scorer, the stages that it was fitted with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish import example
from emoray.registry.tracking import Tracking, connect
from emoray.scoring.bundle_files import FittedStages, open_stages
from emoray_serving.config import AppConfig

if TYPE_CHECKING:
    from emoray.scoring.scorer import Scorer


class Versions:
    """The registry, opened at the first call: a replica also starts while the store cannot be reached.

    Safe to use from several threads.
    """

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._tracking: Tracking | None = None

    def lookup(self) -> str | None:
        """Number of the version that the alias names, or None if it names none.

        Raises:
            ServiceError: The store cannot be reached.
        """
        found = versions.find_alias(self._store(), self._config.serve.scorer.alias)
        return found.version if found else None

    def load(self, version: str) -> Scorer:
        """Fetch a version, open it as a scorer and see that it scores as it did when it was registered.

        Raises:
            AudioError: It has no finite score.
            RegistryError: There is no such version, its files are missing or no usable bundle, or it scores otherwise.
        """
        store = self._store()
        found = versions.by_version(store, version)
        scorer = versions.load(store, found, speakers=Lake(self._config.lake))
        example.check(scorer, found.version, found.tags, found.source)
        return scorer

    def fitted(self, version: str) -> FittedStages:
        """The stages that a version was fitted with.

        Raises:
            RegistryError: As `load`.
        """
        store = self._store()
        fitted = open_stages(versions.fetch(store, versions.by_version(store, version)))
        return fitted.with_speakers_of(Lake(self._config.lake))

    def _store(self) -> Tracking:
        with self._lock:
            if self._tracking is None:
                self._tracking = connect(self._config.tracking, Lake(self._config.lake))
            return self._tracking
