"""A real S3 API (moto's server) on loopback behind a layer that throttles, delays and breaks off."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "speech"
KEYS = {"key": "test", "secret": "test"}
REFUSAL = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


class Faults:
    """The layer. What it does is set by its attributes, while it runs.

    Attributes:
        slow_down_every: Each so-and-so-many-th request is answered 503 SlowDown; 0 for none.
        cut_every: Of each so-and-so-many-th PUT half of the body is taken, then the connection is closed; 0 for none.
        delay_s: How long a GET waits for its answer.
        deny: Whether every request is answered 403 AccessDenied.
        requests: How many there were.
        slowed: How many were answered 503.
        cut: How many PUTs were broken off.
    """

    def __init__(self) -> None:
        self.slow_down_every = self.cut_every = 0
        self.delay_s = 0.0
        self.deny = False
        self.requests = self.puts = self.slowed = self.cut = 0
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, or do not."""
        with self._lock:
            self.requests += 1
            is_put = environ["REQUEST_METHOD"] == "PUT"
            self.puts += is_put
            slow_down = bool(self.slow_down_every) and self.requests % self.slow_down_every == 0
            cut = not slow_down and is_put and bool(self.cut_every) and self.puts % self.cut_every == 0
            self.slowed += slow_down
            self.cut += cut
        length_bytes = int(environ.get("CONTENT_LENGTH") or 0)
        if cut:
            environ["wsgi.input"].read(length_bytes // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("broken off on purpose")
        if slow_down or self.deny:
            environ["wsgi.input"].read(length_bytes)
            status, code = ("403 Forbidden", "AccessDenied") if self.deny else ("503 Slow Down", "SlowDown")
            start_response(status, [("Content-Type", "application/xml"), ("Connection", "close")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [REFUSAL.format(code).encode()]
        if environ["REQUEST_METHOD"] == "GET" and self.delay_s:
            threading.Event().wait(self.delay_s)
        return self._moto(environ, start_response)


@contextlib.contextmanager
def faulty_s3() -> Iterator[tuple[Faults, str]]:
    """The layer and its address, with an empty bucket behind it."""
    faults = Faults()
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
    try:
        yield faults, address
    finally:
        server.shutdown()
        thread.join()
