"""Tiny checkpoints in Hugging Face layout with random weights: they test the software, not quality."""

from emoray.tiny.checkpoints import MAKERS, Size, make

__all__ = ["MAKERS", "Size", "make"]
