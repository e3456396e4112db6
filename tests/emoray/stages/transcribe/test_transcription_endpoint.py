"""Recognisers behind a server: a real HTTP server on loopback that does what a test tells it to."""

from __future__ import annotations

import contextlib
import email.utils
import http
import io
import json
import threading
import time
from collections import Counter
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError, ServiceError, TransientError
from emoray.stages.fingerprint import fingerprint
from emoray.stages.transcribe.stage import build_transcribe

CUT, HANG = object(), object()


@contextlib.contextmanager
def serving(script):
    """The server's address and what was asked of it; `script(request) → (status, answer, headers)`, CUT or HANG."""
    seen, closing = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            form = {"path": self.path, "key": self.headers["Authorization"], "at": time.monotonic(), "words": False}
            content_type = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            for part in message_from_bytes(content_type + body).get_payload():
                name = part.get_param("name", header="content-disposition")
                value = part.get_payload(decode=True)
                if name == "file":
                    form["file"], form["filename"] = value, part.get_filename()
                elif name == "timestamp_granularities[]":
                    form["words"] |= value == b"word"
                else:
                    form[name] = value.decode()
            seen.append(form)
            answer = script(form)
            if answer is CUT:
                self.close_connection = True
                return
            if answer is HANG:
                closing.wait(60)
                return
            status, content, *headers = answer
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
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


@pytest.fixture(scope="module")
def build_stage(configure):
    def build(url, **changes):
        settings = {"url": url, "model": "whisper-1", "revision": "a", "timeout_s": 20, "backoff_s": 0.01, **changes}
        return build_transcribe(configure({"transcribe": {"kind": "endpoint", "endpoint": settings}}).transcribe)

    return build


def samples_of(form):
    return soundfile.read(io.BytesIO(form["file"]), dtype="float32")[0]


def clip_of(form, rows):
    """Number of the row whose clip was sent."""
    length = len(samples_of(form))
    return next(number for number, row in enumerate(rows) if len(row["waveform"]) == length)


def verbose(text, duration_s):
    words = text.split()
    step = duration_s / len(words)
    return {
        "text": text,
        "language": "english",
        "words": [{"word": w, "start": step * i, "end": step * (i + 1)} for i, w in enumerate(words)],
        "segments": [{"avg_logprob": -0.1}, {"avg_logprob": -0.3}],
    }


@pytest.mark.parametrize("upload", ["flac", "wav"])
def test_words_times_language_and_confidence_come_from_the_server(upload, build_stage, spoken, monkeypatch):
    monkeypatch.setenv("TRANSCRIPTION_KEY", "sesame")
    rows = spoken[:4]

    def script(form):
        row = rows[clip_of(form, rows)]
        return 200, verbose(row["transcript"], len(row["waveform"]) / AUDIO_HZ)

    with serving(script) as (url, seen):
        stage = build_stage(url, upload=upload, api_key_env="TRANSCRIPTION_KEY", language="en")
        values = stage.run(rows)
    for row, value in zip(rows, values, strict=True):
        assert (value["text"], value["times"], value["language"]) == (row["transcript"], "recogniser", "en")
        assert value["confidence"] == pytest.approx(np.exp(-0.2))
        assert [word["word"] for word in value["words"]] == row["transcript"].split()
        assert value["words"][-1]["end_s"] == pytest.approx(len(row["waveform"]) / AUDIO_HZ)
    for form in seen:
        assert form["path"] == "/v1/audio/transcriptions"
        assert (form["key"], form["model"], form["language"]) == ("Bearer sesame", "whisper-1", "en")
        assert (form["filename"], form["words"]) == (f"clip.{upload}", True)
        row = rows[clip_of(form, rows)]
        assert np.abs(samples_of(form) - row["waveform"]).max() <= 1 / 32768


def test_a_server_without_word_times_is_asked_for_the_text_and_english_is_aligned(build_stage, spoken):
    rows = spoken[:4]

    def script(form):
        if form["response_format"] == "verbose_json":
            return 400, {"error": "verbose_json is not supported for this model"}
        return 200, {"text": rows[clip_of(form, rows)]["transcript"]}

    with serving(script) as (url, seen):
        stage = build_stage(url)
        values = stage.run(rows)
        assert stage.run(rows) == values
        assert [value["times"] for value in build_stage(url, times="none").run(rows)] == ["none"] * 4
    assert {value["times"] for value in values} == {"aligned"}
    # One clip was tried in both formats by each client, no other.
    assert Counter(form["response_format"] for form in seen)["verbose_json"] == 2


