"""Virtual environments of the peers, under `.bench/`: made at first use."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Libraries that every peer of P2 shares with us, in our versions, so that only the pipelines differ.
SHARED = ("torch==2.13.0", "transformers==5.19.0", "soundfile==0.14.0", "soxr==1.1.0")
PACKAGES: dict[str, tuple[str, ...]] = {
    "librosa": ("librosa==0.11.0",),
    "daft": ("daft==0.7.26", *SHARED),
    "data-juicer": ("py-data-juicer==1.6.1", "aiohttp==3.14.5", *SHARED),  # which it imports but does not require
    "accelerate": ("accelerate==1.15.0",),
}
#: Peers that are our environment and one package more: they import all that we do, in our versions.
ON_OURS = frozenset({"accelerate"})


class NotInstalledError(Exception):
    """A peer cannot be installed here; the message says why."""


def python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is missing.

    Raises:
        NotInstalledError: It cannot be made.
    """
    folder = ROOT / ".bench" / peer
    interpreter, done = folder / "bin" / "python", folder / "installed"
    wanted = " ".join(PACKAGES[peer])
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return interpreter
    uv = Path(sys.executable).with_name("uv")
    environment = os.environ | {"UV_LINK_MODE": "copy"}
    if "PIP_FIND_LINKS" in environment:  # uv does not read pip's settings
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
    overrides = ROOT / "requirements" / "overrides.txt"
    alone = ["--no-deps"] if peer in ON_OURS else []
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
        [uv, "pip", "install", "--quiet", "--python", interpreter, "--overrides", overrides, *alone, *PACKAGES[peer]],
    ):
        outcome = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        if outcome.returncode:
            last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotInstalledError(f"{peer} cannot be installed: {last}")
    if peer in ON_OURS:
        (packages,) = folder.glob("lib/python*/site-packages")
        shared = [sysconfig.get_path("purelib"), str(ROOT / "platform")]
        (packages / "ours.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    done.write_text(wanted, encoding="utf-8")
    return interpreter


def script(name: str) -> Path:
    """A peer's program."""
    return ROOT / "benchmarks" / "speed" / "peers" / name
