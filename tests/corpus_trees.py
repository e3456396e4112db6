"""Writers of corpus trees, in the layout and with the oddities of the real, licensed ones; the sound is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

HZ = 16_000
Timed = Sequence[tuple[str, float, float]]


def write_wav(path: Path, seconds: float, seed: int = 0) -> None:
    """Write 16 kHz mono PCM16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * HZ))
    soundfile.write(path, samples.clip(-1, 1), HZ, subtype="PCM_16")


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file, and the resource fork that macOS would leave beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff\xfe")


def textgrid(words: Timed, end_s: float) -> str:
    """A TextGrid as the Montreal Forced Aligner writes it: words and phones, pauses as empty intervals."""
    tiers = []
    for number, name in enumerate(("words", "phones"), start=1):
        intervals, last_s = [], 0.0
        for word, start_s, stop_s in words:
            if start_s > last_s:
                intervals.append((last_s, start_s, ""))
            intervals.append((start_s, stop_s, word if name == "words" else "AH1"))
            last_s = stop_s
        if end_s > last_s:
            intervals.append((last_s, end_s, ""))
        lines = [f"    item [{number}]:", '        class = "IntervalTier" ', f'        name = "{name}" ']
        lines += ["        xmin = 0 ", f"        xmax = {end_s} ", f"        intervals: size = {len(intervals)} "]
        for place, (start_s, stop_s, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start_s} ",
                f"            xmax = {stop_s} ",
            ]
            lines += [f'            text = "{quoted}" ']
        tiers.append("\n".join(lines))
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = {end_s} \ntiers? <exists> \n'
    return head + "size = 2 \nitem []: \n" + "\n".join(tiers) + "\n"


@dataclass(frozen=True)
class Rater:
    """A rater of MSP-Podcast; `secondary` None: that field is missing."""

    primary: str
    secondary: str | None = None
    arousal: float = 4
    valence: float = 4
    dominance: float = 4


@dataclass(frozen=True)
class PodcastTurn:
    """A turn of MSP-Podcast.

    Attributes:
        name: Without its ending.
        split: As Split_Set says it.
        emotion: EmoClass.
        arousal, valence, dominance: Consensus; None: the cell is empty.
        speaker, gender: As the csv says them.
        raters: Who rated it.
        transcript: None: there is no file.
        words: Word times; None: there is no TextGrid.
        seconds: Length of its recording; None: there is none.
    """

    name: str
    split: str = "Train"
    emotion: str = "N"
    arousal: float | None = 2.2
    valence: float | None = 4.0
    dominance: float | None = 2.6
    speaker: str = "30"
    gender: str = "Male"
    raters: Sequence[Rater] = (Rater("Neutral"),)
    transcript: str | None = "Well, I see."
    words: Timed | None = (("well", 0.1, 0.3), ("i", 0.4, 0.5), ("see", 0.5, 0.9))
    seconds: float | None = 1.0


def write_msp_podcast(
    root: Path,
    turns: Sequence[PodcastTurn],
    *,
    version: str = "1.11",
    hidden: Sequence[str] = (),
    unlabelled: Sequence[str] = (),
    labels_txt: bool = True,
    audio: str = "Audios",
) -> Path:
    """Write a release of MSP-Podcast; returns its folder.

    Args:
        root: Where its folder goes.
        turns: What is in its label files.
        version: Of the release.
        hidden: Names of test3 recordings whose labels are hidden.
        unlabelled: Names of recordings that no label file knows.
        labels_txt: Raters in labels.txt; else only in labels_detailed.csv.
        audio: Folder of the recordings (`Audio` in some releases).
    """
    folder = root / f"MSP-PODCAST-Publish-{version}"
    write_text(folder / "readme.txt", f"MSP-Podcast {version}\n")
    number = lambda value: "" if value is None else f"{value:g}"  # noqa: E731
    consensus = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    blocks, detailed, partitions, speakers = [], ["FileName,Annotation"], [], {}
    for turn in turns:
        file = f"{turn.name}.wav"
        dimensions = (turn.arousal, turn.valence, turn.dominance)
        consensus.append(
            ",".join([file, turn.emotion, *map(number, dimensions), turn.speaker, turn.gender, turn.split])
        )
        means = " ".join(f"{letter}:{value or 0:.6f};" for letter, value in zip("AVD", dimensions, strict=True))
        lines = [f"{file}; {turn.emotion}; {means}"]
        for place, rater in enumerate(turn.raters, start=1):
            ticked = [f"WORKER{place:07d}", rater.primary, *([] if rater.secondary is None else [rater.secondary])]
            ratings = f"A:{rater.arousal:.6f}; V:{rater.valence:.6f}; D:{rater.dominance:.6f};"
            lines.append("; ".join(ticked) + f"; {ratings}")
            detailed.append(f"{file},{lines[-1]}")
        blocks.append("\n".join(lines) + "\n")
        partitions.append(f"{turn.split}; {file}")
        speakers[turn.speaker] = turn.gender
        if turn.transcript is not None:
            write_text(folder / "Transcripts" / f"{turn.name}.txt", turn.transcript + "\n")
        if turn.words is not None:
            write_text(folder / "ForceAligned" / f"{turn.name}.TextGrid", textgrid(turn.words, turn.seconds or 1.0))
        if turn.seconds is not None:
            write_wav(folder / audio / file, turn.seconds)
    for name in (*hidden, *unlabelled):
        write_wav(folder / audio / f"{name}.wav", 0.5)
    (folder / audio).mkdir(exist_ok=True)
    (folder / audio / "._MSP-PODCAST_0001_0008.wav").write_bytes(b"\x00\x05\x16\x07")
    write_text(folder / "Labels" / "labels_consensus.csv", "\n".join(consensus) + "\n")
    write_text(folder / "Labels" / "labels_detailed.csv", "\n".join(detailed) + "\n")
    if labels_txt:
        write_text(folder / "Labels" / "labels.txt", "\n".join(blocks))
    write_text(folder / "Partitions.txt", "\n".join(partitions) + "\n")
    listed = [f"Speaker_{speaker}; {gender}" for speaker, gender in speakers.items() if speaker != "Unknown"]
    listed += [f"{turn.name}.wav; {turn.speaker}" for turn in turns]
    write_text(folder / "Speaker_ids.txt", "\n".join(listed) + "\n")
    return folder


