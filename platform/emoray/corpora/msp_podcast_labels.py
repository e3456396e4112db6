"""MSP-Podcast's label files: the consensus, the raters' choices, partitions and speakers, for releases 1.8 to 2.0."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from emoray.corpora.import_report import ImportReport
from emoray.corpora.source_folder import SourceFolder
from emoray.errors import InputError

log = logging.getLogger(__name__)

#: Consensus classes: O is any other emotion, X no agreement among the raters.
CLASSES = {
    "A": "anger", "S": "sadness", "H": "happiness", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt",
    "N": "neutral", "O": "other", "X": "no_agreement",
}  # fmt: skip
#: What raters tick: the primary emotions, then those that are secondary ones only.
RATERS_WORDS = {
    "angry": "anger", "sad": "sadness", "happy": "happiness", "surprise": "surprise", "surprised": "surprise",
    "fear": "fear", "disgust": "disgust", "contempt": "contempt", "neutral": "neutral", "other": "other",
    "amused": "amusement", "annoyed": "annoyance", "concerned": "concern", "confused": "confusion",
    "depressed": "depression", "disappointed": "disappointment", "dissapointed": "disappointment",
    "excited": "excitement", "frustrated": "frustration",
}  # fmt: skip
PARTITIONS = {
    "train": "train", "development": "dev", "validation": "dev", "test": "test", "test1": "test1", "test2": "test2",
    "test3": "test3",
}  # fmt: skip
NEEDED = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom")
HEADING = re.compile(r"(?P<file>\S+\.wav);")
REMEDY = "Unpack the release again, or set corpus.msp_podcast.path to the folder MSP-PODCAST-Publish-<version>"


def consensus(source: SourceFolder, folder: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The consensus of every file, from `labels_consensus.csv`, else `.json`: place (for messages) and columns.

    Raises:
        InputError: There is neither, or one of the columns that we need is missing.
    """
    # Early releases have the file in the root.
    for parts in ([folder] if folder else [], []):
        where = source.uri(*parts, "labels_consensus.csv")
        text = source.text(*parts, "labels_consensus.csv")
        if text is not None:
            reader = csv.DictReader(io.StringIO(text, newline=""))
            try:
                _check(reader.fieldnames or [], where)
                for row in reader:
                    yield f"{where}, line {reader.line_num}", row
            except csv.Error as error:
                line = reader.line_num
                raise InputError(
                    f"damaged csv ({error})", where=f"{where}, line {line}", remedy=REMEDY, kind="damaged_file"
                ) from None
            return
        text = source.text(*parts, "labels_consensus.json")
        if text is not None:
            yield from _from_json(text, source.uri(*parts, "labels_consensus.json"))
            return
    raise InputError(
        "no labels_consensus.csv or .json", where=source.uri(folder or "Labels"), remedy=REMEDY, kind="missing_files"
    )


def _from_json(text: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"not JSON ({error})", where=where, remedy=REMEDY, kind="damaged_file") from None
    if not isinstance(content, dict) or not all(isinstance(columns, dict) for columns in content.values()):
        raise InputError("not an object with an object per file", where=where, remedy=REMEDY, kind="damaged_file")
    for file, columns in content.items():
        _check(["FileName", *columns], f"{where}, {file}")
        yield f"{where}, {file}", {"FileName": file, **columns}


def _check(columns: Any, where: str) -> None:
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise InputError(
            f"no column {', '.join(missing)} (there are {', '.join(columns)})",
            where=where,
            remedy=REMEDY,
            kind="missing_column",
        )


def choices(
    source: SourceFolder, folder: str | None, which: Literal["primary", "secondary"], report: ImportReport
) -> dict[str, list[str]]:
    """What the raters of every file chose, from `labels.txt` or `labels_detailed.csv`; nothing without either.

    `folder` is the label folder. `which` selects a rater's primary emotion, or all that are ticked, each once. The
    report counts unknown names.
    """
    parts = [folder] if folder else []
    if (text := source.text(*parts, "labels.txt")) is not None:
        lines = _blocks(text)
    elif (text := source.text(*parts, "labels_detailed.csv")) is not None:
        lines = _detailed(text)
    else:
        log.warning("%s: neither labels.txt nor labels_detailed.csv: no raters' votes", source.uri(*parts))
        return {}
    chosen: dict[str, list[str]] = {}
    for file, line in lines:
        cells = [cell.strip() for cell in line.split(";")]
        # WORKER0000001; Neutral; Neutral,Confused; A:1.000000; V:4.000000; D:1.000000;  The third may be missing.
        ticked = cells[1:2]
        if which == "secondary" and len(cells) > 2 and not re.match(r"[AVD]\s*:", cells[2]):
            ticked += cells[2].split(",")
        emotions = list(dict.fromkeys(_emotion(tick, file, report) for tick in ticked if tick.strip()))
        chosen.setdefault(file, []).extend(emotions)
    return chosen


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """File and rater's line of `labels.txt`: a heading per file, a line per rater."""
    file = None
    for line in text.splitlines():
        if match := HEADING.match(line):
            file = match["file"]
        elif file is not None and line.startswith("WORKER"):
            yield file, line


def _detailed(text: str) -> Iterator[tuple[str, str]]:
    """File and rater's line of `labels_detailed.csv`; commas among the secondary emotions may be unquoted."""
    for row in text.splitlines():
        file, _, line = row.partition(",")
        line = line.strip().strip('"')
        if line.startswith("WORKER"):
            yield file.strip().strip('"'), line


def _emotion(tick: str, file: str, report: ImportReport) -> str:
    # After `Other-` come the rater's own words.
    name = tick.strip().lower()
    name = "other" if name.startswith("other") else name
    if name not in RATERS_WORDS:
        report.note("rater's emotion that is none of the corpus's, counted as other", f"{file} {tick.strip()!r}")
    return RATERS_WORDS.get(name, "other")


def partitions(source: SourceFolder) -> dict[str, str]:
    """File → partition of `Partitions.txt` (`Train; MSP-PODCAST_0023_0048.wav`), for releases whose csv has none."""
    found = {}
    for line in (source.text("Partitions.txt") or "").splitlines():
        partition, separator, file = line.partition(";")
        if separator and file.strip():
            found[file.strip()] = partition.strip()
    return found


def speakers(source: SourceFolder) -> dict[str, tuple[str, str | None]]:
    """File → speaker and gender of `Speaker_ids.txt` (`Speaker_30; Male`, then `MSP-PODCAST_0001_0008.wav; 30`)."""
    genders: dict[str, str] = {}
    found: dict[str, tuple[str, str | None]] = {}
    for line in (source.text("Speaker_ids.txt") or "").splitlines():
        key, separator, value = (part.strip() for part in line.partition(";"))
        if separator and key.lower().startswith("speaker_"):
            genders[key[len("speaker_") :]] = value
        elif separator and key.endswith(".wav"):
            speaker = value.removeprefix("Speaker_")
            found[key] = (speaker, genders.get(speaker))
    return found