def test_a_language_is_named_by_its_code(build_stage, spoken):
    names = iter(["german", "en", "Klingon", None])
    with serving(lambda form: (200, {"text": "ja", "language": next(names)})) as (url, _):
        stage = build_stage(url, response_format="verbose_json", times="none", max_parallel=1)
        assert [value["language"] for value in stage.run([{**row, "language": None} for row in spoken[:4]])] == [
            "de",
            "en",
            None,
            None,
        ]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_address_or_model_that_is_refused_ends_the_job(status, build_stage, spoken):
    refusing = serving(lambda form: (status, {"error": "no such model"}))
    with refusing as (url, _), pytest.raises(ServiceError, match="no such model") as caught:
        build_stage(url).run(spoken[:1])
    assert caught.value.kind == "engine_refuses"


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_request_that_is_refused_for_the_whole_first_batch_ends_the_job(status, build_stage, spoken):
    with serving(lambda form: (status, {"error": "audio is not accepted"})) as (url, _):
        for response_format in ("auto", "json"):
            with pytest.raises(ServiceError, match="audio is not accepted") as caught:
                build_stage(url, response_format=response_format).run(spoken[:5])
            assert caught.value.kind == "engine_refuses"


def test_a_refusal_is_the_row_s_where_others_are_taken(build_stage, spoken):
    rows = spoken[:5]
    refuse = {2}

    def script(form):
        number = clip_of(form, rows)
        return (400, {"error": "this clip is odd"}) if number in refuse else (200, {"text": "yes"})

    with serving(script) as (url, _):
        stage = build_stage(url, response_format="json", times="none")
        outcomes = stage.run(rows)
        assert [getattr(outcome, "kind", None) for outcome in outcomes] == [None, None, "refused_by_engine", None, None]
        refuse |= {0, 1, 3, 4}  # later on, even a whole batch may be bad
        assert {outcome.kind for outcome in stage.run(rows)} == {"refused_by_engine"}


def test_the_clip_that_is_refused_first_does_not_decide_the_format(build_stage, spoken):
    rows = spoken[:4]

    def script(form):
        if clip_of(form, rows) == 0:
            return 400, {"error": "odd"}
        return (400, {"error": "format"}) if form["response_format"] == "verbose_json" else (200, {"text": "yes"})

    with serving(script) as (url, _):
        outcomes = build_stage(url, times="none").run(rows)
    assert outcomes[0].kind == "refused_by_engine"
    assert [value["text"] for value in outcomes[1:]] == ["yes"] * 3


@pytest.mark.parametrize("how", ["seconds", "date"])
def test_a_server_that_asks_to_wait_is_left_alone_so_long(how, build_stage, spoken):
    answers = iter([503, 200])

    def script(form):
        status = next(answers)
        wait = "1" if how == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        return (status, {"error": "loading"}, ("Retry-After", wait)) if status == 503 else (200, {"text": "yes"})

    with serving(script) as (url, seen):
        (value,) = build_stage(url, response_format="json", times="none").run(spoken[:1])
    assert value["text"] == "yes"
    assert seen[1]["at"] - seen[0]["at"] >= 0.99


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, CUT], ids=["429", "500", "502", "503", "cut"])
def test_what_passes_is_tried_again(trouble, build_stage, spoken):
    asked = Counter()

    def script(form):
        number = len(samples_of(form))
        asked[number] += 1
        if asked[number] > 2:
            return 200, {"text": "yes"}
        return trouble if trouble is CUT else (trouble, {"error": http.HTTPStatus(trouble).phrase})

    with serving(script) as (url, _):
        values = build_stage(url, response_format="json", times="none").run(spoken[:6])
    assert [value["text"] for value in values] == ["yes"] * 6


