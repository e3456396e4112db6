"""transformers without scikit-learn: `from emoray.stages.lean_transformers import transformers`.

With any network it imports scikit-learn, for a curve of assisted generation that nothing here asks for: a sixth of the
CPU time that a worker process takes to start, and 100 MiB. Where there is none it does without.
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
