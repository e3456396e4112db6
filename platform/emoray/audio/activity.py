"""From probabilities of speech, frame by frame, to spans of speech and to utterances. Shape legend: N frames.

A frame is 512 samples (32 ms); the probabilities come from `emoray.audio.silero`. silero-vad's own
`get_speech_timestamps_from_probs` is not used: it counts the silence at the end of a recording as speech where it is
shorter than `min_silence_s`, cuts long speech at pauses rather than at the least likely frame, and importing its
package sets the process's number of threads to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import numpy as np
import numpy.typing as npt

from emoray.audio.io import AUDIO_HZ
from emoray.config import Section

FRAME_S = 512 / AUDIO_HZ
PACKAGE = "silero-vad"


class ActivityConfig(Section):
    """When sound is speech.

    Attributes:
        enter: Speech begins where its probability reaches this …
        leave: … and ends where it falls below this.
        min_silence_s: Shorter gaps count as speech.
        min_speech_s: Shorter speech counts as noise.
    """

    enter: float
    leave: float
    min_silence_s: float
    min_speech_s: float


@dataclass(frozen=True)
class Span:
    """A part of a recording, in seconds from its beginning."""

    start_s: float
    end_s: float


def weights_version() -> str:
    """Version of the weights behind the probabilities, for fingerprints; loads nothing."""
    return f"{PACKAGE} {metadata.version(PACKAGE)}"


def speech_frames(speech_N: npt.NDArray[np.float32], config: ActivityConfig) -> npt.NDArray[np.bool_]:
    """Which frames are speech."""
    # Between the two thresholds a frame is what the previous one was; before the first frame is silence.
    decided = np.flatnonzero((speech_N >= config.enter) | (speech_N < config.leave))
    last_N = np.searchsorted(decided, np.arange(len(speech_N)), side="right") - 1
    is_speech_N = np.zeros(len(speech_N), dtype=bool)
    known_N = last_N >= 0
    is_speech_N[known_N] = speech_N[decided[last_N[known_N]]] >= config.enter
    for start, end in runs(~is_speech_N):
        inside = start > 0 and end < len(is_speech_N)
        if inside and (end - start) * FRAME_S < config.min_silence_s:
            is_speech_N[start:end] = True
    for start, end in runs(is_speech_N):
        if (end - start) * FRAME_S < config.min_speech_s:
            is_speech_N[start:end] = False
    return is_speech_N


def utterances(
    speech_N: npt.NDArray[np.float32],
    config: ActivityConfig,
    *,
    duration_s: float,
    pad_s: float,
    max_utterance_s: float,
) -> list[Span]:
    """Cut a recording into utterances: its spans of speech; long ones are cut where speech is least likely.

    Args:
        pad_s: Sound kept before and after speech; neighbours divide a gap that is too short for both.
        max_utterance_s: No utterance is longer, padding included.

    Returns:
        Spans in order, not overlapping.
    """
    most = max(2, int((max_utterance_s - 2 * pad_s) / FRAME_S))
    pieces = [
        piece for start, end in runs(speech_frames(speech_N, config)) for piece in _cut(speech_N, start, end, most)
    ]
    spans = []
    for number, (start, end) in enumerate(pieces):
        before_s = pieces[number - 1][1] * FRAME_S if number else -pad_s
        after_s = pieces[number + 1][0] * FRAME_S if number + 1 < len(pieces) else duration_s + 2 * pad_s
        start_s, end_s = start * FRAME_S, min(end * FRAME_S, duration_s)
        first_s = max(0.0, start_s - min(pad_s, (start_s - before_s) / 2))
        last_s = min(duration_s, end_s + min(pad_s, max(0.0, after_s - end_s) / 2))
        spans.append(Span(first_s, last_s))
    return spans


def _cut(speech_N: npt.NDArray[np.float32], start: int, end: int, most: int) -> list[tuple[int, int]]:
    """Cut a run of frames into pieces of at most `most`, each in the second half of what is allowed."""
    pieces = []
    while end - start > most:
        first = start + most // 2
        cut = first + int(np.argmin(speech_N[first : start + most])) + 1
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def runs(flags_N: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of each run of true frames, end excluded."""
    edges = np.flatnonzero(np.diff(flags_N.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
