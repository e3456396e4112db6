"""Read clips and measure them: decode to 16 kHz mono, fundamental frequency and energy."""

from emoray.audio.io import AUDIO_HZ, AudioConfig, Waveform, decode
from emoray.audio.prosody import Prosody, ProsodyConfig, measure

__all__ = ["AUDIO_HZ", "AudioConfig", "Prosody", "ProsodyConfig", "Waveform", "decode", "measure"]
