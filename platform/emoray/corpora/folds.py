"""Leave-one-out folds: which part of a corpus a fold trains on, selects on and tests on.

The `fold` column says in which fold an utterance is tested: by its speaker in EMO-DB, by its session in IEMOCAP, as the
manifest says in a corpus of your own. Fold files are stored beside the tables, `utterances_meta/<corpus>-folds.json`.
Of any corpus speakers can be left out in turn: each speaker, or groups of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from emoray.errors import InputError, LakeError
from emoray.lake.tables import Lake
from emoray.schema import UNKNOWN_SPEAKER, UTTERANCES, assert_speaker_disjoint

#: Train, dev and test need one part each.
MIN_PARTS = 3


@dataclass(frozen=True)
class Fold:
    """One fold; the parts are values of the `fold` column, or groups of speakers.

    Attributes:
        test: The part that is left out.
        dev: The part that a model is selected on.
        train: All others.
        speaker_groups: Number of groups that the speakers are dealt out to; None for the `fold` column.
    """

    fold: int
    test: int
    dev: int
    train: tuple[int, ...]
    speaker_groups: int | None = None


def leave_one_out(parts: Sequence[int]) -> list[Fold]:
    """A fold per part: this part is test, the next one (cyclically) dev, the others train.

    Raises:
        InputError: There are fewer than three parts.
    """
    ordered = sorted(set(parts))
    if len(ordered) < MIN_PARTS:
        raise InputError(
            f"train, dev and test need {MIN_PARTS} parts (speakers, sessions), there are {len(ordered)}",
            remedy="Import the whole corpus",
            kind="too_few_parts",
        )
    following = [*ordered[1:], ordered[0]]
    return [
        Fold(test, test, dev, tuple(part for part in ordered if part not in (test, dev)))
        for test, dev in zip(ordered, following, strict=True)
    ]


def leave_speakers_out(table: pa.Table, groups: int | None) -> list[Fold]:
    """A fold per group of the speakers of a table; without a number each speaker is a group.

    Raises:
        InputError: There are fewer than three groups, or fewer speakers than groups.
    """
    speakers = len(_ordered_speakers(table))
    if groups is not None and groups > speakers:
        raise InputError(
            f"{speakers} speakers cannot be dealt out to {groups} groups",
            where="protocol.speaker_groups",
            remedy="Ask for fewer, or leave the number out",
            kind="too_few_parts",
        )
    number = groups or speakers
    return [replace(fold, speaker_groups=number) for fold in leave_one_out(range(number))]


def assign(table: pa.Table, fold: Fold) -> pa.Table:
    """A table of utterances (columns speaker_id, split and fold) with the splits of one fold.

    Where speakers are left out, a clip without a known one is in no split.

    Raises:
        SchemaError: A speaker of its train part occurs in another.
    """
    names = {fold.test: "test", fold.dev: "dev"} | dict.fromkeys(fold.train, "train")
    parts = table["fold"].to_pylist()
    if fold.speaker_groups is not None:
        group = {name: place % fold.speaker_groups for place, name in enumerate(_ordered_speakers(table))}
        parts = [group.get(name) for name in table["speaker_id"].to_pylist()]
    splits = pa.array([names.get(part) for part in parts], pa.string())
    split = table.set_column(table.schema.get_field_index("split"), UTTERANCES.field("split"), splits)
    assert_speaker_disjoint(split)
    return split


def _ordered_speakers(table: pa.Table) -> list[str]:
    """The known speakers in an order that depends on their names alone, not on the order of the rows."""
    known = {name for name in table["speaker_id"].to_pylist() if name and name != UNKNOWN_SPEAKER}
    return sorted(known, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))


def write(lake: Lake, name: str, table: pa.Table) -> None:
    """Write the fold file of a corpus; if the table has no folds (or too few), remove an older table's.

    Raises:
        SchemaError: In some fold a speaker of train is tested.
    """
    parts = [part for part in pc.unique(table["fold"]).to_pylist() if part is not None]
    folds = leave_one_out(parts) if len(parts) >= MIN_PARTS else []
    for fold in folds:
        assign(table, fold)
    if folds or known(lake, name):
        lake.write_json([asdict(fold) for fold in folds], *_place(name))


def known(lake: Lake, name: str) -> bool:
    """Whether a corpus has folds."""
    return lake.exists(*_place(name)) and bool(lake.read_json(*_place(name)))


def read(lake: Lake, name: str) -> list[Fold]:
    """The folds of a corpus.

    Raises:
        LakeError: It has none.
    """
    if not known(lake, name):
        raise LakeError(
            f"corpus {name!r} has no folds",
            where=lake.uri(*_place(name)),
            remedy="EMO-DB, IEMOCAP and manifests with a column fold have some; or leave speakers out:"
            " emoray protocol --leave-out speaker",
            kind="missing_folds",
        )
    return [Fold(**{**fold, "train": tuple(fold["train"])}) for fold in lake.read_json(*_place(name))]


def _place(name: str) -> tuple[str, str]:
    return "utterances_meta", f"{name}-folds.json"
