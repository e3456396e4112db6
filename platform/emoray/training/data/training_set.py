"""Packed training sets: features, text vectors and labels in memory-mapped Arrow shards, `training_sets/<hash>/`.

Written by `training/data/pack.py`. Shapes: N clips, B batch, T frames, F features, M measures of features, K
granularities, E text width, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

import copy
import functools
import getpass
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from emoray.corpora import folds
from emoray.errors import TransientError
from emoray.lake.atomic import atomic_file
from emoray.lake.tables import Lake
from emoray.models.batch import Batch
from emoray.schema import DIMENSIONS, GRANULARITIES, UNKNOWN_SPEAKER
from emoray.training.config import AugmentConfig
from emoray.training.data.augment import change
from emoray.training.data.pack import column
from emoray.training.seeds import derive, generator

#: Speakers of dev from which on its two parts have none in common.
FEWEST_SPEAKERS = 4
#: Clips of dev from which on it is divided at all.
FEWEST_CLIPS = 16


class TrainingSet:
    """A packed training set, memory-mapped.

    Attributes:
        frame: Keys and labels: utterance_id, split, fold, speaker_id, gender, scale, V, A, D, emotion, dialogue_id,
            turn, duration_s.
        text_width: Width E of the text vectors.
        left_out: How many utterances could not be decoded.
        classes: Names of the class indices of its batches.
        conditions: Names of the conditions that it has text vectors of, the first one first.
    """

    def __init__(
        self, tables: Sequence[pa.Table], index: Mapping[str, Any], set_hash: str, classes: Sequence[str]
    ) -> None:
        self.set_hash = set_hash
        self.classes = tuple(classes)
        self.frame_hz = float(index["frame_hz"])
        self.text_width = int(index["text_width"])
        self.left_out = int(index["left_out"])
        self._width = int(index["width"])
        # Training sets from before `mels` hold log-mels alone, or waveforms.
        self._mels = int(index.get("mels", self._width if self._width > 1 else 0))
        table = pa.concat_tables(tables)
        self.conditions = tuple(index["conditions"])
        kinds = ("usable", *GRANULARITIES)
        frame = pl.DataFrame(
            table.drop_columns(
                ["features", "measures", *(column(kind, one) for one in self.conditions for kind in kinds)]
            )
        )
        self.frame = frame
        self._row = {name: row for row, name in enumerate(frame["utterance_id"])}
        self._features = [scalar.as_buffer() for scalar in table["features"]]
        self._measures = table["measures"]
        self._text = {
            one: [[scalar.as_buffer() for scalar in table[column(name, one)]] for name in GRANULARITIES]
            for one in self.conditions
        }
        self._usable_NC = np.stack([table[column("usable", one)].to_numpy() for one in self.conditions], axis=1)
        self._target_N3 = frame.select(pl.col(DIMENSIONS).cast(pl.Float32).fill_null(float("nan"))).to_numpy()
        number = {name: index for index, name in enumerate(classes)}
        self._label_N = np.array([number.get(emotion, -1) for emotion in frame["emotion"]], dtype=np.int64)
        self._dialogue_N, self._turn_N = _dialogues(frame)

    @classmethod
    def open(cls, lake: Lake, set_hash: str, cache_dir: str | None = None, classes: Sequence[str] = ()) -> TrainingSet:
        """Open a sealed training set, with class names in the order of the model's logits.

        Shards of a remote lake are copied to `cache_dir` once; by default a folder per user in the system's temporary
        one.

        Raises:
            LakeError: It does not exist or is not finished.
        """
        index = lake.read_json("training_sets", set_hash, "index.json")
        folder = lake.path("training_sets", set_hash)
        if not lake.is_local:
            folder = _fetch(lake, set_hash, index["shards"], cache_dir)
        tables = []
        for name in index["shards"]:
            with pa.memory_map(os.path.join(folder, name)) as file:
                tables.append(pa.ipc.open_file(file).read_all())
        return cls(tables, index, set_hash, classes)

    def __len__(self) -> int:
        return self.frame.height

    def of_fold(self, fold: folds.Fold) -> TrainingSet:
        """The same clips with the splits of a fold; features and vectors are not copied.

        Raises:
            SchemaError: A speaker of its train part occurs in another.
        """
        other = copy.copy(self)
        other.frame = pl.DataFrame(folds.assign(self.frame.to_arrow(), fold))
        return other

    def ids(self, split: str, *, labelled: bool = True) -> list[str]:
        """Ids of a split, in id order; by default only clips with a dimension or a class that training can use."""
        frame = self.frame.with_columns(_label=pl.Series(self._label_N >= 0)).filter(pl.col("split") == split)
        if labelled:
            frame = frame.filter(
                pl.any_horizontal(*(pl.col(name).is_not_null() for name in DIMENSIONS), pl.col("_label"))
            )
        return frame.sort("utterance_id")["utterance_id"].to_list()

    def divide_dev(self, ids: Sequence[str], *, dialogues: bool = False) -> tuple[list[str], list[str]]:
        """Clips in two parts without a speaker (or, if asked for, a dialogue) in common: dealt out by a hash.

        A third of the speakers selects an epoch, the others calibrate intervals: a quantile of errors needs more voices
        than the choice between epochs. With fewer than `FEWEST_SPEAKERS` speakers, or dialogues, single clips are dealt
        out; fewer than `FEWEST_CLIPS` are both parts.
        """
        if len(ids) < FEWEST_CLIPS:
            return list(ids), list(ids)
        rows = [self._row[name] for name in ids]
        whole = [f"d{self._dialogue_N[row]}" if dialogues else self.frame["speaker_id"][row] for row in rows]
        known = [None if unit == UNKNOWN_SPEAKER else unit for unit in whole]
        if len({unit for unit in known if unit is not None}) < FEWEST_SPEAKERS:
            known = [None] * len(known)
        units = [unit if unit is not None else f"\0{name}" for unit, name in zip(known, ids, strict=True)]
        order = sorted(set(units), key=lambda unit: derive("halves", unit))
        first = set(order[::3])
        return (
            [name for name, unit in zip(ids, units, strict=True) if unit in first],
            [name for name, unit in zip(ids, units, strict=True) if unit not in first],
        )

    def durations_s(self, ids: Sequence[str]) -> list[float]:
        """Durations of clips."""
        column = self.frame["duration_s"]
        return [column[self._row[name]] for name in ids]

    def labels(self, ids: Sequence[str]) -> torch.Tensor:
        """Class indices of clips (−1 = none)."""
        return torch.from_numpy(self._label_N[[self._row[name] for name in ids]])

    def targets(self, ids: Sequence[str]) -> torch.Tensor:
        """Labels (N, 3) of clips, NaN where unlabelled."""
        return torch.from_numpy(self._target_N3[[self._row[name] for name in ids]])

    def dialogues(self, ids: Sequence[str]) -> np.ndarray:
        """Number (N,) of each clip's dialogue; a clip without one is its own dialogue."""
        return self._dialogue_N[[self._row[name] for name in ids]]

    def usable(self, ids: Sequence[str], condition: str) -> list[str]:
        """Those of some clips that count under a condition: all but those that enrol their own speaker."""
        number = self.conditions.index(condition)
        return [name for name in ids if self._usable_NC[self._row[name], number]]

    @property
    def has_measures(self) -> bool:
        """Whether its features can be measured against speakers: a waveform cannot."""
        return self._width > 1

    def measures(self, ids: Sequence[str]) -> np.ndarray:
        """Measures (N, M) of clips."""
        return self._measures_of([self._row[name] for name in ids])

    def speakers(self, ids: Sequence[str]) -> list[str | None]:
        """Speakers of clips, None where unknown."""
        column = self.frame["speaker_id"]
        return [self._known(column[self._row[name]]) for name in ids]

    @staticmethod
    def _known(speaker: str | None) -> str | None:
        return speaker if speaker and speaker != UNKNOWN_SPEAKER else None

    def _measures_of(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([np.frombuffer(self._measures[row].as_buffer(), dtype=np.float32) for row in rows])

    @functools.cached_property
    def _enrolled(self) -> tuple[dict[str, tuple[np.ndarray, int]], ...]:
        """Per condition, speaker → mean measures (M,) of the clips that enrol them, and their number."""
        found = []
        for number in range(len(self.conditions)):
            clips: dict[str, list[int]] = {}
            for row in np.flatnonzero(~self._usable_NC[:, number]).tolist():
                clips.setdefault(self.frame["speaker_id"][row], []).append(row)
            found.append({name: (self._measures_of(rows).mean(0), len(rows)) for name, rows in clips.items()})
        return tuple(found)

    @functools.cached_property
    def _clips_of(self) -> dict[str, np.ndarray]:
        """Speaker → rows of their clips."""
        rows = self.frame.select("speaker_id").with_row_index("row").group_by("speaker_id").agg("row").rows()
        return {name: np.array(own) for name, own in rows if self._known(name)}

    def _speaker(self, row: int, condition: int, random: np.random.Generator | None) -> tuple[np.ndarray | float, int]:
        """Measures (M,) of the speaker of a clip under a condition, and the number of clips that they rest on.

        `random` draws as many other clips of the speaker instead of those that enrol them: training sees many
        enrolments of each of its speakers.
        """
        speaker = self.frame["speaker_id"][row]
        own = self._enrolled[condition].get(speaker)
        if own is None or random is None:
            return own or (0.0, 0)
        others = self._clips_of[speaker]
        rows = random.choice(others[others != row], own[1], replace=False)
        return self._measures_of(rows.tolist()).mean(0), own[1]

    def collate(
        self,
        ids: Sequence[str],
        augment: AugmentConfig | None = None,
        seed: Sequence[int | str] = (),
        *,
        condition: str | None = None,
    ) -> Batch:
        """A batch of clips in this order: whole, or with random changes by `seed` (seed, step) and the clip's id.

        Args:
            condition: Whose text vectors; the first one's if left out. Random changes draw one of those that each clip
                counts under.
        """
        clips: list[np.ndarray] = []
        present_BK = np.zeros((len(ids), len(GRANULARITIES)), dtype=bool)
        text_BKE = np.zeros((len(ids), len(GRANULARITIES), self.text_width), dtype=np.float32)
        rows = [self._row[name] for name in ids]
        norms = self.has_measures and any(self._enrolled)
        speaker_BM = np.zeros((len(ids), 2 * self._width if norms else 0), dtype=np.float32)
        enrolled_B = np.zeros(len(ids), dtype=np.float32)
        for place, (name, row) in enumerate(zip(ids, rows, strict=True)):
            features_TF = np.frombuffer(self._features[row], dtype=np.float16).reshape(-1, self._width)
            under = condition or self.conditions[0]
            if augment is not None:
                random = generator(*seed, name)
                usable = np.flatnonzero(self._usable_NC[row])
                if len(self.conditions) > 1 and len(usable):
                    under = self.conditions[generator(*seed, name, "condition").choice(usable)]
            if norms:
                number = self.conditions.index(under)
                drawn = None if augment is None else generator(*seed, name, "enrolment")
                speaker_BM[place], enrolled_B[place] = self._speaker(row, number, drawn)
            text = self._text[under]
            present_K = np.array([vectors[row] is not None for vectors in text])
            if augment is not None:
                features_TF, present_K = change(features_TF, present_K, augment, self.frame_hz, self._mels, random)
            clips.append(features_TF)
            present_BK[place] = present_K
            for k in np.flatnonzero(present_K):
                text_BKE[place, k] = np.frombuffer(text[k][row], dtype=np.float32)
        features_BTF = np.zeros((len(ids), max(map(len, clips)), self._width), dtype=np.float32)
        for place, clip in enumerate(clips):
            features_BTF[place, : len(clip)] = clip
        return Batch(
            features_BTF=torch.from_numpy(features_BTF),
            lengths_B=torch.tensor([len(clip) for clip in clips]),
            text_BKE=torch.from_numpy(text_BKE),
            present_BK=torch.from_numpy(present_BK),
            target_B3=torch.from_numpy(self._target_N3[rows]),
            label_B=torch.from_numpy(self._label_N[rows]),
            utterance_ids=tuple(ids),
            speaker_BM=torch.from_numpy(speaker_BM) if norms else None,
            enrolled_B=torch.from_numpy(enrolled_B) if norms else None,
            dialogue_B=torch.from_numpy(self._dialogue_N[rows]),
            turn_B=torch.from_numpy(self._turn_N[rows]),
        )


def _dialogues(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Number of each clip's dialogue, and its order in it: by turn, then by id if turns are missing or equal."""
    found: dict[str, int] = {}
    numbers = [
        row if name is None else found.setdefault(name, row) for row, name in enumerate(frame["dialogue_id"].to_list())
    ]
    dialogue_N = np.array(numbers, dtype=np.int64)
    order = frame.with_row_index("_row").sort("turn", "utterance_id", nulls_last=True)["_row"].to_numpy()
    turn_N = np.empty(len(order), dtype=np.int64)
    turn_N[order] = np.arange(len(order))
    return dialogue_N, turn_N


def _fetch(lake: Lake, set_hash: str, shards: Sequence[str], cache_dir: str | None) -> str:
    """Copy shards to local disk, each once per machine; workers may do it at the same time."""
    root = cache_dir or os.path.join(tempfile.gettempdir(), f"emoray-{getpass.getuser()}")
    folder = os.path.join(root, "training_sets", set_hash)
    os.makedirs(folder, exist_ok=True)
    for name in shards:
        final = os.path.join(folder, name)
        if os.path.exists(final):
            continue
        try:
            with atomic_file(final) as draft:
                lake.fs.get_file(lake.path("training_sets", set_hash, name), draft)
        except OSError as error:
            raise TransientError(
                f"cannot fetch shard {name}: {error}", where=lake.uri("training_sets", set_hash)
            ) from error
    return folder
