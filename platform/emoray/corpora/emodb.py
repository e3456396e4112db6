"""EMO-DB: German acted speech, ten fixed sentences by ten speakers (Burkhardt et al., Interspeech 2005).

A file is called speaker (2 digits), sentence code (3), emotion letter, version letter: `03a01Wa.wav`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Literal

import pyarrow as pa

from emoray.config import Section
from emoray.corpora.import_report import ImportReport, Published
from emoray.corpora.source_folder import SourceFolder
from emoray.errors import InputError
from emoray.schema import Row, empty_row, utterances_table

log = logging.getLogger(__name__)

FILE_NAME = re.compile(
    r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<emotion>[WLEAFTN])(?P<version>[a-z])\.wav", re.IGNORECASE
)
WHERE_TO_GET = (
    "Download it from http://emodb.bilderbar.info/download/ (free), unpack it and set corpus.emodb.path to its folder"
)

#: W Wut (or Ärger), L Langeweile, E Ekel, A Angst, F Freude, T Trauer, N neutral.
EMOTIONS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral",
}  # fmt: skip
FOUR_CLASSES = ("anger", "happiness", "sadness", "neutral")
PUBLISHED = Published(
    "2005", 535,
    emotions={"anger": 127, "boredom": 81, "neutral": 79, "happiness": 71, "fear": 69, "sadness": 62, "disgust": 46},
)  # fmt: skip
GENDERS = {
    "03": "male", "08": "female", "09": "female", "10": "male", "11": "male",
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female",
}  # fmt: skip
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


class EmodbConfig(Section):
    """EMO-DB.

    Attributes:
        path: Folder that contains `wav/`, or that folder itself; local or an fsspec address.
        classes: 4 (anger, happiness, sadness, neutral) or all 7.
        test_speaker: Speaker of the test split, as in file names; the next speaker is dev, the others are train. Null:
            no splits, only the folds.
    """

    path: str | None
    classes: Literal[4, 7]
    test_speaker: str | None


def read(name: str, config: EmodbConfig) -> tuple[pa.Table, ImportReport]:
    """Read the folder; `fold` is the speaker's index in sorted order: the fold that leaves this speaker out.

    Raises:
        InputError: The folder is missing or has no EMO-DB files, or there is no such test speaker.
    """
    source = SourceFolder(config.path, "corpus.emodb.path", WHERE_TO_GET)
    folder = ["wav"] if "wav" in source.names() else []
    kept = set(EMOTIONS.values() if config.classes == 7 else FOUR_CLASSES)
    published = {emotion: count for emotion, count in PUBLISHED.emotions.items() if emotion in kept}
    report = ImportReport(source.path, published=replace(PUBLISHED, emotions=published))
    rows = []
    for file in source.names(*folder):
        match = FILE_NAME.fullmatch(file)
        if match is None:
            log.warning("%s is not named like an EMO-DB file (03a01Wa.wav): left out", source.uri(*folder, file))
            continue
        emotion = EMOTIONS[match["emotion"].upper()]
        report.read += 1
        if emotion not in kept:
            report.leave_out(f"class {emotion} (corpus.emodb.classes)", match[0])
        else:
            duration_s = source.duration_s(*folder, file)
            rows.append(_row(name, source.uri(*folder, file), duration_s, match, emotion))
    if not rows:
        raise InputError(
            "no files named like EMO-DB's (03a01Wa.wav)", where=source.path, remedy=WHERE_TO_GET, kind="missing_files"
        )
    speakers = sorted({str(row["speaker_id"]) for row in rows})
    splits = _splits(speakers, config.test_speaker)
    for row in rows:
        row["fold"] = speakers.index(str(row["speaker_id"]))
        row["split"] = splits.get(str(row["speaker_id"]))
    report.utterances = len(rows)
    return utterances_table(rows), report


def _row(name: str, uri: str, duration_s: float | None, match: re.Match[str], emotion: str) -> Row:
    stem = uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return empty_row() | {
        "utterance_id": f"{name}-{stem}",
        "corpus": name,
        "audio_uri": uri,
        "duration_s": duration_s,
        "speaker_id": match["speaker"],
        "gender": GENDERS.get(match["speaker"]),
        "language": "de",
        "emotion": emotion,
        "transcript": SENTENCES.get(match["sentence"].lower()),
    }


def _splits(speakers: list[str], test_speaker: str | None) -> dict[str, str]:
    if test_speaker is None:
        return {}
    if test_speaker not in speakers:
        raise InputError(
            f"no speaker {test_speaker!r} in this EMO-DB",
            where="corpus.emodb.test_speaker",
            remedy=f"There are {', '.join(speakers)}",
            kind="unknown_speaker",
        )
    if len(speakers) < 3:
        raise InputError(
            f"train, dev and test need three speakers, there are {len(speakers)}",
            where="corpus.emodb.path",
            remedy=WHERE_TO_GET,
            kind="too_few_speakers",
        )
    dev_speaker = speakers[(speakers.index(test_speaker) + 1) % len(speakers)]
    return dict.fromkeys(speakers, "train") | {test_speaker: "test", dev_speaker: "dev"}
