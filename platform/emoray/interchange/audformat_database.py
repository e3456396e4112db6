"""audformat databases (audformat 1.4, audEERING): a folder with the header `db.yaml` and one Parquet file per table.

Tables that are written if there is something to put into them:

- `utterances`: id, speaker, gender, language, split, fold, transcript, dialogue and turn;
- `emotion` or `emotion.<split>`: valence, arousal, dominance and emotion, by people or by a model;
- `votes`: how many raters chose each class;
- `words`: times and emphasis of the words, by segment;
- `annotations`: values of the stages, one column per field, `semantics.intention` for example.

The dimensions are in units of the corpus's scale, whose ends are in their schemes, if there is one scale; otherwise in
[0, 1]. The published databases do the same, so that one rule reads all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emoray.errors import InputError, MissingExtraError
from emoray.interchange import addresses
from emoray.interchange.label import ExportStats, Label
from emoray.schema import DIMENSIONS

if TYPE_CHECKING:
    import pandas as pd

NAME = "db"
HEADER = f"{NAME}.yaml"
#: Column of the utterances table → column here and its type; the other tables are `emotion` and `words`.
COLUMNS: dict[str, tuple[str, str]] = {
    "utterance_id": ("utterance", "str"),
    "speaker_id": ("speaker", "str"),
    "gender": ("gender", "str"),
    "language": ("language", "str"),
    "split": ("split", "str"),
    "fold": ("fold", "int"),
    "transcript": ("transcription", "str"),
    "dialogue_id": ("dialogue", "str"),
    "turn": ("turn", "int"),
}
SPLIT_TYPES = {"train": "train", "dev": "dev", "gate": "other"}


def library() -> ModuleType:
    """The package audformat.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import audformat
    except ImportError as error:
        raise MissingExtraError(
            f"audformat databases need the package audformat, which cannot be imported here: {error}",
            remedy="Install the extra `interchange`: pip install 'emoray[interchange]'",
        ) from error
    return audformat


def write(
    folder: str,
    name: str,
    rows: pa.Table,
    labels: Iterable[Label],
    stats: ExportStats,
    *,
    audio_root: str | None = None,
    model: str | None = None,
    stages: Sequence[str] = (),
) -> None:
    """Write a database. All of it is in memory once.

    Args:
        folder: Empty local folder.
        rows: The utterances, or the scores, with values of stages in columns with their names.
        labels: Their labels (emoray.interchange.label.labels).
        stats: Notes how many rows have no label.
        audio_root: Folder that audio is named below; None names it by whole addresses.
        model: What scored them; None for a corpus's own labels.
        stages: Names of the columns with values of stages.

    Raises:
        InputError: Audio is elsewhere, or two utterances are the same span of it.
        MissingExtraError: audformat is not installed.
    """
    writer = _Writer(library(), name, rows, audio_root)
    writer.utterances()
    writer.emotion(list(labels), stats, model)
    writer.votes()
    writer.words(stats)
    writer.annotations(stages)
    writer.database.save(folder, name=NAME)


