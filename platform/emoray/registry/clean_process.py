"""Whether a version loads and scores where nothing of this installation's emoray is visible.

`check` starts a new interpreter on this file, which then imports only the emoray in the version: an interpreter of this
installation, or of a new environment in which only the version's requirements are installed.
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
#: Beginnings of variables that it gets too: of the tracking store and of S3 (files that versions share), and of pip.
_KEPT_BEGINNINGS = ("MLFLOW_TRACKING_", "AWS_", "PIP_")
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


def check(
    model_folder: str | Path, timeout_s: float, *, tracking_uri: str | None = None, install_s: float | None = None
) -> CleanCheck:
    """Load a version's MLflow model (`versions.model_folder`) in a new, isolated interpreter and score its example.

    Args:
        tracking_uri: Where files are that versions share.
        install_s: Install the version's requirements into a new environment first, within this time, and check there.
    """
    started = time.monotonic()
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)}
    if tracking_uri is not None:
        kept["MLFLOW_TRACKING_URI"] = tracking_uri
    with tempfile.TemporaryDirectory(prefix="emoray-clean-") as work:
        python = sys.executable
        if install_s is not None:
            python = os.path.join(work, "environment", "bin", "python")
            failure = _install(Path(model_folder) / "requirements.txt", Path(work), kept, install_s)
            if failure is not None:
                return CleanCheck(False, failure, time.monotonic() - started)
        # -B: no bytecode is written into the model's folder.
        command = [python, "-I", "-B", os.path.abspath(__file__), str(Path(model_folder).absolute())]
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
    place = "" if install_s is None else " in a new environment of its requirements alone"
    return CleanCheck(True, f"scored with {answer['package']}{place}", seconds, tuple(answer["scores"]))


def _install(requirements: Path, work: Path, environ: dict[str, str], timeout_s: float) -> str | None:
    """Install requirements into `work`/environment; what went wrong, or None."""
    environment = str(work / "environment")
    pip = [os.path.join(environment, "bin", "python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    until = time.monotonic() + timeout_s
    for command in ([sys.executable, "-m", "venv", environment], pip):
        left_s = max(0.0, until - time.monotonic())
        try:
            subprocess.run(command, env=environ, capture_output=True, text=True, timeout=left_s, check=True)
        except subprocess.TimeoutExpired:
            return f"its requirements were not installed within {timeout_s:g} s"
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout).strip().splitlines()
            return f"its requirements cannot be installed: {said[-1] if said else error}"
    return None


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
