"""Cuts of lhotse (`cuts.jsonl`, `cuts.jsonl.gz`) as records of a manifest; lhotse itself is not needed.

A cut is a span of a recording with the supervisions in it. A cut with one supervision is an utterance; with several,
each supervision is one. Times of supervisions start at the cut's beginning, those of aligned words at the recording's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emoray.errors import InputError

KINDS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
#: Types of source that our decoder can open.
OPENED = ("file", "url")
#: Times that differ by less are equal: one sample at 16 kHz.
TOLERANCE_S = 1 / 16_000

Values = dict[str, Any]


def is_cut(values: Mapping[str, Any]) -> bool:
    """Whether a line of JSON is a cut."""
    return values.get("type") in KINDS and ("recording" in values or "tracks" in values or "supervisions" in values)


def utterances(values: Mapping[str, Any], where: str) -> Iterator[Values]:
    """The utterances of a cut, with the utterances table's names; custom fields keep their own.

    Raises:
        InputError: The cut is not a plain span of one audio file (mixed, padded, augmented, one channel of several,
            features only, audio in memory or in an archive), or a field is missing.
    """
    try:
        uri = _audio(values, where)
        start_s, duration_s = float(values["start"]), float(values["duration"])
        whole = start_s == 0 and abs(duration_s - float(values["recording"]["duration"])) < TOLERANCE_S
        supervisions = values.get("supervisions") or []
        if len(supervisions) < 2:
            supervision = supervisions[0] if supervisions else {}
            span: Values = {} if whole else {"start_s": start_s, "end_s": start_s + duration_s}
            found = _values(values, supervision, uri, start_s, duration_s)
            yield found | {"utterance_id": values["id"], "duration_s": duration_s} | span
            return
        for supervision in supervisions:
            begin_s, length_s = start_s + float(supervision["start"]), float(supervision["duration"])
            yield _values(values, supervision, uri, begin_s, length_s) | {
                "utterance_id": supervision["id"],
                "duration_s": length_s,
                "start_s": begin_s,
                "end_s": begin_s + length_s,
            }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(
            f"not a cut as lhotse writes it ({type(error).__name__}: {error})",
            where=where,
            remedy="Write it again",
            kind="damaged_file",
        ) from None


def _audio(values: Mapping[str, Any], where: str) -> str:
    """Address of the audio file that a cut is a span of."""
    recording = values.get("recording")
    if values["type"] not in ("MonoCut", "MultiCut") or not recording:
        what = "a cut without a recording" if values["type"] in ("MonoCut", "MultiCut") else f"a {values['type']}"
        raise _unsupported(f"{what} is not a span of one audio file", where)
    if recording.get("transforms"):
        raise _unsupported("the recording is changed on the fly (transforms)", where)
    sources = recording["sources"]
    if len(sources) != 1 or sources[0]["type"] not in OPENED:
        kinds = ", ".join(str(source["type"]) for source in sources)
        raise _unsupported(f"the recording is not one audio file (sources: {kinds})", where)
    channels = sources[0]["channels"]
    if values["type"] == "MonoCut" and len(channels) > 1:
        raise _unsupported(f"the cut is one of {len(channels)} channels of its file", where)
    return str(sources[0]["source"])


def _unsupported(what: str, where: str) -> InputError:
    remedy = "Write the cuts' audio out first: cuts.save_audios(FOLDER), then to_file"
    return InputError(what, where=where, remedy=remedy, kind="unsupported_cut")


def _values(
    cut: Mapping[str, Any], supervision: Mapping[str, Any], uri: str, begin_s: float, duration_s: float
) -> Values:
    """The non-empty values of a cut and one of its supervisions.

    `uri` is the audio file. The utterance begins at `begin_s` in the recording, where the words' times will start, and
    has `duration_s`; words whose middle is outside are left out.
    """
    words = [
        {"word": symbol, "start_s": max(start_s, 0.0), "end_s": min(end_s, duration_s)}
        for symbol, start_s, end_s in (
            (str(symbol), float(start) - begin_s, float(start) + float(length) - begin_s)
            for symbol, start, length, *_ in (supervision.get("alignment") or {}).get("word", [])
        )
        if symbol.strip() and 0 <= (start_s + end_s) / 2 < duration_s
    ]
    named = {
        "audio_uri": uri,
        "speaker_id": supervision.get("speaker"),
        "gender": supervision.get("gender"),
        "language": supervision.get("language"),
        "transcript": supervision.get("text"),
        "words": words,
    }
    # A custom field may be a recording or an array of features, which do not fit into a table.
    custom = {
        key: value
        for part in (cut.get("custom") or {}, supervision.get("custom") or {})
        for key, value in part.items()
        if not isinstance(value, dict) or key == "emotion_votes"
    }
    return {key: value for key, value in (custom | named).items() if value not in (None, "", [])}
