"""transformers without scikit-learn: `from emoray.stages.model_files.lean_transformers import transformers`.

With any network transformers imports scikit-learn, for a function of assisted generation that emoray does not use: a
sixth of the CPU time to start a worker process, and 100 MiB. It works without.
"""

from __future__ import annotations

import sys

import transformers

__all__ = ["transformers"]

if "sklearn" not in sys.modules:
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        import transformers.generation.candidate_generator
    finally:
        del sys.modules["sklearn"]
