"""The silero voice activity network (Silero Team, "Silero VAD", MIT), over many frames at once.

The package `silero-vad` has the weights in a TorchScript archive that is called frame by frame, where the calls cost
more than the arithmetic; importing the package sets the process's number of threads to one. Here the archive's weights
run in a few calls for all frames of a block; a test compares the result with the archive's. Shape legend: S samples, N
frames of a block, C channels, T steps of a frame.
"""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from importlib import util

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emoray.audio.activity import PACKAGE
from emoray.errors import ConfigError

#: As in the network's training, at 16 kHz: samples per frame, and repeated samples of the previous frame.
FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
#: Its spectrum: a short-time Fourier transform of 256 samples every 128, by convolution; the end is reflected.
STRIDE_SAMPLES = 128
REFLECTED_SAMPLES = 64
BINS = 129
WIDTH = 128
#: Parameter here → in the archive, which also has a network for 8 kHz.
WEIGHTS = {
    "stft_conv.weight": "_model.stft.forward_basis_buffer",
    **{
        f"conv{number + 1}.{part}": f"_model.encoder.{number}.reparam_conv.{part}"
        for number in range(4)
        for part in ("weight", "bias")
    },
    **{f"lstm.{part}_l0": f"_model.decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{part}": f"_model.decoder.decoder.2.{part}" for part in ("weight", "bias")},
}


@dataclass(frozen=True)
class Memory:
    """The state between two blocks of a recording.

    Attributes:
        hidden, cell: State of the recurrent layer, (1, 1, 128).
        context_S: Last samples of the previous block, (64,).
    """

    hidden: Tensor
    cell: Tensor
    context_S: Tensor


SILENCE = Memory(torch.zeros(1, 1, WIDTH), torch.zeros(1, 1, WIDTH), torch.zeros(CONTEXT_SAMPLES))


class Silero(nn.Module):
    """Probability of speech per frame of 32 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, kernel_size=2 * STRIDE_SAMPLES, stride=STRIDE_SAMPLES, bias=False)
        self.conv1 = nn.Conv1d(BINS, WIDTH, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH // 2, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(WIDTH // 2, WIDTH // 2, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(WIDTH // 2, WIDTH, kernel_size=3, padding=1)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.final_conv = nn.Conv1d(WIDTH, 1, kernel_size=1)

    def forward(self, samples_S: Tensor, memory: Memory = SILENCE) -> tuple[Tensor, Memory]:
        """Probability of speech per frame (N,) of a block, and the memory for the next one.

        `samples_S`: mono, 16 kHz, full scale 1; a multiple of 512 samples.
        """
        input_S = torch.cat([memory.context_S, samples_S])
        frames_NS = input_S.unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        padded_N1S = nn.functional.pad(frames_NS[:, None], (0, REFLECTED_SAMPLES), mode="reflect")
        spectrum_NCT = self.stft_conv(padded_N1S)
        magnitude_NCT = torch.sqrt(spectrum_NCT[:, :BINS].square() + spectrum_NCT[:, BINS:].square())
        hidden_NCT = magnitude_NCT
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden_NCT = torch.relu(convolution(hidden_NCT))
        states_1NC, (hidden, cell) = self.lstm(hidden_NCT[None, :, :, 0], (memory.hidden, memory.cell))
        logits_11N = self.final_conv(torch.relu(states_1NC.transpose(1, 2)))
        return torch.sigmoid(logits_11N[0, 0]), Memory(hidden, cell, input_S[-CONTEXT_SAMPLES:])


class SpeechDetector:
    """Processes one recording, block after block."""

    def __init__(self) -> None:
        self._network = network()
        self._memory = SILENCE

    def probabilities(self, samples_S: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probability of speech per frame of 512 samples, mono at 16 kHz.

        Every block but the last must be a multiple of 512 samples; the last one is padded with silence.
        """
        missing = -len(samples_S) % FRAME_SAMPLES
        block_S = torch.from_numpy(np.pad(samples_S, (0, missing)) if missing else samples_S)
        if len(block_S) == 0:
            return np.zeros(0, np.float32)
        with torch.inference_mode():
            speech_N, self._memory = self._network(block_S, self._memory)
        return speech_N.numpy()


@functools.cache
def network() -> Silero:
    """This process's copy of the network.

    Raises:
        ConfigError: The package with the weights is not installed.
    """
    found = util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ConfigError(f"voice activity needs the package {PACKAGE}", remedy="Install it")
    path = os.path.join(os.path.dirname(found.origin), "data", "silero_vad.jit")
    with warnings.catch_warnings():
        # The safetensors beside it are of another training; only the archive's weights are used.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.load")
        archive = torch.jit.load(path, map_location="cpu").state_dict()
    model = Silero()
    model.load_state_dict({name: archive[source] for name, source in WEIGHTS.items()})
    return model.eval().requires_grad_(False)
