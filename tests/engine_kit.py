"""A server of OpenAI's chat protocol on loopback that does what a test tells it to, for engines that misbehave."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from emoray.config import merge, read_preset, validate
from emoray.engines import EngineConfig

#: A request's body → (status, text of the answer or of the error); None is silence.
Script = Callable[[dict[str, Any]], tuple[int, str] | None]

RECORD = {
    "emotion": "joy",
    "intensity": 0.75,
    "attitude": "warm",
    "intention": "greeting",
    "vocal_delivery": "High and lively.",
    "summary": "She is glad.",
}


@contextlib.contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The server's address, and the requests that it got."""
    seen: list[dict[str, Any]] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers["Authorization"], **body})
            answer = script(body)
            if answer is None:
                closing.wait(60)
                return
            status, text = answer
            reply = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": text}
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        closing.set()
        server.shutdown()
        server.server_close()


def endpoint_config(url: str | None, **changes: Any) -> EngineConfig:
    """An endpoint as engine, with short pauses."""
    endpoint = {"url": url, "timeout_s": 20, "max_attempts": 3, "backoff_s": 0.01, **changes}
    preset = read_preset("laptop")["annotate"]["semantics"]["engine"]
    return validate(EngineConfig, merge(preset, {"kind": "endpoint", "endpoint": endpoint}))
