"""From plans to waveforms with word times, by espeak-ng in a separate process."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import soxr

from emoray.audio.io import AUDIO_HZ
from emoray.corpora.synthetic.plan import EMPHASIS_PAUSE_S, PITCH_TOP, Markup, Speaker, UtterancePlan
from emoray.errors import InputError, MissingExtraError

#: Silence before the first and after the last word.
LEAD_S, TAIL_S = 0.08, 0.10
#: Faint noise everywhere, as in any recording: digital silence would reveal pauses.
NOISE_DBFS = -72.0
PEAK = 0.98


@dataclass(frozen=True)
class Speech:
    """A synthesised utterance.

    Attributes:
        samples: float32 (S,), 16 kHz mono.
        starts_s: Start of each word of the plan.
        ends_s: End of each word: where the next begins, or a pause before it.
    """

    samples: npt.NDArray[np.float32]
    starts_s: tuple[float, ...]
    ends_s: tuple[float, ...]


class Synthesiser:
    """One speaker's voice; a context manager around its espeak-ng process.

    Raises:
        MissingExtraError: `espeakng-loader` is not installed.
    """

    def __init__(self, speaker: Speaker) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise MissingExtraError(
                "the synthetic corpus needs espeak-ng, which is not installed",
                remedy="Install the extra: pip install 'emoray[synthetic]'",
            ) from None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        worker = Path(__file__).with_name("espeak.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(worker), espeakng_loader.get_library_path(), espeakng_loader.get_data_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        pitch_hz = [speaker.pitch_hz, speaker.pitch_hz * PITCH_TOP]
        self._send({"accent": speaker.accent, "variant": speaker.variant, "pitch_hz": pitch_hz})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def say(self, plan: UtterancePlan) -> Speech:
        """Synthesise an utterance.

        Raises:
            InputError: espeak-ng refused it or lost a word.
        """
        for markup in plan.markups:
            answer = self._ask(plan, markup)
            if not _lost_words(plan, markup, answer["words"]):
                break
        else:
            raise InputError("espeak-ng loses words of this sentence", where=" ".join(plan.sentence.words))
        hz = answer["hz"]
        pcm_S = np.frombuffer(base64.b64decode(answer["pcm"]), "<i2").astype(np.float32) * np.float32(2**-15)
        starts, ends = _word_samples(plan, markup, answer["words"], answer["pauses"], len(pcm_S))
        pcm_S, starts, ends = _with_pause(pcm_S, starts, ends, plan.sentence.emphasised, hz)
        first, last = round(starts[0] - LEAD_S * hz), round(ends[-1] + TAIL_S * hz)
        spoken_S = np.pad(pcm_S[max(first, 0) : last], (max(-first, 0), max(last - len(pcm_S), 0)))
        return Speech(
            samples=_at_level(soxr.resample(spoken_S, hz, AUDIO_HZ), plan),
            starts_s=tuple(round((start - first) / hz, 4) for start in starts),
            ends_s=tuple(round((end - first) / hz, 4) for end in ends),
        )

    def _ask(self, plan: UtterancePlan, markup: Markup) -> dict[str, Any]:
        self._send(
            {
                "text": markup.text,
                "words_per_minute": plan.words_per_minute,
                "pitch": plan.pitch,
                "range": plan.pitch_range,
            }
        )
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InputError(f"espeak-ng refused a sentence: {answer['error']}")
        return answer

    def _died(self) -> InputError:
        self._process.wait()
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return InputError(
            f"the espeak-ng process ended: {last[0]}", remedy="Install espeakng-loader again", kind="synthesis_failed"
        )


def _lost_words(plan: UtterancePlan, markup: Markup, events: list[tuple[int, int]]) -> bool:
    """Whether a word was not spoken. A missing "the" after "on" is no loss: espeak-ng joins the two."""
    reported = {position for position, _ in events}
    missing = {
        word for word, position in zip(plan.sentence.words, markup.positions, strict=True) if position not in reported
    }
    return bool(missing - {"the"}) or markup.positions[0] not in reported


def _word_samples(
    plan: UtterancePlan, markup: Markup, events: list[tuple[int, int]], pauses: list[int], length: int
) -> tuple[list[float], list[float]]:
    """Start and end of each word, in samples of the synthesiser."""
    begin_at: dict[int, int] = dict(events)
    after_last = [pause for pause in pauses if pause > max(begin_at.values())]
    end = min(after_last, default=length)
    # The time of words that espeak-ng joins is divided by letters.
    known = [index for index, position in enumerate(markup.positions) if position in begin_at]
    starts: list[float] = []
    for index, following in zip(known, [*known[1:], len(markup.positions)], strict=True):
        begin = begin_at[markup.positions[index]]
        stop = begin_at[markup.positions[following]] if following < len(markup.positions) else end
        letters = np.array([len(word) for word in plan.sentence.words[index:following]])
        shares = np.concatenate([[0.0], np.cumsum(letters)[:-1]]) / letters.sum()
        starts.extend(float(begin + share * (stop - begin)) for share in shares)
    ends = [
        float(min((pause for pause in pauses if start < pause < stop), default=stop))
        for start, stop in zip(starts, [*starts[1:], end], strict=True)
    ]
    return starts, ends


def _with_pause(
    pcm_S: npt.NDArray[np.float32], starts: list[float], ends: list[float], index: int, hz: int
) -> tuple[npt.NDArray[np.float32], list[float], list[float]]:
    """Insert the pause before the emphasised word: a break in the text would make espeak-ng end a phrase there."""
    if index == 0:
        return pcm_S, starts, ends
    cut, pause, fade = round(starts[index]), round(EMPHASIS_PAUSE_S * hz), round(0.003 * hz)
    before_S, after_S = pcm_S[:cut].copy(), pcm_S[cut:].copy()
    before_S[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    after_S[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    return (
        np.concatenate([before_S, np.zeros(pause, np.float32), after_S]),
        [start + pause * (place >= index) for place, start in enumerate(starts)],
        [end + pause * (place >= index) for place, end in enumerate(ends)],
    )


def _at_level(samples_S: npt.NDArray[np.float32], plan: UtterancePlan) -> npt.NDArray[np.float32]:
    """Scale to the planned loudness, fade the ends, add the noise."""
    power = float(np.mean(np.square(samples_S, dtype=np.float64)))
    gain = 10 ** (plan.level_dbfs / 20) / np.sqrt(power)
    gain = min(gain, PEAK / float(np.abs(samples_S).max()))
    fade = round(0.01 * AUDIO_HZ)
    envelope_S = np.ones(len(samples_S), np.float32)
    envelope_S[:fade] = np.linspace(0, 1, fade)
    envelope_S[-fade:] = np.linspace(1, 0, fade)
    noise_S = np.random.default_rng(plan.noise_seed).standard_normal(len(samples_S), dtype=np.float32)
    return (samples_S * gain * envelope_S + noise_S * np.float32(10 ** (NOISE_DBFS / 20))).astype(np.float32)
