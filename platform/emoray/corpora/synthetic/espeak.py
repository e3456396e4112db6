r"""The synthesiser's process: espeak-ng behind JSON lines on standard input and output.

espeak-ng is GPL, so it never shares a process with the rest: this file is run by its path and imports only the standard
library. One process serves one voice, because espeak keeps state between sentences (flutter, echo): the same requests
to a new process give the same samples, bit for bit.

    python espeak.py LIBRARY DATA_FOLDER
    → {"accent": "en-us", "variant": "f2", "pitch_hz": [110, 150]}              the voice, once; no answer
    → {"text": "Good \u000180Pmorning", "words_per_minute": 175, "pitch": 50, "range": 50}
    ← {"hz": 22050, "pcm": "<base64 of little-endian int16>", "words": [[position, sample], …], "pauses": [sample, …]}
    ← {"error": "…"}

`position` is the word's first character in the text, counted from 1; `pauses` are where silences begin.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import tempfile
from typing import Any

# Constants of espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 1
CHARACTERS_UTF8 = 1
POSITION_CHARACTER = 1
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4
RANDOM_SEED = 1
EVENT_END_OF_LIST, EVENT_WORD, EVENT_PHONEME = 0, 1, 7

#: Files of the data folder that English needs.
DATA_FILES = ("phontab", "phonindex", "phondata", "intonations", "en_dict")
#: Lines of a voice variant that are replaced: we set the pitch, `name` must match the file, flutter and echo blur it.
REPLACED_LINES = ("name", "pitch", "flutter", "echo")


class Event(ctypes.Structure):
    """`espeak_EVENT`: an event at a sample."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))


def make_data_folder(folder: str, installed: str, variant: str, pitch_hz: list[float]) -> None:
    """Fill an empty data folder whose only variant is `speaker`: an installed variant at another pitch.

    `installed` is espeak-ng's data folder, `variant` the installed variant, `pitch_hz` low and high end of the pitch.
    """
    for name in DATA_FILES:
        os.symlink(os.path.join(installed, name), os.path.join(folder, name))
    os.makedirs(os.path.join(folder, "lang"))
    os.symlink(os.path.join(installed, "lang", "gmw"), os.path.join(folder, "lang", "gmw"))
    os.makedirs(os.path.join(folder, "voices", "!v"))
    with open(os.path.join(installed, "voices", "!v", variant), encoding="utf-8", errors="replace") as file:
        kept = [line for line in file.read().splitlines() if not line.strip().startswith(REPLACED_LINES)]
    with open(os.path.join(folder, "voices", "!v", "speaker"), "w", encoding="utf-8") as file:
        file.write("\n".join(["name speaker", f"pitch {pitch_hz[0]:.0f} {pitch_hz[1]:.0f}", *kept, ""]))


class Engine:
    """espeak-ng with one voice.

    Args:
        library: Path of libespeak-ng.
        data: Path of a data folder with the variant `speaker`.
        accent: Language of the voice, `en-us` for example.
    """

    def __init__(self, library: str, data: str, accent: str) -> None:
        self._lib = ctypes.CDLL(library)
        self._audio: list[bytes] = []
        self._words: list[tuple[int, int]] = []
        self._pauses: list[int] = []
        self._callback = Callback(self._collect)
        self.hz = self._lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), INITIALIZE_PHONEME_EVENTS)
        if self.hz <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {data}")
        self._lib.espeak_SetSynthCallback(self._callback)
        if self._lib.espeak_SetVoiceByName(f"{accent}+speaker".encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {accent!r}")

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._audio.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != EVENT_END_OF_LIST:
            event = events[index]
            if event.type == EVENT_WORD:
                self._words.append((event.text_position, event.sample))
            elif event.type == EVENT_PHONEME and event.id.startswith(b"_"):
                self._pauses.append(event.sample)
            index += 1
        return 0

    def say(self, request: dict[str, Any]) -> dict[str, Any]:
        """Synthesise one request (see the module's docstring)."""
        self._audio, self._words, self._pauses = [], [], []
        # espeak-ng seeds the noise of breathy voices by the clock.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
        self._lib.espeak_SetParameter(PARAMETER_RATE, int(request["words_per_minute"]), 0)
        self._lib.espeak_SetParameter(PARAMETER_PITCH, int(request["pitch"]), 0)
        self._lib.espeak_SetParameter(PARAMETER_RANGE, int(request["range"]), 0)
        text = request["text"].encode()
        self._lib.espeak_Synth(text, len(text) + 1, 0, POSITION_CHARACTER, 0, CHARACTERS_UTF8, None, None)
        return {
            "hz": self.hz,
            "pcm": base64.b64encode(b"".join(self._audio)).decode(),
            "words": self._words,
            "pauses": self._pauses,
        }


def main() -> None:
    """Answer requests until standard input ends."""
    library, installed = sys.argv[1:3]
    # espeak-ng writes its messages to standard output: reserve that channel for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="emoray-espeak-") as folder:
        voice = json.loads(sys.stdin.readline())
        make_data_folder(folder, installed, voice["variant"], voice["pitch_hz"])
        engine = Engine(library, folder, voice["accent"])
        for line in sys.stdin:
            try:
                answer = engine.say(json.loads(line))
            except (KeyError, ValueError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