@dataclass(frozen=True)
class IemocapTurn:
    """A turn of IEMOCAP.

    Attributes:
        name: Of the utterance: `Ses01F_impro01_F000`.
        start_s, end_s: In its dialogue.
        emotion: Consensus, three letters.
        means: What stands in the brackets: valence, arousal, dominance.
        raters: Lines of the raters, as they stand in the file.
        transcript: None: the line is missing.
        words: Word, first and last frame as SPHINX says them; None: there is no .wdseg.
        recorded: Whether its wav is there.
    """

    name: str
    start_s: float = 6.0
    end_s: float = 7.0
    emotion: str = "neu"
    means: str = "2.5000, 3.0000, 4.5000"
    raters: Sequence[str] = ("C-E1:\tNeutral state;\t()", "A-E1:\tval 3; act 3; dom  4;\t()")
    transcript: str | None = "Excuse me."
    words: Sequence[tuple[str, int, int]] | None = (
        ("<s>", 0, 40),
        ("EXCUSE(8)", 41, 72),
        ("ME", 73, 90),
        ("</s>", 91, 99),
    )
    recorded: bool = True


def write_iemocap(root: Path, turns: Sequence[IemocapTurn]) -> Path:
    """Write a tree of IEMOCAP with these turns; returns its folder."""
    folder = root / "IEMOCAP_full_release"
    write_text(folder / "README.txt", "IEMOCAP\n")
    dialogues: dict[str, list[IemocapTurn]] = {}
    for turn in turns:
        dialogues.setdefault(turn.name.rpartition("_")[0], []).append(turn)
    for dialogue, spoken in dialogues.items():
        session = folder / f"Session{int(dialogue[3:5])}"
        evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        transcription = []
        for turn in spoken:
            span = f"[{turn.start_s:.4f} - {turn.end_s:.4f}]"
            evaluation += [f"{span}\t{turn.name}\t{turn.emotion}\t[{turn.means}]", *turn.raters, ""]
            if turn.transcript is not None:
                transcription.append(f"{turn.name} [{turn.start_s:08.4f}-{turn.end_s:08.4f}]: {turn.transcript}")
            if turn.words is not None:
                lines = ["\t SFrm  EFrm    SegAScr Word"]
                lines += [f"\t{first:5d} {last:5d} {-1000 * last:10d} {word}" for word, first, last in turn.words]
                aligned = session / "sentences" / "ForcedAlignment" / dialogue / f"{turn.name}.wdseg"
                write_text(aligned, "\n".join([*lines, "Total score:    -12345"]) + "\n")
            if turn.recorded:
                write_wav(session / "sentences" / "wav" / dialogue / f"{turn.name}.wav", turn.end_s - turn.start_s)
        # Words between the turns, and parts without a name of their own, occur in the transcriptions only.
        transcription += [f"{dialogue}_MXX0 [0009.0000-0009.5000]: (Breathing)", "F: Okay?"]
        write_text(session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", "\n".join(evaluation))
        write_text(session / "dialog" / "transcriptions" / f"{dialogue}.txt", "\n".join(transcription) + "\n")
        # The raters' own files lie in folders beside; nothing of them is read.
        write_text(session / "dialog" / "EmoEvaluation" / "Categorical" / f"{dialogue}_e1_cat.txt", "x :Anger; ()\n")
        write_wav(session / "dialog" / "wav" / f"{dialogue}.wav", 0.1)
    return folder


def iemocap_sessions(sessions: int = 5, *, turns: int = 4) -> list[IemocapTurn]:
    """Turns of two voices in each of some sessions, a dialogue each, with the four usual classes in turn."""
    names = ("ang", "hap", "sad", "neu")
    return [
        IemocapTurn(
            f"Ses{session:02d}F_impro01_{'FM'[turn % 2]}{turn // 2:03d}",
            start_s=2.0 * turn,
            end_s=2.0 * turn + 1.0,
            emotion=names[turn % 4],
            means=f"{1 + turn % 4}.0000, {1 + (turn + 1) % 4}.5000, {2 + turn % 3}.0000",
        )
        for session in range(1, sessions + 1)
        for turn in range(turns)
    ]


def podcast_release(*, speakers_per_split: int = 2, turns: int = 2) -> list[PodcastTurn]:
    """Turns of some speakers in each partition, known speakers in one each, labels that differ from turn to turn."""
    found = []
    for number, split in enumerate(("Train", "Development", "Test1", "Test2")):
        for speaker in range(speakers_per_split):
            podcast = 10 * number + speaker
            found += [
                PodcastTurn(
                    f"MSP-PODCAST_{podcast:04d}_{turn:04d}",
                    split=split,
                    emotion="ASHN"[(podcast + turn) % 4],
                    arousal=1 + (podcast + turn) % 6,
                    valence=1.5 + (podcast + 2 * turn) % 5,
                    dominance=2 + (podcast + 3 * turn) % 5,
                    speaker=str(100 + podcast),
                    gender=("Male", "Female")[speaker % 2],
                )
                for turn in range(turns)
            ]
    return found
