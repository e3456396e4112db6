"""A dataset of Hugging Face, from the hub or a folder (extra `datasets`).

If it has several splits, these become ours; class labels become their names. Audio inside the dataset's own files is
copied into the lake once, under a name by its content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emoray.corpora.manifest.columns import USUAL_NAMES
from emoray.corpora.manifest.files import Record
from emoray.corpora.manifest.records import RecordsConfig, RecordSource, rows
from emoray.errors import InputError, MissingExtraError
from emoray.lake.tables import Lake
from emoray.schema import utterances_table

if TYPE_CHECKING:
    import datasets

KEY = "corpus.huggingface"
#: If a dataset has one of these columns, it decides which split a row belongs to.
SPLIT_COLUMNS = {"split", *USUAL_NAMES["split"]}
#: Files that `save_to_disk` writes.
SAVED = ("dataset_dict.json", "state.json")


class HuggingfaceConfig(RecordsConfig):
    """A dataset of Hugging Face.

    Attributes:
        path: Its name on the hub, or a folder: of data files or as `save_to_disk` writes it.
        subset: Which of its configurations; null: the only one.
        revision: Commit, tag or branch on the hub; null: the newest.
        splits: Which of its splits; empty: all.
    """

    path: str | None
    subset: str | None
    revision: str | None
    splits: tuple[str, ...]


def read(name: str, config: HuggingfaceConfig, lake: Lake, progress: Callable[[int, int], None]) -> pa.Table:
    """Read a dataset into an utterances table; audio inside its files is copied to `audio/<name>/` in the lake.

    Raises:
        InputError: There is no such dataset, or one of its rows cannot be used: names split, row and column.
        MissingExtraError: `datasets` is not installed.
        SchemaError: The table breaks its contract.
    """
    if not config.path:
        raise InputError(
            "no dataset is configured",
            where=f"{KEY}.path",
            remedy="Name one of the hub, or a folder",
            kind="not_configured",
        )
    parts = _load(config)
    columns = list(dict.fromkeys(column for part in parts.values() for column in part.column_names))
    own_splits = len(parts) > 1 and "split" not in config.columns and not {*columns} & SPLIT_COLUMNS
    if own_splits:
        columns.append("split")
    records = list(_records(name, parts, config.path, own_splits, lake, progress))
    source = RecordSource(config.path, KEY, columns, records, config.path if os.path.isdir(config.path) else "")
    return utterances_table(rows(name, source, config))


def _load(config: HuggingfaceConfig) -> dict[str, datasets.Dataset]:
    """The dataset's splits by name, audio undecoded."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "a dataset of Hugging Face needs the package datasets",
            where="corpus.kind",
            remedy="Install the extra: pip install 'emoray[datasets]'",
        ) from None
    path = str(config.path)
    folder = os.path.expanduser(path)
    try:
        if any(os.path.exists(os.path.join(folder, file)) for file in SAVED):
            loaded = datasets.load_from_disk(folder)
        else:
            source = folder if os.path.isdir(folder) else path
            loaded = datasets.load_dataset(source, config.subset, revision=config.revision)
    # datasets raises whatever its builders, the hub and the network raise.
    except Exception as error:
        raise InputError(
            f"cannot be loaded ({type(error).__name__}: {error})",
            where=f"{KEY}.path: {path}",
            remedy="Check name, subset and revision; for a gated dataset log in with `hf auth login`",
            kind="dataset_not_loaded",
        ) from error
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    unknown = [split for split in config.splits if split not in parts]
    if unknown:
        raise InputError(
            f"no split {unknown[0]!r}",
            where=f"{KEY}.splits",
            remedy=f"There are {', '.join(parts)}",
            kind="unknown_split",
        )
    undecoded = datasets.Audio(decode=False)
    for split in list(parts):
        if config.splits and split not in config.splits:
            del parts[split]
            continue
        for column, feature in parts[split].features.items():
            if isinstance(feature, datasets.Audio):
                parts[split] = parts[split].cast_column(column, undecoded)
    return parts


def _records(
    name: str,
    parts: Mapping[str, datasets.Dataset],
    path: str,
    with_split: bool,
    lake: Lake,
    progress: Callable[[int, int], None],
) -> Iterator[Record]:
    total, done = sum(len(part) for part in parts.values()), 0
    there = {os.path.basename(file) for file in lake.list_files("audio", name, suffix="")}
    for split, part in parts.items():
        names = {
            column: feature.names for column, feature in part.features.items() if hasattr(feature, "int2str")
        }  # ClassLabel
        for number, row in enumerate(part):
            place = f"split {split}, row {number}"
            values = {"split": split} if with_split else {}
            for column, value in row.items():
                if column in names:
                    value = names[column][value] if value is not None and value >= 0 else None
                elif isinstance(value, dict) and {"bytes", "path"} <= value.keys():
                    value = _audio(name, value, f"{path}, {place}", lake, there)
                if value is not None and value != "":
                    values[column] = value
            done += 1
            yield Record(place, values, default_id=f"{split}-{number:06d}")
            progress(done, total)


def _audio(name: str, value: Mapping[str, Any], where: str, lake: Lake, there: set[str]) -> str:
    """Address of a clip: its own, or that of its copy in the lake.

    `value` has `bytes` and `path`, as datasets gives undecoded audio. `there`: names of the copies that exist already.
    """
    content, path = value["bytes"], value["path"]
    if content is not None:
        suffix = os.path.splitext(str(path or ""))[1].lower()
        file = f"{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
        if file in there:
            return lake.uri("audio", name, file)
        there.add(file)
        return lake.write_bytes(content, "audio", name, file)
    if path and ("://" in path or os.path.exists(path)):
        return str(path) if "://" in path else os.path.abspath(path)
    raise InputError(
        f"the row has neither audio bytes nor an existing file ({path!r})",
        where=where,
        remedy="Load the dataset with its audio",
        kind="missing_audio",
    )
