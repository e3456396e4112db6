"""The text side of a score: run a version's own stages on what a request brings, and say why a part is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoray.errors import ConfigError
from emoray.schema import GRANULARITIES
from emoray.scoring.bundle import Bundle
from emoray.scoring.score import LEVEL_OF, ScoreRequest, Semantic
from emoray.stages.base import WAVEFORM, Stage
from emoray.stages.fingerprint import fingerprint
from emoray.stages.guard import BATCH_LEVEL_ERRORS, run_isolating_rows
from emoray.stages.pipeline import audio_stages, text_stages
from emoray.stages.transcribe.config import ReferenceConfig, TranscribeConfig
from emoray.stages.transcribe.stage import ReferenceTranscribe

#: Which stage gives a text vector, and from which semantic level on it may be used.
SOURCE = {
    "les": ("embed_transcript", "transcript"),
    "gs": ("embed_transcript", "transcript"),
    "es": ("embed_semantics", "full"),
}
_ORDER = ("audio", "transcript", "full")


class SemanticsRunner:
    """Runs a version's stages in process, from its own norms and text encoder.

    Args:
        bundle: The version.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        annotate = bundle.annotate
        self._transcribe = ReferenceTranscribe(_reference_config(annotate.transcribe))
        stages: list[Stage] = [*audio_stages(annotate), *text_stages(annotate, bundle.norms)]
        self._stages = {stage.name: stage for stage in stages if stage.name not in ("decode", "transcribe")}
        self.stale = {name: reason for name, stage in self._stages.items() if (reason := self._changed(stage))}

    def _changed(self, stage: Stage) -> str | None:
        """Why this installation's stage is not the one that the version was fitted with, or None."""
        known = self._bundle.fingerprints
        if stage.name.startswith("embed") and not self._bundle.granularities:
            return None  # an acoustic model carries no text encoder
        if stage.name not in known:
            return f"the version was made without the stage {stage.name}"
        names = {"decode" if name == WAVEFORM else name for name in (*stage.requires, *stage.uses)}
        inputs = {name: known[name] for name in sorted(names)}
        if stage.needs_norms:
            inputs["norms"] = self._bundle.norms.hash
        try:
            found = fingerprint(stage, inputs)
        except ConfigError as error:
            return f"this installation cannot run the stage {stage.name}: {error}"  # its model is not here
        if found == known[stage.name]:
            return None
        return (
            f"this installation's stage {stage.name} has the fingerprint {found}, the version was fitted with"
            f" {known[stage.name]}"
        )

    def run(self, requests: Sequence[ScoreRequest]) -> list[Semantic]:
        """Text vectors of a batch of requests, in their order."""
        found = [Semantic(row=self._row(number, request)) for number, request in enumerate(requests)]
        why: list[dict[str, str]] = [{} for _ in requests]
        for number, request in enumerate(requests):
            self._take_given(request, found[number].row, why[number])
        self._step(self._transcribe, found, requests, why, "transcript", "no transcript was given")
        # A stage whose output nothing will read is not run: its level was not asked for, or the model does not read it.
        reads = self._bundle.granularities
        for name, level, wanted in (
            ("prosody", "transcript", True),
            ("emphasis", "transcript", True),
            ("semantics", "full", "es" in reads),
            ("embed_transcript", "transcript", "les" in reads or "gs" in reads),
            ("embed_semantics", "full", "es" in reads),
        ):
            if wanted:
                self._step(self._stages[name], found, requests, why, level, self.stale.get(name))
        for request, one, reasons in zip(requests, found, why, strict=True):
            self._collect(request, one, reasons)
        return found

    def _row(self, number: int, request: ScoreRequest) -> dict[str, Any]:
        words = [{"start_s": None, "end_s": None, "emphasised": None, **word} for word in request.words or []]
        return {
            "utterance_id": str(number),
            "speaker_id": request.speaker_id,
            "language": request.language,
            "transcript": request.transcript,
            "words": words or None,
            WAVEFORM: request.samples,
        }

    def _take_given(self, request: ScoreRequest, row: dict[str, Any], why: dict[str, str]) -> None:
        """Put values that were computed before into the row, if they are the version's own."""
        prints = request.stage_fingerprints or {}
        for name, value in (request.stage_values or {}).items():
            if value is None or name == "decode":
                continue
            if prints.get(name) == self._bundle.fingerprints.get(name) and name in prints:
                row[name] = dict(value)
            elif name != self._transcribe.name or not request.transcript:  # a given transcript stands by itself
                why[name] = (
                    f"the given {name} has the fingerprint {prints.get(name, 'none')}, the version was fitted with"
                    f" {self._bundle.fingerprints.get(name, 'none')}"
                )

    def _step(
        self,
        stage: Stage,
        found: Sequence[Semantic],
        requests: Sequence[ScoreRequest],
        why: Sequence[dict[str, str]],
        level: str,
        blocked: str | None,
    ) -> None:
        """Run one stage on the rows that want and lack it.

        Args:
            stage: The stage.
            found: Rows so far; the stage's values are put into them.
            requests: What was asked.
            why: Per request: stage → why its value is absent; added to.
            level: Semantic level from which on the stage is wanted.
            blocked: Why the stage cannot be run here at all (transcribe: on a row without a transcript).
        """
        ready = []
        for number, (one, request) in enumerate(zip(found, requests, strict=True)):
            if one.row.get(stage.name) is not None or stage.name in why[number]:
                continue
            if _ORDER.index(LEVEL_OF[request.semantics]) < _ORDER.index(level):
                continue
            if stage is self._transcribe and request.transcript:
                ready.append(number)
                continue
            missing = [name for name in stage.requires if name in why[number] and one.row.get(name) is None]
            if missing:
                why[number][stage.name] = why[number][missing[0]]
            elif blocked is not None:
                why[number][stage.name] = blocked
            else:
                ready.append(number)
        try:
            outcomes = run_isolating_rows(stage, [found[number].row for number in ready], self._bundle.annotate.guard)
        except (
            BATCH_LEVEL_ERRORS
        ) as error:  # an engine that is away or not installed: the sound can be scored all the same
            for number in ready:
                why[number][stage.name] = f"{stage.name}: {error}"
            return
        for number, outcome in zip(ready, outcomes, strict=True):
            if outcome.error is not None:
                why[number][stage.name] = f"{stage.name}: {outcome.error['message']}"

    def _collect(self, request: ScoreRequest, one: Semantic, why: Mapping[str, str]) -> None:
        for name in GRANULARITIES:
            stage, level = SOURCE[name]
            value = one.row.get(stage)
            if name not in self._bundle.granularities:
                one.absent[name] = "the model is not built to read it"
            elif _ORDER.index(LEVEL_OF[request.semantics]) < _ORDER.index(level):
                one.absent[name] = f"semantics={request.semantics} was asked for"
            elif value is not None and value.get(name) is not None:
                one.vectors[name] = np.asarray(value[name], dtype=np.float32)
            elif name == "les" and value is not None:
                one.absent[name] = why.get("emphasis", "no word is emphasised")
            else:
                one.absent[name] = why.get(stage, f"stage {stage} gave no value")


def _reference_config(config: TranscribeConfig) -> ReferenceConfig:
    """How word times of a request's own transcript are found.

    As the version was fitted, where that says how; `auto` (given times, else alignment) otherwise.
    """
    if config.kind == "reference" and config.reference.times in ("aligned", "none"):
        return config.reference
    return ReferenceConfig(times="auto")