class _Writer:
    def __init__(self, audformat: ModuleType, name: str, rows: pa.Table, audio_root: str | None) -> None:
        self._audformat = audformat
        self._rows = rows
        self._ids: list[str] = rows["utterance_id"].to_pylist()
        self._files = [addresses.below(uri, audio_root) for uri in rows["audio_uri"].to_pylist()]
        self._starts = [start_s or 0.0 for start_s in self._column("start_s")]
        self._ends = self._column("end_s")
        if any(self._starts) or any(self._ends):
            self._index = self._segments(range(rows.num_rows), self._starts, self._ends)
        else:
            self._index = audformat.filewise_index(self._files)
        if self._index.has_duplicates:
            place = int(self._index.duplicated().argmax())
            raise InputError(
                "two utterances are the same span of the same audio",
                where=f"utterance {self._ids[place]}, {self._files[place]}",
                remedy="audformat distinguishes them by file, start and end: import the corpus with their times",
                kind="duplicate_span",
            )
        self.database = audformat.Database(name, languages=self._languages(), description="Written by emoray")

    def utterances(self) -> None:
        """The columns of the clips other than their emotion."""
        columns = {}
        for source, (target, kind) in COLUMNS.items():
            values = self._column(source)
            if any(value is not None for value in values):
                columns[target] = (values, self._scheme(target, kind))
        self._add("utterances", self._index, columns)

    def emotion(self, labels: Sequence[Label], stats: ExportStats, model: str | None) -> None:
        """The labels: one table, or one per split if there are splits."""
        audformat = self._audformat
        rater = "gold" if model is None else model
        kind = audformat.define.RaterType.TRUTH if model is None else audformat.define.RaterType.MACHINE
        self.database.raters[rater] = audformat.Rater(kind)
        scales = {label.scale for label in labels if label.values}
        scale = next(iter(scales)) if len(scales) == 1 else None
        if len(scales) > 1:
            stats.notes.append("The labels are on several scales: the dimensions are written in [0, 1]")
        by_id = {label.utterance_id: label for label in labels}
        classes = sorted({name for label in labels for name in label.classes})
        known = self._column("split")
        for split in sorted(set(known), key=lambda name: (name is not None, name)):
            places = [place for place, name in enumerate(known) if name == split and self._ids[place] in by_id]
            found = [by_id[self._ids[place]] for place in places]
            columns = self._dimensions(found, scale) | self._classes(found, classes)
            if split is not None:
                of_type = SPLIT_TYPES.get(split, "test")
                self.database.splits[split] = audformat.Split(of_type)
            self._add("emotion" if split is None else f"emotion.{split}", self._index[places], columns, split, rater)
        stats.written = stats.rows  # each is in the table `utterances`
        stats.notes += [f"{rows:,} have no label ({why})" for why, rows in sorted(stats.left_out.items())]
        stats.left_out.clear()

    def votes(self) -> None:
        """A column per class."""
        votes = [{one["emotion"]: one["votes"] for one in row or ()} for row in self._column("emotion_votes")]
        places = [place for place, row in enumerate(votes) if row]
        columns = {
            f"votes.{name}": ([votes[place].get(name, 0.0) for place in places], self._scheme("votes", "float"))
            for name in sorted({name for row in votes for name in row})
        }
        self._add("votes", self._index[places], columns)

    def words(self, stats: ExportStats) -> None:
        """The words with times, as segments; emphasis as measured, otherwise as the corpus marks it."""
        segments: dict[tuple[int, float, float], Mapping[str, Any]] = {}
        repeated = 0
        for place, (measured, given) in enumerate(zip(self._column("emphasis"), self._column("words"), strict=True)):
            for word in (measured and measured["words"]) or given or ():
                if word["start_s"] is not None and word["end_s"] is not None and word["word"]:
                    begin_s = self._starts[place]
                    segment = (place, begin_s + word["start_s"], begin_s + word["end_s"])
                    repeated += segment in segments
                    segments.setdefault(segment, word)
        if repeated:
            stats.notes.append(f"{repeated:,} words have the times of another word and are left out")
        if not segments:
            return
        columns = {}
        for name, kind in (("word", "str"), ("emphasised", "bool"), ("prominence", "float")):
            values = [word.get(name) for word in segments.values()]
            if any(value is not None for value in values):
                columns[name] = (values, self._scheme(name, kind))
        self._add("words", self._segments(*zip(*segments, strict=True)), columns)

    def annotations(self, stages: Sequence[str]) -> None:
        """Those fields of the stages' values that are text or numbers."""
        columns = {}
        kinds = {pa.string(): "str", pa.float32(): "float", pa.float64(): "float", pa.int32(): "int"}
        for stage in stages:
            values = self._column(stage)
            for field in self._rows.schema.field(stage).type:
                column = [None if value is None else value[field.name] for value in values]
                if field.type in kinds and any(value is not None for value in column):
                    columns[f"{stage}.{field.name}"] = (
                        column,
                        self._scheme(f"{stage}.{field.name}", kinds[field.type]),
                    )
        self._add("annotations", self._index, columns)

    def _dimensions(
        self, labels: Sequence[Label], scale: tuple[float, float] | None
    ) -> dict[str, tuple[list[Any], str]]:
        low, high = scale or (0.0, 1.0)
        columns: dict[str, tuple[list[Any], str]] = {}
        for name in DIMENSIONS:
            scheme = self._scheme(name, "float", minimum=low, maximum=high)
            values = [_on_scale(label, name, scale) for label in labels]
            if any(value is not None for value in values):
                columns[name] = (values, scheme)
            for end, suffix in enumerate(("low", "high")):
                bounds = [
                    low + label.intervals[name][end] * (high - low) if name in label.intervals else None
                    for label in labels
                ]
                if any(bound is not None for bound in bounds):
                    columns[f"{name}.{suffix}"] = (bounds, self._scheme(f"{name}.{suffix}", "float"))
        return columns

    def _classes(self, labels: Sequence[Label], classes: Sequence[str]) -> dict[str, tuple[list[Any], str]]:
        if not classes:
            return {}
        scheme = self._scheme("emotion", "str", labels=list(classes))
        best = [
            max(label.classes, key=lambda name: label.classes[name] or 0.0) if label.classes else None
            for label in labels
        ]
        columns: dict[str, tuple[list[Any], str]] = {"emotion": (best, scheme)}
        if any(share is not None for label in labels for share in label.classes.values()):
            share = self._scheme("probability", "float", minimum=0.0, maximum=1.0)
            columns |= {
                f"probability.{name}": ([label.classes.get(name) for label in labels], share) for name in classes
            }
        return columns

    def _column(self, name: str) -> list[Any]:
        """A column's values; all None if there is no such column."""
        return self._rows[name].to_pylist() if name in self._rows.column_names else [None] * self._rows.num_rows

    def _segments(self, places: Iterable[int], starts: Sequence[float], ends: Sequence[float | None]) -> pd.MultiIndex:
        import pandas as pd

        return self._audformat.segmented_index(
            [self._files[place] for place in places],
            pd.to_timedelta(list(starts), unit="s"),
            pd.to_timedelta([float("nan") if time is None else time for time in ends], unit="s"),
        )

    def _scheme(self, name: str, kind: str, **options: Any) -> str:
        self.database.schemes[name] = self._audformat.Scheme(kind, **options)
        return name

    def _add(
        self,
        table: str,
        index: pd.Index,
        columns: Mapping[str, tuple[Sequence[Any], str]],
        split: str | None = None,
        rater: str | None = None,
    ) -> None:
        if not columns or not len(index):
            return
        added = self.database[table] = self._audformat.Table(index, split_id=split)
        for name, (values, scheme) in columns.items():
            added[name] = self._audformat.Column(scheme_id=scheme, rater_id=rater)
            added[name].set(list(values))

    def _languages(self) -> list[str]:
        """The languages that audformat knows; a column has all of them."""
        found = []
        for name in {*self._column("language")} - {None}:
            try:
                found.append(self._audformat.utils.map_language(name))
            except ValueError:
                continue
        return sorted(set(found))


def _on_scale(label: Label, name: str, scale: tuple[float, float] | None) -> float | None:
    if name not in label.values:
        return None
    if scale is None:
        return label.values[name]
    return label.raw.get(name, scale[0] + label.values[name] * (scale[1] - scale[0]))


def exists(folder: str) -> bool:
    """Whether a folder is a database."""
    return os.path.isfile(os.path.join(folder, HEADER))
