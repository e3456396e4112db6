"""Speakers whom callers enrolled, on the lake: `speakers/<hash of the id>.json`, one file per speaker.

What is kept are means of measures of the enrolment clips, of prosody and of acoustic features, never sound or words.
Means belong to the fingerprint of what measured them, so that each model version reads those that it can compare with
its norms.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from emoray.errors import EmorayError
from emoray.lake.tables import Lake

log = logging.getLogger(__name__)

FOLDER = "speakers"
#: How long a reader keeps what it read: so soon a new enrolment counts everywhere.
KEEP_S = 10.0
MOST_KEPT = 10_000


def store_speaker(lake: Lake, speaker_id: str, measured_by: str, means: Mapping[str, Any]) -> str:
    """Keep a speaker's norms; earlier ones of the same measures are replaced. Returns the file's address.

    Args:
        measured_by: Fingerprint of the stage or front-end that measured them.
        means: As `emoray.stages.norms.speaker_means` or `emoray.models.frontend.sound_means` gives them.
    """
    where = (FOLDER, _file(speaker_id))
    document: dict[str, Any] = {"speaker_id": speaker_id, "means": {}}
    if lake.exists(*where):
        document = lake.read_json(*where)
    document["means"][measured_by] = dict(means)
    return lake.write_json(document, *where)


class StoredSpeakers(Mapping[str, Mapping[str, Any]]):
    """The enrolled speakers of a lake as a mapping, read when they are asked for: `Norms.enrolled` for a service.

    Args:
        measured_by: Fingerprint of the stage or front-end whose measures count.
    """

    def __init__(self, lake: Lake, measured_by: str) -> None:
        self._lake, self._measured_by = lake, measured_by
        self._read: dict[str, tuple[float, Mapping[str, Any] | None]] = {}

    def __getitem__(self, speaker_id: str) -> Mapping[str, Any]:
        found = self._find(speaker_id)
        if found is None:
            raise KeyError(speaker_id)
        return found

    def __iter__(self) -> Iterator[str]:
        for name in self._lake.list_files(FOLDER, suffix=".json"):
            yield str(self._lake.read_json(FOLDER, name.rpartition("/")[2])["speaker_id"])

    def __len__(self) -> int:
        return len(self._lake.list_files(FOLDER, suffix=".json"))

    def _find(self, speaker_id: str) -> Mapping[str, Any] | None:
        if not speaker_id:
            return None
        read_at, found = self._read.get(speaker_id, (float("-inf"), None))
        if time.monotonic() - read_at > KEEP_S:
            if len(self._read) >= MOST_KEPT:
                self._read.clear()
            try:
                found = self._stored(speaker_id)
            except EmorayError as error:  # a score of an unknown speaker is better than none
                log.warning("cannot read the norms of speaker %r: %s", speaker_id, error)
            self._read[speaker_id] = (time.monotonic(), found)
        return found

    def _stored(self, speaker_id: str) -> Mapping[str, Any] | None:
        if not self._lake.exists(FOLDER, _file(speaker_id)):
            return None
        document: dict[str, Any] = self._lake.read_json(FOLDER, _file(speaker_id))
        means: Mapping[str, Any] | None = document["means"].get(self._measured_by)
        return means


def _file(speaker_id: str) -> str:
    return f"{hashlib.sha256(speaker_id.encode()).hexdigest()[:32]}.json"
