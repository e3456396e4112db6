"""IEMOCAP: acted dialogues of ten speakers in five sessions (Busso et al., Language Resources and Evaluation, 2008).

`IEMOCAP_full_release/Session{1..5}/` holds `dialog/{EmoEvaluation,transcriptions}` and
`sentences/{wav,ForcedAlignment}`. An utterance's name is session, who wears the markers (F, M), scene, who speaks,
turn: `Ses01F_impro05_F019`. Labels are valence, arousal, dominance, on 1..5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from emoray.config import Section
from emoray.corpora import alignment, folds
from emoray.corpora.import_report import ImportReport, Published
from emoray.corpora.labels import number, on_scale, votes
from emoray.corpora.source_folder import SourceFolder
from emoray.errors import InputError
from emoray.schema import empty_row, utterances_table

KEY = "corpus.iemocap.path"
WHERE_TO_GET = (
    "Ask for it at https://sail.usc.edu/iemocap/ (licensed) and set corpus.iemocap.path to the folder that holds"
    " Session1 … Session5"
)
SCALE = (1.0, 5.0)
SESSION = re.compile(r"Session(\d)")
UTTERANCE = re.compile(r"(?P<dialogue>Ses(?P<session>\d\d)[FM]_\w+?)_(?P<speaker>[FM])\d+")
#: [begin - end], utterance, consensus, [valence, arousal, dominance].
TURN = re.compile(r"\[([\d.]+)\s*-\s*([\d.]+)\]\s+(\S+)\s+(\S+)\s+\[([^,\]]*),([^,\]]*),([^,\]]*)\]\s*")
#: A rater's categories: `C-E2:<TAB>Neutral state; Frustration;<TAB>(comment)`. E is an evaluator, F and M the actors.
CATEGORIES = re.compile(r"C-E\d+:\s*(?P<labels>[^(]*)(?:\(.*)?")
#: A rater's dimensions: `A-E3:<TAB>val 2; act 4; dom  4;<TAB>()`, of which some may be missing.
DIMENSION = re.compile(r"\b(val|act|dom)\s+(\d+(?:\.\d+)?)")
RATER = re.compile(r"A-E\d+:(?P<values>.*)")
TRANSCRIPT = re.compile(r"(\S+)\s+\[[\d.]+\s*-\s*[\d.]+\]:\s*(.*)")

EMOTIONS = {
    "ang": "anger", "hap": "happiness", "exc": "excitement", "sad": "sadness", "neu": "neutral", "fru": "frustration",
    "sur": "surprise", "fea": "fear", "dis": "disgust", "oth": "other", "xxx": "no_agreement",
}  # fmt: skip
RATERS_WORDS = {
    "anger": "anger", "happiness": "happiness", "excited": "excitement", "sadness": "sadness", "neutral": "neutral",
    "neutral state": "neutral", "frustration": "frustration", "surprise": "surprise", "fear": "fear",
    "disgust": "disgust", "other": "other",
}  # fmt: skip
#: The field's usual classes: excitement counts as happiness in both; frustration is the fifth.
FOUR = ("anger", "happiness", "sadness", "neutral")
CLASSES = {4: FOUR, 5: (*FOUR, "frustration")}
GENDERS = {"F": "female", "M": "male"}

PUBLISHED = Published(
    "full release", 10_039,
    emotions={"neutral": 1708, "anger": 1103, "sadness": 1084, "happiness": 595, "excitement": 1041,
              "frustration": 1849, "surprise": 107, "fear": 40},
)  # fmt: skip


class IemocapConfig(Section):
    """IEMOCAP.

    Attributes:
        path: Folder that contains Session1 … Session5; local or an fsspec address.
        classes: 4 (anger, happiness with excitement, sadness, neutral), 5 (frustration too), or `all` utterances with
            the consensus as it is.
        test_session: Session of the test split. Null: no splits, only the folds.
        dev_session: Session of the dev split; null: the one after (the first, after the last). The others are train.
    """

    path: str | None
    classes: Literal[4, 5, "all"]
    test_session: int | None
    dev_session: int | None


@dataclass
class Turn:
    """One turn of a dialogue, from its evaluation.

    Attributes:
        name: The utterance.
        start_s, end_s: In the dialogue's recording.
        code: Consensus class, three letters.
        means: Valence, arousal, dominance; None where the file has no number.
        chosen: What the evaluators chose; each category is a vote.
        rated: Per dimension, the evaluators' values.
    """

    name: str
    start_s: float
    end_s: float
    code: str
    means: dict[str, float | None]
    chosen: list[str] = field(default_factory=list)
    rated: dict[str, list[float]] = field(default_factory=lambda: {"val": [], "act": [], "dom": []})


def read(name: str, config: IemocapConfig) -> tuple[pa.Table, ImportReport]:
    """Read the corpus; `fold` is the session's number minus one: the fold that leaves this session out.

    `dialogue_id` and `turn` give the order of all turns of a dialogue, those of excluded classes too.

    Raises:
        InputError: The folder is missing or has no evaluations, or there is no such session.
    """
    source = SourceFolder(config.path, KEY, WHERE_TO_GET)
    sessions = [match[0] for entry in source.names() if (match := SESSION.fullmatch(entry))]
    report = ImportReport(source.path, PUBLISHED.version, published=_published(config))
    rows = [row for session in sessions for row in _session(name, source, session, config, report)]
    if not rows:
        raise InputError(
            "no evaluated utterances (Session1/dialog/EmoEvaluation/*.txt)",
            where=source.path,
            remedy=WHERE_TO_GET,
            kind="missing_files",
        )
    splits = _splits(sorted({int(row["fold"]) + 1 for row in rows}), config)
    for row in rows:
        row["split"] = splits.get(int(row["fold"]) + 1)
    report.utterances = len(rows)
    return utterances_table(rows), report


def _session(
    name: str, source: SourceFolder, session: str, config: IemocapConfig, report: ImportReport
) -> Iterator[dict[str, Any]]:
    labels = (session, "dialog", "EmoEvaluation")
    for file in source.names(*labels):
        if not file.endswith(".txt"):
            continue
        dialogue = file.removesuffix(".txt")
        turns = list(_turns(source.text(*labels, file) or "", source.uri(*labels, file), report))
        report.read += len(turns)
        if not turns:
            continue
        wav = (session, "sentences", "wav", dialogue)
        recordings = set(source.names(*wav))
        lines = (source.text(session, "dialog", "transcriptions", file) or "").splitlines()
        said = (match for line in lines if (match := TRANSCRIPT.fullmatch(line.strip())))
        transcripts: dict[str, str] = {match[1]: match[2] for match in said}
        taken: set[str] = set()
        for turn_number, turn in enumerate(sorted(turns, key=lambda turn: (turn.start_s, turn.end_s, turn.name))):
            match = UTTERANCE.fullmatch(turn.name)
            emotion = EMOTIONS.get(turn.code)
            kept = _classed(emotion, config)
            if match is None or emotion is None:
                report.leave_out("no known name or class", f"{turn.name} {turn.code}")
            elif turn.name in taken or match["dialogue"] != dialogue:
                report.leave_out("named twice, or in another dialogue's file", turn.name)
            elif f"{turn.name}.wav" not in recordings:
                report.leave_out("no recording", turn.name)
            elif kept is None:
                report.leave_out(f"class {emotion} (corpus.iemocap.classes)", turn.name)
            else:
                taken.add(turn.name)
                if kept != emotion:
                    report.note(f"{emotion} counted as {kept}", turn.name)
                row = _row(name, turn, match, kept, transcripts.get(turn.name), report)
                row |= {"audio_uri": source.uri(*wav, f"{turn.name}.wav"), "turn": turn_number}
                aligned = source.text(session, "sentences", "ForcedAlignment", dialogue, f"{turn.name}.wdseg")
                words = alignment.taken(aligned, alignment.wdseg, row["transcript"], turn.name, report)
                yield row | {"words": words}


def _turns(text: str, where: str, report: ImportReport) -> Iterator[Turn]:
    """The turns of an evaluation file: a line per turn, then one per rater; `%` starts a heading."""
    turn: Turn | None = None
    for place, line in enumerate(text.splitlines(), start=1):
        if line.startswith("["):
            if turn is not None:
                yield turn
            match = TURN.fullmatch(line)
            turn = _turn(match) if match else None
            if turn is None:
                report.read += 1
                report.leave_out("unreadable line", f"{where}, line {place}")
        elif turn is not None and (match := CATEGORIES.fullmatch(line)):
            for label in filter(None, (part.strip().lower() for part in match["labels"].split(";"))):
                if label not in RATERS_WORDS:
                    report.note("rater's category that is none of the corpus's, counted as other", turn.name)
                turn.chosen.append(RATERS_WORDS.get(label, "other"))
        elif turn is not None and (match := RATER.fullmatch(line)):
            for name, value in DIMENSION.findall(match["values"]):
                turn.rated[name].append(float(value))
    if turn is not None:
        yield turn


def _turn(match: re.Match[str]) -> Turn | None:
    start_s, end_s = number(match[1]), number(match[2])
    if start_s is None or end_s is None or end_s <= start_s:
        return None
    means = dict(zip(("valence", "arousal", "dominance"), map(number, match.group(5, 6, 7)), strict=True))
    return Turn(match[3], start_s, end_s, match[4].lower(), means)


def _row(
    name: str, turn: Turn, match: re.Match[str], emotion: str, transcript: str | None, report: ImportReport
) -> dict[str, Any]:
    for dimension, rater in (("valence", "val"), ("arousal", "act"), ("dominance", "dom")):
        if turn.means[dimension] is None and (values := turn.rated[rater]):
            report.note(f"no mean {dimension}: taken from the raters", turn.name)
            turn.means[dimension] = sum(values) / len(values)
    if transcript is None:
        report.note("no transcript", turn.name)
    return empty_row() | {
        "utterance_id": f"{name}-{turn.name}",
        "corpus": name,
        "duration_s": turn.end_s - turn.start_s,
        # Who wears the markers changes between dialogues; the two voices of a session stay the same.
        "speaker_id": f"Ses{match['session']}{match['speaker']}",
        "gender": GENDERS[match["speaker"]],
        "language": "en",
        "fold": int(match["session"]) - 1,
        "emotion": emotion,
        "emotion_votes": votes(turn.chosen),
        "transcript": transcript,
        "dialogue_id": match["dialogue"],
        **on_scale(turn.means, SCALE, report, turn.name),
    }


def _classed(emotion: str | None, config: IemocapConfig) -> str | None:
    """The class that an utterance counts for; None where the classes leave it out."""
    if emotion is None or config.classes == "all":
        return emotion
    merged = "happiness" if emotion == "excitement" else emotion
    return merged if merged in CLASSES[config.classes] else None


def _published(config: IemocapConfig) -> Published:
    """The published counts, by the configured classes: 5,531 utterances in the usual four."""
    emotions: dict[str, int] = {}
    for emotion, count in PUBLISHED.emotions.items():
        if (kept := _classed(emotion, config)) is not None:
            emotions[kept] = emotions.get(kept, 0) + count
    return replace(PUBLISHED, emotions=emotions)


def _splits(sessions: list[int], config: IemocapConfig) -> dict[int, str]:
    if config.test_session is None:
        return {}
    for key, session in (("test_session", config.test_session), ("dev_session", config.dev_session)):
        if session is not None and session not in sessions:
            raise InputError(
                f"no session {session}",
                where=f"corpus.iemocap.{key}",
                remedy=f"There are {', '.join(map(str, sessions))}",
                kind="unknown_session",
            )
    if config.dev_session == config.test_session:
        raise InputError(
            "the same session for dev and test",
            where="corpus.iemocap.dev_session",
            remedy="Name another",
            kind="same_session",
        )
    fold = next(fold for fold in folds.leave_one_out(sessions) if fold.test == config.test_session)
    dev = fold.dev if config.dev_session is None else config.dev_session
    return dict.fromkeys(sessions, "train") | {config.test_session: "test", dev: "dev"}
