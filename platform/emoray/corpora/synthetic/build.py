"""The synthetic corpus: planted valence, arousal, dominance and emphasis in synthesised English.

Valence is in the words and in which word is emphasised, arousal in rate, loudness and pitch range, dominance in pitch
relative to the speaker's habit. Optionally, labels carry over from turn to turn of dialogues. The corpus tests the
software; it is no evidence about people.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import soundfile
from pydantic import Field, NonNegativeInt

from emoray.audio.io import AUDIO_HZ
from emoray.config import Section
from emoray.corpora.synthetic.dialogues import converse
from emoray.corpora.synthetic.plan import Speaker, UtterancePlan, draw_plans, draw_speakers
from emoray.corpora.synthetic.speech import Speech, Synthesiser
from emoray.digest import digest
from emoray.errors import ConfigError, LakeError
from emoray.lake.tables import Lake
from emoray.schema import DIMENSIONS, empty_row, utterances_table

#: To be raised when the same configuration gives another corpus.
VERSION = 1
SCALE = (1.0, 7.0)
#: Within this distance of the middle of the valence-arousal plane an utterance counts as neutral.
NEUTRAL_RADIUS = 0.18


class SplitCounts(Section):
    """A number per split.

    Attributes:
        train: For training.
        dev: For choosing the epoch and for the conformal intervals.
        gate: For the promotion gate.
        test: For the reports.
    """

    train: int
    dev: int
    gate: int
    test: int


class SyntheticConfig(Section):
    """The synthetic corpus.

    Attributes:
        seed: Seed of all draws: same configuration, same samples.
        speakers: Voices per split; no voice is in two.
        utterances_per_speaker: Clips per voice.
        opposed_fraction: Share of sentences with two opposed affect words, where emphasis decides the valence.
        label_noise_sd: Standard deviation of the raters' noise, on [0, 1].
        dialogue_turns: Turns of two-speaker dialogues (`emoray.corpora.synthetic.dialogues`); 0 for single clips.
        carry_over: How much of a turn's labels carries over to the next turn's, from 0 to 1; only in dialogues.
        processes: Parallel synthesisers; does not change the result.
    """

    seed: int
    speakers: SplitCounts
    utterances_per_speaker: SplitCounts
    opposed_fraction: float
    label_noise_sd: float
    dialogue_turns: NonNegativeInt
    carry_over: float = Field(ge=0, le=1)
    processes: int

    @property
    def unused(self) -> set[str]:
        """Options without effect: a corpus without dialogues keeps the hash it had before there were dialogues."""
        return set() if self.dialogue_turns else {"dialogue_turns", "carry_over"}

    @property
    def hash(self) -> str:
        """12 hex digits of all that the corpus depends on."""
        content = self.model_dump(mode="json", exclude={"processes"} | self.unused) | {"version": VERSION}
        return digest(content, 12)


def build(name: str, config: SyntheticConfig, lake: Lake, progress: Callable[[int, int], None]) -> pa.Table:
    """Synthesise the corpus into the lake: audio first, then the table, then its meta file, which marks it as complete.

    Raises:
        MissingExtraError: `espeakng-loader` is not installed.
        ConfigError: More speakers than voices, or dialogues and an odd number of speakers in a split.
    """
    meta = ("utterances_meta", f"{name}.json")
    if lake.exists(*meta) and lake.read_json(*meta).get("config_hash") == config.hash:
        return lake.utterances(name)
    work = draw(config)
    total = sum(len(plans) for _, plans in work)
    rows: list[list[dict[str, object]]] = [[] for _ in work]
    done = 0
    with ThreadPoolExecutor(config.processes) as pool:
        futures: dict[Future[list[dict[str, object]]], int] = {
            pool.submit(_synthesise, name, config.hash, speaker, plans, lake): index
            for index, (speaker, plans) in enumerate(work)
        }
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in finished:
                    rows[futures[future]] = future.result()
                    done += len(rows[futures[future]])
                progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    table = utterances_table([row for group in rows for row in group])
    plant = _plant_table(table, [plan for _, plans in work for plan in plans])
    lake.write_utterances(name, table)
    lake.write_parquet(plant.to_arrow(), "utterances_meta", f"{name}-plant.parquet")
    lake.write_json(
        {
            "config_hash": config.hash,
            "config": config.model_dump(mode="json", exclude=config.unused),
            "ceiling": _ceiling(table, plant),
            "utterances": table.num_rows,
            "speakers": len(work),
        },
        *meta,
    )
    return table


def ceiling(lake: Lake, name: str) -> dict[str, float]:
    """The best CCC that any predictor can reach on the test split, per dimension.

    It is ρ = sqrt(var_x / var_y) of planted values x and noisy labels y, reached by predictions scaled to the labels'
    spread (the conditional mean alone gets less).

    Raises:
        LakeError: The corpus is not a synthetic one, or not in this lake.
    """
    meta = ("utterances_meta", f"{name}.json")
    if not lake.exists(*meta):
        raise LakeError(
            f"corpus {name!r} has no planted values",
            where=lake.uri(*meta),
            remedy="Only synthetic corpora have a ceiling",
            kind="no_ceiling",
        )
    return dict(lake.read_json(*meta)["ceiling"])


def planted(lake: Lake, name: str) -> pl.DataFrame:
    """Planted values without label noise: utterance_id, split, {dimension}, opposed, emphasised (index of the word)."""
    return pl.read_parquet(lake.read_bytes("utterances_meta", f"{name}-plant.parquet"))


def draw(config: SyntheticConfig) -> list[tuple[Speaker, list[UtterancePlan]]]:
    """Speakers with their utterances; each has its own random stream, so that counts do not affect the others."""
    counts = config.speakers.model_dump()
    try:
        speakers = draw_speakers(np.random.default_rng([config.seed, 0]), counts)
    except ValueError as error:
        raise ConfigError(str(error), where="corpus.synthetic.speakers", remedy="Ask for fewer speakers") from None
    clips = config.utterances_per_speaker.model_dump()
    work = []
    for number, speaker in enumerate(speakers):
        rng = np.random.default_rng([config.seed, 1, number])
        plans = draw_plans(rng, speaker, clips[speaker.split], config.opposed_fraction, config.label_noise_sd)
        work.append((speaker, plans))
    if not config.dialogue_turns:
        return work
    try:
        return converse(work, config.seed, config.dialogue_turns, config.carry_over, config.label_noise_sd)
    except ValueError as error:
        remedy = "Give each split an even number, or set corpus.synthetic.dialogue_turns=0"
        raise ConfigError(str(error), where="corpus.synthetic.speakers", remedy=remedy, kind="odd_speakers") from None


def _synthesise(
    name: str, config_hash: str, speaker: Speaker, plans: list[UtterancePlan], lake: Lake
) -> list[dict[str, object]]:
    """One speaker's clips, in order, by one new process: espeak-ng keeps state between sentences."""
    rows = []
    with Synthesiser(speaker) as synthesiser:
        for number, plan in enumerate(plans):
            speech = synthesiser.say(plan)
            utterance_id = f"{name}-{config_hash[:6]}-{speaker.speaker_id}-{number:03d}"
            uri = lake.write_bytes(_wav(speech), "audio", name, config_hash, speaker.speaker_id, f"{number:03d}.wav")
            rows.append(_row(name, utterance_id, uri, speaker, plan, speech))
    return rows


