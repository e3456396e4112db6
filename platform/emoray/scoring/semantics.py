"""The text side of a score: run a version's stages on a request, with a reason for each absent part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoray.errors import ConfigError
from emoray.schema import GRANULARITIES
from emoray.scoring.bundle import Bundle
from emoray.scoring.score import LEVEL_OF, ScoreRequest, TextVectors
from emoray.stages.base import WAVEFORM, Stage
from emoray.stages.fingerprint import chained_fingerprint
from emoray.stages.guard import BATCH_LEVEL_ERRORS, run_isolating_rows
from emoray.stages.pipeline import audio_stages, text_stages
from emoray.stages.transcribe.config import ReferenceConfig, TranscribeConfig
from emoray.stages.transcribe.stage import ReferenceTranscribe

#: The stage of each text vector, and the lowest semantic level that may use it.
SOURCE = {
    "les": ("embed_transcript", "transcript"),
    "gs": ("embed_transcript", "transcript"),
    "es": ("embed_semantics", "full"),
}
_ORDER = ("audio", "transcript", "full")


class SemanticsRunner:
    """Runs a version's stages in process, with its norms and text encoder."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        annotate = bundle.annotate
        self._transcribe = ReferenceTranscribe(_reference_config(annotate.transcribe))
        stages: list[Stage] = [*audio_stages(annotate), *text_stages(annotate, bundle.norms)]
        self._stages = {stage.name: stage for stage in stages if stage.name not in ("decode", "transcribe")}
        self.stale = {name: reason for name, stage in self._stages.items() if (reason := self._changed(stage))}

    def _changed(self, stage: Stage) -> str | None:
        """The reason why this installation's stage is not the one that the version was fitted with, or None."""
        known = self._bundle.fingerprints
        if stage.name.startswith("embed") and not self._bundle.granularities:
            return None  # the bundle of an acoustic model has no text encoder
        if stage.name not in known:
            return f"the version was made without the stage {stage.name}"
        try:
            found = chained_fingerprint(stage, known, self._bundle.norms.hash)
        except ConfigError as error:
            return f"this installation cannot run the stage {stage.name}: {error}"  # its model is missing
        if found == known[stage.name]:
            return None
        return (
            f"this installation's stage {stage.name} has the fingerprint {found}, the version was fitted with"
            f" {known[stage.name]}"
        )

    def run(self, requests: Sequence[ScoreRequest]) -> list[TextVectors]:
        """Text vectors of a batch of requests, in their order."""
        semantics = [TextVectors(row=self._row(number, request)) for number, request in enumerate(requests)]
        absent: list[dict[str, str]] = [{} for _ in requests]
        for number, request in enumerate(requests):
            self._take_given(request, semantics[number], absent[number])
        self._run_stage(self._transcribe, semantics, requests, absent, "transcript", "no transcript was given")
        # Stages whose output nothing reads are not run: their level was not requested, or the model does not read it.
        reads = self._bundle.granularities
        for name, level, wanted in (
            ("prosody", "transcript", True),
            ("emphasis", "transcript", True),
            ("semantics", "full", "es" in reads),
            ("embed_transcript", "transcript", "les" in reads or "gs" in reads),
            ("embed_semantics", "full", "es" in reads),
        ):
            if wanted:
                self._run_stage(self._stages[name], semantics, requests, absent, level, self.stale.get(name))
        for request, one, reasons in zip(requests, semantics, absent, strict=True):
            self._collect(request, one, reasons)
        return semantics

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

    def _take_given(self, request: ScoreRequest, one: TextVectors, absent_reasons: dict[str, str]) -> None:
        """Put given values into the row, if they are from the version's own stages."""
        prints = request.stage_fingerprints or {}
        for name, value in (request.stage_values or {}).items():
            if value is None or name == "decode":
                continue
            if name == self._transcribe.name and prints.get(name) in self._bundle.transcripts:
                one.row[name], one.source = dict(value), self._bundle.transcripts[prints[name]]
            elif prints.get(name) == self._bundle.fingerprints.get(name) and name in prints:
                one.row[name] = dict(value)
            elif name != self._transcribe.name or not request.transcript:  # a given transcript needs no stage
                absent_reasons[name] = (
                    f"the given {name} has the fingerprint {prints.get(name, 'none')}, the version was fitted with"
                    f" {self._bundle.fingerprints.get(name, 'none')}"
                )

    def _run_stage(
        self,
        stage: Stage,
        semantics: Sequence[TextVectors],
        requests: Sequence[ScoreRequest],
        absent_reasons: Sequence[dict[str, str]],
        level: str,
        blocked: str | None,
    ) -> None:
        """Run one stage on the rows that need its value and do not have it.

        Args:
            semantics: Their rows get the stage's values.
            absent_reasons: Per request, stage → why its value is absent; gets this stage's.
            level: Lowest semantic level that needs the stage.
            blocked: Why the stage cannot be run here at all (transcribe: on a row without a transcript).
        """
        ready = []
        for number, (one, request) in enumerate(zip(semantics, requests, strict=True)):
            if one.row.get(stage.name) is not None or stage.name in absent_reasons[number]:
                continue
            if _ORDER.index(LEVEL_OF[request.semantics]) < _ORDER.index(level):
                continue
            if stage is self._transcribe and request.transcript:
                ready.append(number)
                continue
            missing = [name for name in stage.requires if name in absent_reasons[number] and one.row.get(name) is None]
            if missing:
                absent_reasons[number][stage.name] = absent_reasons[number][missing[0]]
            elif blocked is not None:
                absent_reasons[number][stage.name] = blocked
            else:
                ready.append(number)
        rows = [semantics[number].row for number in ready]
        try:
            outcomes = run_isolating_rows(stage, rows, self._bundle.annotate.guard)
        except BATCH_LEVEL_ERRORS as error:  # without its engine or package the sound can still be scored
            for number in ready:
                absent_reasons[number][stage.name] = f"{stage.name}: {error}"
            return
        for number, outcome in zip(ready, outcomes, strict=True):
            if outcome.error is not None:
                absent_reasons[number][stage.name] = f"{stage.name}: {outcome.error['message']}"

    def _collect(self, request: ScoreRequest, one: TextVectors, absent_reasons: Mapping[str, str]) -> None:
        for name in GRANULARITIES:
            stage, level = SOURCE[name]
            value = one.row.get(stage)
            if name not in self._bundle.granularities:
                one.absent[name] = "the model does not read it"
            elif _ORDER.index(LEVEL_OF[request.semantics]) < _ORDER.index(level):
                one.absent[name] = f"semantics={request.semantics} was requested"
            elif value is not None and value.get(name) is not None:
                one.vectors[name] = np.asarray(value[name], dtype=np.float32)
            elif name == "les" and value is not None:
                one.absent[name] = absent_reasons.get("emphasis", "no word is emphasised")
            else:
                one.absent[name] = absent_reasons.get(stage, f"stage {stage} has no value")


def _reference_config(config: TranscribeConfig) -> ReferenceConfig:
    """How word times of a request's transcript are found.

    As in the version's fit, if its transcripts were given; otherwise `auto` (given times, else alignment).
    """
    if config.kind == "reference" and config.reference.times in ("aligned", "none"):
        return config.reference
    return ReferenceConfig(times="auto")
