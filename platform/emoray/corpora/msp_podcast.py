"""MSP-Podcast, releases 1.8 to 2.0: spontaneous speech from podcasts, rated by five people or more per turn.

Lotfian and Busso, IEEE Transactions on Affective Computing, 2019; for 2.0 arXiv 2509.09791.

Labels are arousal, valence, dominance (`EmoAct,EmoVal,EmoDom`), on 1..7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa

from emoray.config import Section
from emoray.corpora import alignment
from emoray.corpora import msp_podcast_labels as label_files
from emoray.corpora.import_report import ImportReport, Published
from emoray.corpora.labels import number, on_scale, votes
from emoray.corpora.source_folder import SourceFolder
from emoray.errors import InputError
from emoray.schema import UNKNOWN_SPEAKER, empty_row, utterances_table

KEY = "corpus.msp_podcast.path"
WHERE_TO_GET = (
    "Ask for it at https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html (licensed) and set"
    " corpus.msp_podcast.path to the folder MSP-PODCAST-Publish-<version>"
)
SCALE = (1.0, 7.0)
RELEASE = re.compile(r"MSP-PODCAST-Publish-(\d+\.\d+)", re.IGNORECASE)
#: Podcast, then the place in it: a segment, in later releases a part of one.
UTTERANCE = re.compile(r"(?P<podcast>MSP-PODCAST_\d+)_(?P<place>\d+(?:_\d+)*)")
HIDDEN = re.compile(r"MSP-PODCAST_test3_\w+", re.IGNORECASE)
#: Columns of a file of test3 whose labels are hidden; its speaker is hidden too.
HIDDEN_LABELS = {"split": "test3", "speaker_id": UNKNOWN_SPEAKER}
#: Recordings per call of `progress`.
CHUNK = 256

Emotion = Literal[
    "anger", "sadness", "happiness", "surprise", "fear", "disgust", "contempt", "neutral", "other", "no_agreement"
]

#: From the makers' page for 1.11 (hours too, 237 h 56 min), from release notes for the others.
PUBLISHED = {
    "1.11": Published(
        "1.11", 151_654, 237.93,
        splits={"train": 84_030, "dev": 19_815, "test1": 30_647, "test2": 14_815, "test3": 2_347},
        speakers={"train": 1_409, "dev": 454, "test1": 237, "test2": 117, "test3": 187},
    ),
    "1.12": Published("1.12", 207_136, 324.0),
    "2.0": Published("2.0", 264_705, 409.0),
}  # fmt: skip


class MspPodcastConfig(Section):
    """MSP-Podcast.

    Attributes:
        path: The folder MSP-PODCAST-Publish-<version>; local or an fsspec address.
        version: Of the release; null: from the folder's name.
        leave_out: Consensus classes to leave out, for example [other, no_agreement].
        votes: A rater's votes: the `primary` emotion, or all that are ticked (`secondary`).
        hidden: Include the files of test3 whose labels are hidden, for submissions.
        workers: Files read in parallel; does not change the result.
    """

    path: str | None
    version: str | None
    leave_out: tuple[Emotion, ...]
    votes: Literal["primary", "secondary"]
    hidden: bool
    workers: int


def read(name: str, config: MspPodcastConfig, progress: Callable[[int, int], None]) -> tuple[pa.Table, ImportReport]:
    """Read the release: consensus, raters' votes, partitions, transcripts, word times.

    `dialogue_id` is the podcast, `turn` a turn's index in it, those left out counted too.

    Raises:
        InputError: The folder is missing, is no release, or none of its rows can be used.
    """
    source = SourceFolder(config.path, KEY, WHERE_TO_GET)
    match = RELEASE.search(source.path.rsplit("/", 1)[-1])
    version = config.version or (match[1] if match else None)
    report = ImportReport(source.path, version, published=PUBLISHED.get(version or ""))
    audio = source.find("Audios", "Audio")
    recordings = {file for file in source.names(audio or "Audios") if file.lower().endswith(".wav")}
    if not recordings:
        raise InputError("no recordings (Audios/*.wav)", where=source.path, remedy=WHERE_TO_GET, kind="missing_files")
    folder = source.find("Labels", "Label")
    consensus = list(label_files.consensus(source, folder))
    rows = {row.pop("file"): row for row in _labelled(name, source, folder, consensus, config, recordings, report)}
    unlabelled = sorted(recordings - {str(columns["FileName"]).strip() for _, columns in consensus})
    rows |= {file: _row(name, file) | HIDDEN_LABELS for file in _hidden(unlabelled, config, report)}
    if not rows:
        reasons = ", ".join(f"{reason} ×{tally.count}" for reason, tally in sorted(report.left_out.items()))
        raise InputError(f"no utterance can be taken: {reasons}", where=source.path, remedy=WHERE_TO_GET)
    folders = {
        "audio": audio or "Audios",
        "transcripts": source.find("Transcripts", "Transcript") or "Transcripts",
        "aligned": source.find("ForceAligned", "Force_Aligned", "ForcedAligned") or "ForceAligned",
    }
    files = list(rows)
    with ThreadPoolExecutor(config.workers) as pool:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            for file, beside in zip(chunk, pool.map(lambda one: _beside(source, folders, one), chunk), strict=True):
                rows[file] |= _read_beside(file, *beside, report)
            progress(start + len(chunk), len(files))
    for file, row in rows.items():
        row["audio_uri"] = source.uri(folders["audio"], file)
    report.utterances = len(rows)
    return utterances_table(list(rows.values())), report


def _labelled(
    name: str,
    source: SourceFolder,
    folder: str | None,
    consensus: Sequence[tuple[str, Mapping[str, Any]]],
    config: MspPodcastConfig,
    recordings: set[str],
    report: ImportReport,
) -> Iterator[dict[str, Any]]:
    """The usable rows of the consensus, with their `file`; counts the others."""
    chosen = label_files.choices(source, folder, config.votes, report)
    partitions, speakers = label_files.partitions(source), label_files.speakers(source)
    turns = _turns(str(columns["FileName"]) for _, columns in consensus)
    taken: set[str] = set()
    for place, columns in consensus:
        file = str(columns["FileName"]).strip()
        report.read += 1
        if not file or file.startswith("._"):
            report.leave_out("no file name", place)
            continue
        partition = str(columns.get("Split_Set") or partitions.get(file) or "")
        split = label_files.PARTITIONS.get(partition.lower())
        emotion = label_files.CLASSES.get(str(columns["EmoClass"] or "").strip().upper())
        if file in taken:
            report.leave_out("file named twice", place)
        elif file not in recordings:
            report.leave_out("no recording", file)
        elif split is None:
            report.leave_out("no known partition", f"{file} {partition!r}")
        elif emotion in config.leave_out:
            report.leave_out(f"class {emotion} (corpus.msp_podcast.leave_out)", file)
        else:
            taken.add(file)
            if emotion is None:
                report.note("no known consensus class", file)
            speaker, gender = _speaker(columns, speakers.get(file))
            raw = {
                "valence": number(columns["EmoVal"]),
                "arousal": number(columns["EmoAct"]),
                "dominance": number(columns["EmoDom"]),
            }
            if chosen and file not in chosen:
                report.note("no raters' choices", file)
            yield {
                **_row(name, file),
                "file": file,
                "speaker_id": speaker,
                "gender": gender,
                "split": split,
                "emotion": emotion,
                "emotion_votes": votes(chosen.get(file, ())),
                "turn": turns.get(file),
                **on_scale(raw, SCALE, report, file),
            }


def _hidden(unlabelled: Iterable[str], config: MspPodcastConfig, report: ImportReport) -> Iterator[str]:
    """Of the recordings without labels, those of test3, whose labels are not published."""
    for file in unlabelled:
        report.read += 1
        if not HIDDEN.fullmatch(file.rsplit(".", 1)[0]):
            report.leave_out("recording without labels", file)
        elif not config.hidden:
            report.leave_out("test3, labels hidden (corpus.msp_podcast.hidden)", file)
        else:
            report.note("test3, labels hidden", file)
            yield file


def _row(name: str, file: str) -> dict[str, Any]:
    stem = file.rsplit(".", 1)[0]
    match = UTTERANCE.fullmatch(stem)
    return empty_row() | {
        "utterance_id": f"{name}-{stem}",
        "corpus": name,
        "language": "en",
        "dialogue_id": match["podcast"] if match else None,
    }


def _turns(files: Iterable[str]) -> dict[str, int]:
    """File → its index among the turns of its podcast."""
    podcasts: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for file in files:
        if match := UTTERANCE.fullmatch(file.strip().rsplit(".", 1)[0]):
            place = tuple(int(part) for part in match["place"].split("_"))
            podcasts.setdefault(match["podcast"], []).append((place, file.strip()))
    return {file: turn for turns in podcasts.values() for turn, (_, file) in enumerate(sorted(set(turns)))}


def _speaker(columns: Mapping[str, Any], listed: tuple[str, str | None] | None) -> tuple[str, str | None]:
    speaker = str(columns.get("SpkrID") or (listed[0] if listed else "") or UNKNOWN_SPEAKER).strip()
    gender = str(columns.get("Gender") or (listed[1] if listed else "") or "").strip().lower()
    unknown = speaker.lower() == UNKNOWN_SPEAKER.lower()
    return UNKNOWN_SPEAKER if unknown else speaker, gender if gender in ("male", "female") else None


def _beside(source: SourceFolder, folders: Mapping[str, str], file: str) -> tuple[float | None, str | None, str | None]:
    """Duration, transcript and TextGrid of a recording."""
    stem = file.rsplit(".", 1)[0]
    transcript = source.text(folders["transcripts"], f"{stem}.txt")
    return (
        source.duration_s(folders["audio"], file),
        " ".join((transcript or "").split()) or None,
        source.text(folders["aligned"], f"{stem}.TextGrid"),
    )


def _read_beside(
    file: str, duration_s: float | None, transcript: str | None, aligned: str | None, report: ImportReport
) -> dict[str, Any]:
    """The columns that come from the files beside the labels."""
    if duration_s is None:
        report.note("recording without a readable header", file)
    row: dict[str, Any] = {"duration_s": duration_s, "transcript": transcript, "words": None}
    if transcript is None and aligned is None and HIDDEN.fullmatch(file.rsplit(".", 1)[0]):
        return row  # hidden like the labels, and counted with them
    if transcript is None:
        report.note("no transcript", file)
    return row | {"words": alignment.taken(aligned, alignment.textgrid, transcript, file, report)}