def _wav(speech: Speech) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, speech.samples, AUDIO_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _row(
    name: str, utterance_id: str, uri: str, speaker: Speaker, plan: UtterancePlan, speech: Speech
) -> dict[str, object]:
    low, high = SCALE
    words: list[dict[str, Any]] = [
        {"word": word, "start_s": start_s, "end_s": end_s, "emphasised": index == plan.sentence.emphasised}
        for index, (word, start_s, end_s) in enumerate(
            zip(plan.sentence.words, speech.starts_s, speech.ends_s, strict=True)
        )
    ]
    return empty_row() | {
        "utterance_id": utterance_id,
        "corpus": name,
        "audio_uri": uri,
        "duration_s": len(speech.samples) / AUDIO_HZ,
        "speaker_id": speaker.speaker_id,
        "gender": speaker.gender,
        "language": "en",
        "split": speaker.split,
        **dict(zip(DIMENSIONS, plan.label, strict=True)),
        **{
            f"{dimension}_raw": low + (high - low) * value
            for dimension, value in zip(DIMENSIONS, plan.label, strict=True)
        },
        "scale_min": low,
        "scale_max": high,
        "emotion": emotion(plan.label[0], plan.label[1]),
        "transcript": " ".join(plan.sentence.words),
        "words": words,
        "dialogue_id": plan.dialogue_id,
        "turn": plan.turn,
    }


def emotion(valence: float, arousal: float) -> str:
    """Category by the quadrant of the valence-arousal plane (Russell's circumplex), neutral in the middle."""
    if math.hypot(valence - 0.5, arousal - 0.5) < NEUTRAL_RADIUS:
        return "neutral"
    if valence >= 0.5:
        return "happiness" if arousal >= 0.5 else "calm"
    return "anger" if arousal >= 0.5 else "sadness"


def _plant_table(table: pa.Table, plans: list[UtterancePlan]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "utterance_id": table["utterance_id"].to_pylist(),
            "split": table["split"].to_pylist(),
            **{dimension: [plan.planted[index] for plan in plans] for index, dimension in enumerate(DIMENSIONS)},
            "opposed": [plan.sentence.opposed for plan in plans],
            "emphasised": [plan.sentence.emphasised for plan in plans],
        }
    )


def _ceiling(table: pa.Table, plant: pl.DataFrame) -> dict[str, float]:
    labels = pl.DataFrame(table.select(["split", *DIMENSIONS]))
    result = {}
    for dimension in DIMENSIONS:
        clean = plant.filter(pl.col("split") == "test")[dimension].to_numpy()
        noisy = labels.filter(pl.col("split") == "test")[dimension].to_numpy()
        result[dimension] = float(np.sqrt(clean.var() / noisy.var())) if len(clean) > 1 else float("nan")
    return result
