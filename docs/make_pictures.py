"""The pictures of README and documentation: the page after a clip was scored, and a report, taken by headless Chromium.

Run by hand when a page changes; its PNGs are committed. It needs Chromium (Debian: `apt install chromium`), a lake in
which `make demo` has ended, and the service over it (`emoray serve`):

    python docs/make_pictures.py --lake .emoray --url http://127.0.0.1:8000

Chromium runs with its own profile and is driven over its DevTools protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow.compute as pc
import soundfile
from PIL import Image

from emoray.lake.tables import Lake, LakeConfig

FOLDER = Path(__file__).parent / "images"
WIDTH = 1120
MARGIN = 20
COLOURS = 256
PAUSE_S = 0.4
READY = "document.getElementById('result').style.display === 'block'"


class Tab:
    """A tab of Chromium.

    Args:
        socket: Connection to its DevTools.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            reply = await self._socket.receive_json()
            if reply.get("id") == number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                return dict(reply["result"])

    async def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 60.0) -> None:
        """Wait until a JavaScript expression is true."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.1)

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    async def size(self, width: int, height: int, scale: float) -> None:
        """Set the size of the page, and how many dots a pixel has in each direction."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def picture(self, path: Path, until: str) -> None:
        """Store the page down to the end of an element (a CSS selector), as a PNG of few colours."""
        end = await self.evaluate(f"document.querySelector('{until}').getBoundingClientRect().bottom + scrollY")
        await self.store(path, WIDTH, end + MARGIN)

    async def store(self, path: Path, width: float, height: float) -> None:
        """Store the upper left part of the page, as a PNG of few colours."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def two_clips(lake: Lake, corpus: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Two clips of one test voice as one recording, so that something changes over time: the calmest, then the loudest.

    Returns:
        The recording, and its transcript and speaker by the names of the page's fields.
    """
    columns = ["audio_uri", "arousal", "split", "speaker_id", "transcript"]
    rows = lake.utterances(corpus, columns).filter(pc.field("split") == "test").to_pylist()
    voices: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["arousal"], row["audio_uri"])):
        voices[row["speaker_id"]].append(row)
    speaker, clips = max(voices.items(), key=lambda voice: voice[1][-1]["arousal"] - voice[1][0]["arousal"])
    chosen = (clips[0], clips[-1])
    sounds = [soundfile.read(row["audio_uri"], dtype="float32") for row in chosen]
    hz = sounds[0][1]
    pause = np.zeros(round(PAUSE_S * hz), dtype=np.float32)
    path = folder / "two-clips.wav"
    soundfile.write(path, np.concatenate([sounds[0][0], pause, sounds[1][0]]), hz)
    return path, {"transcript": " ".join(row["transcript"] for row in chosen), "speaker": speaker}


async def scored_page(tab: Tab, recording: Path, fields: dict[str, str], url: str) -> None:
    """The page after a recording was scored."""
    await tab.open(f"{url}/")
    await tab.until("document.getElementById('model').className === 'ready'")
    document = await tab.call("DOM.getDocument")
    chooser = await tab.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await tab.call("DOM.setFileInputFiles", nodeId=chooser["nodeId"], files=[str(recording)])
    for field, value in fields.items():
        await tab.evaluate(f"document.getElementById('{field}').value = {value!r}")
    await tab.until("!document.getElementById('score').disabled")
    await tab.evaluate("document.getElementById('score').click()")
    await tab.until(READY)


async def take(lake: Lake, arguments: argparse.Namespace) -> None:
    """Take both pictures."""
    async with new_tab() as tab:
        await tab.size(WIDTH, 900, 1.5)
        with tempfile.TemporaryDirectory(prefix="emoray-picture-") as folder:
            recording, fields = two_clips(lake, arguments.corpus, Path(folder))
            await scored_page(tab, recording, fields, arguments.url.rstrip("/"))
        await tab.picture(FOLDER / "page.png", until="#why")
        report = lake.path("reports", arguments.model, arguments.version, "test", "report.html")
        await tab.open(Path(report).absolute().as_uri())
        await tab.picture(FOLDER / "report.png", until="figure")


@contextlib.contextmanager
def chromium() -> Iterator[int]:
    """A headless Chromium with its own profile while a block runs; gives the port of its DevTools."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no Chromium here: apt install chromium")
    with tempfile.TemporaryDirectory(prefix="emoray-chromium-") as profile:
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--hide-scrollbars"]
        options += ["--no-first-run", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = subprocess.Popen([program, *options, "about:blank"], stderr=subprocess.PIPE, text=True)
        try:
            assert browser.stderr is not None
            line = next(line for line in browser.stderr if "DevTools listening on" in line)
            yield int(line.rpartition("ws://")[2].partition("/")[0].rpartition(":")[2])
        finally:
            browser.terminate()
            browser.wait(timeout=30)


@contextlib.asynccontextmanager
async def new_tab() -> AsyncIterator[Tab]:
    """A tab in a new Chromium."""
    with chromium() as port:
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply:
                address = (await reply.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Tab(socket)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", default=".emoray", help="lake of a finished demo (default: %(default)s)")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (default: %(default)s)")
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--model", default="emoray")
    parser.add_argument("--version", default="2", help="version whose report is shown (default: %(default)s)")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(take(Lake(LakeConfig(root=arguments.lake, storage_options={})), arguments))


if __name__ == "__main__":
    main()
