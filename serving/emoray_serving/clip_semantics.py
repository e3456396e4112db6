"""What is known about a clip's meaning by the time it is scored, and why the rest is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from emoray.scoring.score import RequestedSemantics
from emoray_serving.messages import GIVEN, Annotated

#: What a caller calls the product of each stage.
PRODUCT = {"prosody": "prosody", "transcribe": "transcript", "emphasis": "emphasis", "semantics": "description"}


@dataclass
class ClipSemantics:
    """Collected while a request waits.

    What is shown and what is used differ: recognised words are shown, but a version that was fitted with given ones
    does not get to see them.

    Attributes:
        source: Where the words come from: `given` or `recognised`.
        shown: Value by stage name, for the reply.
        values: Value by stage name, for the scorer.
        fingerprints: Fingerprint of each value for the scorer.
        absent: Reason by product, in the words of the reply.
    """

    source: str = GIVEN
    shown: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, annotated: Annotated, *, display_only: Iterable[str] = ()) -> None:
        """Take in what a deployment found out.

        Args:
            annotated: Its result.
            display_only: Stages whose values the scorer shall not get.
        """
        hidden = set(display_only)
        self.shown |= annotated.values
        for stage, value in annotated.values.items():
            if stage not in hidden:
                self.values[stage] = value
                self.fingerprints[stage] = annotated.fingerprints[stage]
        for stage, message in annotated.errors.items():
            self.mark_missing(PRODUCT[stage], message)

    def mark_missing(self, product: str, reason: str) -> None:
        """Note why something is absent (the first reason stays)."""
        self.absent.setdefault(product, reason)

    def usable(self, requested: RequestedSemantics) -> RequestedSemantics:
        """The most that the scorer can make of what is there: it shall not make up itself what did not come in time."""
        if requested == "full" and "semantics" in self.values:
            return "full"
        return "transcript" if requested != "none" and "transcribe" in self.values else "none"
