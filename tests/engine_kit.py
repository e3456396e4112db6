"""A server of OpenAI's chat protocol on loopback that does what a test tells it to, for engines that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from emoray.config import merge, read_preset, validate
from emoray.engines import EngineConfig

RECORD = {
    "vocal_delivery": "High and lively.",
    "intention": "greeting",
    "attitude": "warm",
    "valence": "very pleasant",
    "arousal": "rather activated",
    "dominance": "at ease",
    "emotion": "joy",
    "intensity": 0.75,
    "summary": "She is glad.",
}


@dataclass(frozen=True)
class Act:
    """What the server does with a request.

    Attributes:
        content: Of the message; None is null.
        status: Of the reply.
        finish: Reason for the end of the answer.
        message: Further fields of the message.
        body: The whole body in place of a completion: an object, or bytes.
        headers: Further ones.
        manner: How it arrives: `whole`, not at all (`hang`), broken off by a reset or by a plain end (`reset`, `cut`),
            or byte after byte for ever (`drip`).
    """

    content: Any = None
    status: int = 200
    finish: str | None = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    manner: Literal["whole", "hang", "reset", "cut", "drip"] = "whole"

    def data(self) -> bytes:
        """The body."""
        if isinstance(self.body, bytes):
            return self.body
        message = {"role": "assistant", "content": self.content, **self.message}
        completion = {"choices": [{"index": 0, "message": message, "finish_reason": self.finish}]}
        return json.dumps(completion if self.body is None else self.body).encode()


#: A request's body → what to do: an Act, (status, text of the answer or of the error), or None for silence.
Script = Callable[[dict[str, Any]], Act | tuple[int, str] | None]


@contextlib.contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The server's address, and the chat requests that it got, with `path`, `key` and `at` (monotonic seconds)."""
    seen: list[dict[str, Any]] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                self._reply(Act(status=404, body={"error": "not here"}))
                return
            seen.append({"path": self.path, "key": self.headers["Authorization"], "at": time.monotonic(), **body})
            act = script(body)
            if act is None:
                act = Act(manner="hang")
            elif isinstance(act, tuple):
                status, text = act
                act = Act(text) if status == 200 else Act(status=status, body={"error": text})
            self._reply(act)

        def _reply(self, act: Act) -> None:
            if act.manner == "hang":
                closing.wait(60)
                return
            data = act.data()
            self.send_response(act.status)
            for name, value in act.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if act.manner == "whole":
                self.wfile.write(data)
            elif act.manner == "drip":
                with contextlib.suppress(OSError):
                    for place in range(len(data)):
                        self.wfile.write(data[place : place + 1])
                        self.wfile.flush()
                        if closing.wait(0.05):
                            break
            else:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                if act.manner == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(self.connection.detach())  # at once, or an orderly end would come before the reset
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # connections that come while the machine is busy
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        closing.set()
        server.shutdown()
        server.server_close()


def endpoint_config(url: str | None, **changes: Any) -> EngineConfig:
    """An endpoint as engine, with short pauses and little patience."""
    short = {"timeout_s": 20, "max_attempts": 3, "patience_s": 0.5, "backoff_s": 0.01, "max_backoff_s": 0.1}
    preset = read_preset("laptop")["annotate"]["semantics"]["engine"]
    endpoint = {"kind": "endpoint", "endpoint": {"url": url, **short, **changes}}
    return validate(EngineConfig, merge(preset, endpoint))
