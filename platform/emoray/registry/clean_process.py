"""Whether a version loads and scores where nothing of this installation's emoray is visible.

`check` starts a new interpreter on this file, which then imports only the emoray in the version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

#: Environment of the new interpreter: where programs, libraries and temporary files are, and threads.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_OURS = ("emoray", "emoray_jobs", "emoray_serving")


@dataclass(frozen=True)
class CleanCheck:
    """The result of a version in a clean process.

    Attributes:
        passed: Whether it loaded and scored its input example.
        seconds: How long it took, start of the interpreter included.
        scores: V, A, D of the version's input example.
    """

    passed: bool
    message: str
    seconds: float
    scores: tuple[float, ...] = ()


def check(model_folder: str | Path, timeout_s: float) -> CleanCheck:
    """Load a version's MLflow model (`versions.model_folder`) in a new, isolated interpreter and score its example."""
    started = time.monotonic()
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="emoray-clean-") as work:
        # -B: no bytecode is written into the model's folder.
        command = [sys.executable, "-I", "-B", os.path.abspath(__file__), str(Path(model_folder).absolute())]
        try:
            done = subprocess.run(
                command, cwd=work, env=kept, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return CleanCheck(False, f"no answer within {timeout_s:g} s", time.monotonic() - started)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return CleanCheck(False, tail[0], seconds)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return CleanCheck(True, f"scored with {answer['package']}", seconds, tuple(answer["scores"]))


class _OnlyFrom(MetaPathFinder):
    """Finds our packages below one folder only, whatever the interpreter's installation."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """See `importlib.abc.MetaPathFinder`."""
        if fullname not in _OURS:
            return None
        inside = [entry for entry in sys.path if os.path.realpath(entry).startswith(self._folder + os.sep)]
        spec = PathFinder.find_spec(fullname, inside, target)
        if spec is None:
            raise ModuleNotFoundError(f"{fullname} is not in the model", name=fullname)
        return spec


def _main(model_folder: str) -> dict[str, Any]:
    folder = os.path.realpath(model_folder)
    sys.meta_path.insert(0, _OnlyFrom(folder))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(folder)
    answer = model.predict(model.input_example).to_dict("records")[0]
    if isinstance(answer["error"], str):  # NaN without an error
        raise RuntimeError(answer["error"])
    package = os.path.realpath(sys.modules["emoray"].__file__ or "")
    if not package.startswith(folder + os.sep):
        raise RuntimeError(f"emoray came from {package}, not from the model")
    return {
        "package": os.path.relpath(package, folder),
        "scores": [answer[name] for name in ("valence", "arousal", "dominance")],
    }


if __name__ == "__main__":
    # The last line of standard output is the answer to `check`; libraries may have printed others before.
    sys.stdout.write(json.dumps(_main(sys.argv[1])) + "\n")
