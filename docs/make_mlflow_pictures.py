"""The pictures of MLflow's pages: the champion's run, its logged model and its version, taken by headless Chromium.

Run by hand when what emoray logs changes; its PNGs are committed. It needs Chromium (Debian: `apt install chromium`)
and a lake in which `emoray demo` has ended. It starts MLflow's own server on loopback:

    python docs/make_mlflow_pictures.py --lake .emoray
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from make_pictures import FOLDER, Tab, new_tab

from emoray.config import read_preset
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry.config import TrackingConfig
from emoray.registry.tracking import Tracking, connect
from emoray.registry.versions import resolve

WIDTH, HEIGHT, SCALE = 1360, 1000, 1.0
START_S = 120.0
#: MLflow opens its assistant beside each page.
CLOSE_ASSISTANT = """document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click()"""
#: MLflow draws its pages in several steps after their last request: as long as nothing changed for so many looks.
STILL_LOOKS = 15


@contextlib.contextmanager
def mlflow_server(store: str) -> Iterator[str]:
    """MLflow's server over a store while a block runs; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        server = subprocess.Popen(
            [*command, "--backend-store-uri", store], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                        break
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(log.read().decode())
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


async def shoot(tab: Tab, url: str, name: str, expected: str, height: int = HEIGHT) -> None:
    """Open a page, wait until it shows a text and stops changing, and store the picture."""
    await tab.size(WIDTH, height, SCALE)
    await tab.call("Page.navigate", url="about:blank")  # MLflow's pages differ in their fragment alone
    await tab.open(url)
    await tab.until(f"document.body.innerText.includes({expected!r})", timeout_s=120)
    await tab.evaluate(CLOSE_ASSISTANT)
    before, still = "", 0
    while still < STILL_LOOKS:
        await asyncio.sleep(0.2)
        now = await tab.evaluate("document.body.innerText")
        still = still + 1 if now == before else 0
        before = now
    await tab.store(FOLDER / f"{name}.png", WIDTH, height)


async def take(tracking: Tracking, reference: str, url: str) -> None:
    """Take the three pictures."""
    version = resolve(tracking, reference)
    experiment = tracking.client.get_run(version.run_id).info.experiment_id
    async with new_tab() as tab:
        run = f"{url}/#/experiments/{experiment}/runs/{version.run_id}"
        await shoot(tab, run, "mlflow-run", "emoray.corpus", 1300)
        model = f"{url}/#/experiments/{experiment}/models/{version.model_id}"
        await shoot(tab, model, "mlflow-model", "dev/", 1500)
        page = f"{url}/#/models/{version.name}/versions/{version.version}"
        await shoot(tab, page, "mlflow-version", "emoray.corpus")


def main() -> None:
    """Start MLflow's server and Chromium, take the pictures, stop both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", default=".emoray", help="lake of a finished demo (default: %(default)s)")
    parser.add_argument("--model", default="emoray")
    parser.add_argument("--version", default="champion", help="version to show (default: %(default)s)")
    arguments = parser.parse_args()
    settings = {**read_preset("laptop")["tracking"], "model_name": arguments.model}
    lake = Lake(LakeConfig(root=str(Path(arguments.lake).absolute()), storage_options={}))
    tracking = connect(TrackingConfig(**settings), lake)
    FOLDER.mkdir(exist_ok=True)
    with mlflow_server(tracking.uri) as url:
        asyncio.run(take(tracking, arguments.version, url))


if __name__ == "__main__":
    main()
