"""Conditions: what is known of a clip beside its sound, in training, in reports and in production.

A condition is how much is known of the speaker and where the words come from. A corpus is annotated under each of the
configured conditions; training draws one per clip and epoch, and every figure and interval belongs to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from emoray.config import Section
from emoray.stages.transcribe.config import TranscriberKind

UNKNOWN = "unknown"


class ConditionsConfig(Section):
    """Conditions under which a corpus is annotated too, beside that of `norms.enrol_clips` and `transcribe.kind`.

    Every combination is one. Stages whose values do not depend on it are run once.

    Attributes:
        enrol_clips: Further numbers of enrolment clips; 0: speakers are unknown.
        transcripts: Further sources of words.
    """

    enrol_clips: tuple[Annotated[int, Field(ge=0)], ...]
    transcripts: tuple[TranscriberKind, ...]


@dataclass(frozen=True)
class Condition:
    """What is known of a clip beside its sound.

    Attributes:
        enrol_clips: Clips that the speaker's norms rest on, at most; 0 for an unknown speaker.
        transcript: Source of the words: a kind of `annotate.transcribe`.
    """

    enrol_clips: int
    transcript: str

    @property
    def name(self) -> str:
        """Its name in tables and files, for example `enrolled-5/reference`."""
        speaker = f"enrolled-{self.enrol_clips}" if self.enrol_clips else UNKNOWN
        return f"{speaker}/{self.transcript}"

    @classmethod
    def named(cls, name: str) -> Condition:
        """The condition of a name."""
        speaker, _, transcript = name.partition("/")
        return cls(0 if speaker == UNKNOWN else int(speaker.rpartition("-")[2]), transcript)

    @property
    def speaker_title(self) -> str:
        """What is known of the speaker, for readers."""
        return f"speaker enrolled with {self.enrol_clips} clips" if self.enrol_clips else "speaker unknown"

    @property
    def title(self) -> str:
        """Its name for readers."""
        words = "given words" if self.transcript == "reference" else f"words from {self.transcript}"
        return f"{self.speaker_title}, {words}"


@dataclass(frozen=True)
class FittedCondition:
    """A condition under which a corpus is annotated, or a version was fitted.

    Attributes:
        name: Of the `Condition`.
        fingerprints: Fingerprint of each stage under it.
        norms: Hash of the norms that its text stages measure against.
    """

    name: str
    fingerprints: dict[str, str]
    norms: str