def test_rows_that_stay_unanswered_stay_to_do_whatever_becomes_of_their_neighbours(build_stage, spoken):
    rows = spoken[:5]

    def script(form):
        number = clip_of(form, rows)
        return {1: (503, {}), 2: (400, {})}.get(number, (200, {"text": "yes"}))

    with serving(script) as (url, _):
        outcomes = build_stage(url, response_format="json", times="none", patience_s=0.3).run(rows)
    assert isinstance(outcomes[1], TransientError)
    assert outcomes[2].kind == "refused_by_engine"
    assert [outcomes[index]["text"] for index in (0, 3, 4)] == ["yes"] * 3


@pytest.mark.parametrize("response_format", ["auto", "json"])
@pytest.mark.parametrize("trouble", ["503", "hang", "no server"])
def test_a_server_that_answers_nobody_ends_the_job_and_blames_no_row(trouble, response_format, build_stage, spoken):
    with serving(lambda form: HANG if trouble == "hang" else (503, {"error": "overloaded"})) as (url, _):
        if trouble == "no server":
            url = "http://127.0.0.1:9/v1"
        with pytest.raises(ServiceError) as caught:
            build_stage(url, response_format=response_format, timeout_s=0.3, patience_s=0.2).run(spoken[:3])
    assert caught.value.kind == "engine_unreachable"


@pytest.mark.parametrize("content", [b"<html>", {"error": "none"}, {"text": None}, {"text": 3}, [1]])
def test_an_answer_of_another_protocol_is_named(content, build_stage, spoken):
    rows = spoken[:2]

    def script(form):
        return (200, content) if clip_of(form, rows) else (200, {"text": "yes"})

    with serving(script) as (url, _):
        fine, odd = build_stage(url, response_format="json", times="none").run(rows)
    assert fine["text"] == "yes"
    assert odd.kind == "bad_answer"


def test_times_that_cannot_be_are_left_out(build_stage, spoken):
    words = [
        {"word": " So", "start": 0.0, "end": 0.2},
        {"word": " what", "start": float("nan"), "end": 0.4},
        {"word": " now", "start": 0.5, "end": 99.0},
    ]
    answers = iter([{"text": "So what now", "words": words[:2]}, {"text": "So what now", "words": words}])
    with serving(lambda form: (200, next(answers))) as (url, _):
        stage = build_stage(url, response_format="verbose_json", times="none", max_parallel=1)
        partly, of_another_clip = stage.run(spoken[:2])
    assert [word["start_s"] for word in partly["words"]] == [0.0, None]
    assert of_another_clip["times"] == "none"


def test_no_text_is_no_transcript_and_silence_is_not_sent(build_stage, spoken):
    still = {"utterance_id": "still", "waveform": np.zeros(AUDIO_HZ, np.float32)}
    with serving(lambda form: (200, {"text": " \n"})) as (url, seen):
        outcomes = build_stage(url, response_format="json").run([still, *spoken[:2]])
    assert [outcome.kind for outcome in outcomes] == ["empty_transcript"] * 3
    assert len(seen) == 2


def test_as_many_requests_are_under_way_as_the_configuration_allows(build_stage, spoken):
    under_way = threading.Barrier(4, timeout=20)  # answers only when four are there

    def script(form):
        under_way.wait()
        return 200, {"text": "yes"}

    with serving(script) as (url, _):
        values = build_stage(url, response_format="json", times="none", max_parallel=4).run(spoken[:8])
    assert [value["text"] for value in values] == ["yes"] * 8


def test_the_fingerprint_needs_a_name_for_the_weights_and_ignores_where_they_run(build_stage):
    stage = build_stage("http://127.0.0.1:9/v1")
    assert fingerprint(stage, {}) == fingerprint(build_stage("http://elsewhere/v1", max_parallel=2, patience_s=1), {})
    for change in ({"revision": "b"}, {"language": "de"}, {"response_format": "json"}, {"upload": "wav"}):
        assert fingerprint(stage, {}) != fingerprint(build_stage("http://127.0.0.1:9/v1", **change), {})
    with pytest.raises(ConfigError, match="revision"):
        build_stage("http://127.0.0.1:9/v1", revision=None).options()


def test_an_endpoint_without_address_or_key_is_named(build_stage, spoken, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="needs an address"):
        build_stage(None).run(spoken[:1])
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        build_stage("http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY").run(spoken[:1])
