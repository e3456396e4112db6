"""The transcript that the corpus, or the caller, gives."""

from __future__ import annotations

from typing import Any

from emoray.errors import StageError
from emoray.stages.base import WAVEFORM, Row, Value
from emoray.stages.transcribe.base import Times, Transcribe, make_value, make_word
from emoray.stages.transcribe.config import ReferenceConfig
from emoray.stages.transcribe.markup import spoken


class ReferenceTranscribe(Transcribe):
    """Take the row's own transcript, without its markup."""

    version = 3
    requires = (WAVEFORM,)

    def __init__(self, config: ReferenceConfig) -> None:
        self.config = config

    def options(self) -> dict[str, Any]:
        """Kind and the source of word times."""
        return {"kind": "reference", **self.config.model_dump(mode="json")}

    def run(self, rows: list[Row]) -> list[Value]:
        """Take or align.

        Raises:
            StageError: `empty_transcript`, `missing_word_times`, or what `pocketsphinx.Aligner.align` raises.
        """
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Value:
        text = spoken(row.get("transcript") or "")
        if not text:
            raise StageError(
                "the corpus has no transcript for this utterance, or one of markup alone",
                where=row["utterance_id"],
                remedy="Map a transcript column, or set annotate.transcribe.kind to a recogniser",
                kind="empty_transcript",
            )
        given = row.get("words")
        language = row.get("language")
        times = self._times(given, language)
        if times == "corpus":
            words = [
                make_word(word["word"], word["start_s"], word["end_s"]) for word in given or [] if spoken(word["word"])
            ]
        else:
            words = [make_word(word) for word in text.split()]
            if times == "aligned":
                from emoray.stages.transcribe.pocketsphinx import aligner

                try:
                    words = aligner().align(row[WAVEFORM], text)
                except StageError as refused:
                    if self.config.times == "aligned" or refused.kind != "alignment_mismatch":
                        raise
                    times = "none"
        return make_value(text, words, language, None, times)

    def _times(self, given: list[dict[str, Any]] | None, language: str | None) -> Times:
        timed = bool(given) and all(w["start_s"] is not None and w["end_s"] is not None for w in given or [])
        wanted = self.config.times
        if wanted == "corpus" and not timed:
            raise StageError(
                "the corpus has no word times for this utterance",
                remedy="Set annotate.transcribe.reference.times to auto, aligned or none",
                kind="missing_word_times",
            )
        if wanted == "auto":
            english = language is None or language.lower().startswith("en")
            return "corpus" if timed else "aligned" if english else "none"
        return wanted
