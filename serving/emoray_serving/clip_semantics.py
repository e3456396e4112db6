"""The semantics of a clip that are ready when it is scored, and the reasons for what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from emoray.scoring.score import RequestedSemantics
from emoray_serving.messages import Annotated

#: Sources of the words, as the reply names them.
GIVEN, RECOGNISED = "given", "recognised"
#: Stage → name of its product in the reply.
PRODUCT = {"prosody": "prosody", "transcribe": "transcript", "emphasis": "emphasis", "semantics": "description"}


@dataclass
class ClipSemantics:
    """Collected while a request waits.

    Some values are shown in the reply but not used by the scorer: recognised words, where the version was fitted with
    given transcripts.

    Attributes:
        source: Source of the words: `GIVEN` or `RECOGNISED`.
        shown: Value by stage name, for the reply.
        values: Value by stage name, for the scorer.
        fingerprints: Fingerprint of each value for the scorer.
        absent: Reason by product, as the reply states it.
    """

    source: str = GIVEN
    shown: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, annotated: Annotated, *, display_only: Iterable[str] = ()) -> None:
        """Add the result of a deployment; values of `display_only` stages are shown, but not passed to the scorer."""
        hidden = set(display_only)
        self.shown |= annotated.values
        for stage, value in annotated.values.items():
            if stage not in hidden:
                self.values[stage] = value
                self.fingerprints[stage] = annotated.fingerprints[stage]
        for stage, message in annotated.errors.items():
            self.mark_missing(PRODUCT[stage], message)

    def mark_missing(self, product: str, reason: str) -> None:
        """Record why a product is absent; the first reason is kept."""
        self.absent.setdefault(product, reason)

    def usable_level(self, requested: RequestedSemantics) -> RequestedSemantics:
        """The highest level up to the requested one whose values are ready; the scorer does not compute late ones."""
        if requested == "full" and "semantics" in self.values:
            return "full"
        return "transcript" if requested != "none" and "transcribe" in self.values else "none"
