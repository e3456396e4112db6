"""Tiny checkpoints in Hugging Face layout with random weights: they test the software, not quality."""

from benchmarks.tiny.checkpoints import MAKERS, Size, make

__all__ = ["MAKERS", "Size", "make"]
