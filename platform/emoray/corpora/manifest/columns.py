"""Which column of a source is which of ours: by the user's map, otherwise by the field's usual names."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence

from emoray.errors import InputError
from emoray.schema import UTTERANCES

log = logging.getLogger(__name__)

#: Names by which a column is found if the map does not name it, besides its own name. The first match wins.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "utterance_id": ("id", "utt_id", "segment_id"),
    "audio_uri": ("audio_filepath", "audio", "audio_path", "path", "file", "filename", "file_name", "FileName", "wav"),
    "duration_s": ("duration",),
    "start_s": ("offset", "start"),
    "end_s": ("end",),
    "speaker_id": ("speaker", "spk", "spk_id", "SpkrID"),
    "gender": ("Gender", "sex"),
    "language": ("lang", "source_lang"),
    "split": ("Split_Set", "partition", "subset"),
    "valence": ("EmoVal", "val"),
    "arousal": ("EmoAct", "act", "activation"),
    "dominance": ("EmoDom", "dom"),
    "emotion": ("EmoClass", "emo", "label"),
    "transcript": ("text", "transcription", "sentence"),
}
#: Columns that are computed, never read.
DERIVED = ("corpus", "valence_raw", "arousal_raw", "dominance_raw")
READABLE = tuple(name for name in UTTERANCES.names if name not in DERIVED)
#: EMO-SUPERB's csv: between these is a column per class with its share of the raters' votes.
EMO_SUPERB = ("FileName", "EmoAct", "EmoVal", "EmoDom")


def column_map(columns: Sequence[str], given: Mapping[str, str], path: str, key: str) -> dict[str, str]:
    """Column of the utterances table → column of the source.

    Args:
        columns: Of the source.
        given: The user's part of the map.
        path: The source, for messages.
        key: Its configuration section, for messages: `corpus.manifest`.

    Raises:
        InputError: The user's map does not fit, there is no audio column, or a name is nearly one of ours.
    """
    for target, column in given.items():
        if target not in READABLE:
            raise InputError(
                f"the utterances table has no column {target!r}",
                where=f"{key}.columns",
                remedy=_nearest(target, READABLE),
                kind="unknown_column",
            )
        if column not in columns:
            raise InputError(
                f"no column {column!r} (mapped to {target})",
                where=path,
                remedy=_nearest(column, columns),
                kind="missing_column",
            )
    mapped = dict(given)
    for target in READABLE:
        candidates = (target, *USUAL_NAMES.get(target, ()))
        found = next((column for column in candidates if column in columns and column not in given.values()), None)
        if target not in mapped and found is not None:
            mapped[target] = found
    if "audio_uri" not in mapped:
        raise InputError(
            f"no column with the audio files (there are {', '.join(columns)})",
            where=path,
            remedy=f"Map it: {key}.columns.audio_uri=YOUR_COLUMN",
            kind="missing_column",
        )
    unused = [column for column in columns if column not in mapped.values()]
    for column in unused:
        near = difflib.get_close_matches(
            column.lower(), [name for name in READABLE if name not in mapped], n=1, cutoff=0.85
        )
        if near:
            raise InputError(
                f"column {column!r} is unknown; is it {near[0]}?",
                where=path,
                remedy=f"Rename it, or map it: {key}.columns.{near[0]}={column}",
                kind="unknown_column",
            )
    if unused:
        log.info("columns not used: %s", ", ".join(unused))
    return mapped


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}"


def vote_columns(columns: Sequence[str], given: Sequence[str], key: str) -> tuple[str, ...]:
    """Columns with a class's votes: those that the user names, otherwise EMO-SUPERB's.

    Raises:
        InputError: There is no such column.
    """
    for column in given:
        if column not in columns:
            raise InputError(
                f"no column {column!r} with votes",
                where=f"{key}.vote_columns",
                remedy=_nearest(column, columns),
                kind="missing_column",
            )
    if given or "EmoClass" in columns or not all(name in columns for name in EMO_SUPERB):
        return tuple(given)
    return tuple(columns[columns.index("FileName") + 1 : columns.index("EmoAct")])
