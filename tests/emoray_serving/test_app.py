"""The application as its callers meet it: real HTTP, a real Ray, a real registry, an S3 API on loopback."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import scoring_kit as kit
import soundfile
import torch
from moto.server import ThreadedMotoServer
from process_kit import free_port
from safetensors.torch import load_file, save_file
from serving_kit import WAV, Service

from emoray import config as settings
from emoray.audio.io import AUDIO_HZ
from emoray.lake.speakers import store_speaker
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.schema import DIMENSIONS
from emoray_jobs import serve as serve_job
from emoray_jobs.config import Config
from emoray_serving.http.schemas import ScoreReply

pytestmark = pytest.mark.long
MAX_BODY_BYTES = 600_000
TRANSCRIPT = {"transcript": kit.SENTENCE}


@pytest.fixture(scope="module")
def store():
    """Options of an S3 API with a bucket for the service's list and one that is not on it."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name in ("open-clips", "private-clips"):
        httpx.put(f"{endpoint}/{name}").raise_for_status()
        httpx.put(f"{endpoint}/{name}/clip.wav", content=kit.wav_bytes(kit.speech(2.0))).raise_for_status()
    httpx.put(f"{endpoint}/open-clips/long.wav", content=bytes(MAX_BODY_BYTES + 1)).raise_for_status()
    yield {"endpoint_url": endpoint, "key": "test", "secret": "test"}
    server.stop()


@pytest.fixture(scope="module")
def empty_service(tmp_path_factory, store, ray_session):
    """The application before anything was ever promoted."""
    folder = tmp_path_factory.mktemp("service")
    config = settings.load(
        Config,
        overrides=[
            f"lake.root={folder / 'lake'}",
            f"serve.http.port={free_port()}",
            f"lake.storage_options={store}",
            "serve.limits.uri_buckets=[open-clips]",
            "serve.transcriber.recogniser=pocketsphinx",  # which the versions do not know
            f"serve.limits.max_body_bytes={MAX_BODY_BYTES}",
            "serve.gateway.refresh_s=0.2",
            "serve.scorer.poll_s=0.2",
            "serve.scorer.keep_previous_s=2",
            "serve.scorer.batch.wait_s=0.05",  # long enough for batches to fill, which a test wants
            "annotate.audio.max_duration_s=12",
        ],
    )
    with serve_job.running(config) as url:
        yield Service(config, url, folder)


@pytest.fixture(scope="module")
def before_and_after(empty_service):
    """What the service said before its first champion; it has one from here on."""
    seen = {
        "ready": empty_service.client.get("/readyz"),
        "live": empty_service.client.get("/livez"),
        "score": empty_service.score(kit.wav_bytes(kit.speech())),
        "model": empty_service.status(),
    }
    empty_service.make_champion(empty_service.register(seed=1))
    ready = lambda: (reply := empty_service.client.get("/readyz")).status_code == 200 and reply  # noqa: E731
    seen["ready afterwards"] = empty_service.until(ready, "taking up the first champion")
    return seen


@pytest.fixture
def service(empty_service, before_and_after):
    """The application with a champion."""
    return empty_service


def values(reply: dict) -> np.ndarray:
    return np.array([reply[name]["value"] for name in DIMENSIONS])


def encoded(samples: np.ndarray, hz: int = AUDIO_HZ, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, hz, **options)
    return file.getvalue()


def test_no_champion_yet_is_said_clearly_and_the_first_one_is_taken_up_without_a_restart(before_and_after):
    assert before_and_after["live"].status_code == 200
    assert before_and_after["model"]["version"] is None
    for name in ("ready", "score"):
        reply = before_and_after[name]
        assert reply.status_code == 503
        error = reply.json()["error"]
        assert error["code"] == "no_champion"
        assert "promote" in error["remedy"]
    assert before_and_after["ready afterwards"].json() == {"status": "ready", "version": "1"}


def test_full_reply(service):
    reply = service.score(kit.wav_bytes(kit.speech(6.5)), {**WAV, "x-request-id": "caller-7"}, **TRANSCRIPT)
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == "caller-7"
    score = ScoreReply.model_validate(reply.json())
    assert score.request_id == "caller-7"
    assert (score.model.name, score.model.alias) == ("emoray", "champion")
    assert (score.scale.min, score.scale.max) == (1, 7)
    assert (score.audio_start_ms, score.audio_end_ms) == (0, 6500)
    for name in DIMENSIONS:
        dimension = getattr(score, name)
        width = kit.HALF_WIDTHS["full"][name]
        assert 0 <= dimension.value <= 1
        assert dimension.value_corpus == pytest.approx(1 + 6 * dimension.value)
        assert dimension.interval.level == 0.9
        assert dimension.interval.lower == pytest.approx(max(0, dimension.value - width))
        assert dimension.interval.upper_corpus == pytest.approx(1 + 6 * min(1, dimension.value + width))
    assert [(window.start_ms, window.end_ms) for window in score.time_course] == [(0, 4000), (1000, 5000), (2000, 6000)]
    assert [word.word for word in score.transcript.words] == kit.SENTENCE.split()
    assert any(word.emphasised for word in score.transcript.words)
    assert (score.transcript.source, score.transcript.times) == ("given", "aligned")
    assert (score.semantics.used, score.semantics.absent) == ("full", [])
    assert score.semantics.description["vocal_delivery"]
    assert sum(score.explanation.gates.values()) == pytest.approx(1, abs=1e-5)
    assert {len(weights) for weights in score.explanation.experts.values()} == {3}
    assert set(score.timing_ms) == {"read", "decode", "transcribe", "describe", "score", "total"}


def test_each_semantic_level_uses_what_it_says(service):
    body = kit.wav_bytes(kit.speech(3.0))
    replies = {
        level: service.score(body, semantics=level, **TRANSCRIPT).json() for level in ("none", "transcript", "full")
    }
    assert {level: reply["semantics"]["used"] for level, reply in replies.items()} == {
        "none": "none",
        "transcript": "transcript",
        "full": "full",
    }
    assert all(reply["semantics"]["absent"] == [] for reply in replies.values()), "nothing that was asked for is absent"
    assert replies["none"]["explanation"]["gates"] == {"les": 0, "gs": 0, "es": 0}
    assert replies["transcript"]["semantics"]["description"] is None
    assert len({tuple(values(reply)) for reply in replies.values()}) == 3


def test_recognised_words_are_shown_but_count_as_absent_for_a_version_fitted_with_given_ones(service):
    reply = service.score(kit.wav_bytes(kit.speech(3.0))).json()
    absent = {one["part"]: one["reason"] for one in reply["semantics"]["absent"]}
    assert set(absent) == {"les", "gs", "es"}
    assert all("recognised by pocketsphinx" in reason for reason in absent.values())
    assert reply["transcript"]["source"] == "recognised"
    assert reply["semantics"]["used"] == "none"
    assert reply["semantics"]["description"], "the description rests on the delivery alone"
    assert reply["explanation"]["gates"] == {"les": 0, "gs": 0, "es": 0}


def test_a_transcript_that_cannot_be_aligned_counts_without_its_emphasis(service):
    reply = service.score(kit.wav_bytes(kit.speech(0.3)), **TRANSCRIPT).json()
    absent = {one["part"]: one["reason"] for one in reply["semantics"]["absent"]}
    assert set(absent) == {"les"}
    assert "word times" in absent["les"]
    # The set that was used is named, and the interval is that set's.
    assert (reply["semantics"]["used"], reply["semantics"]["vectors"]) == ("full", ["gs", "es"])
    interval, width = reply["valence"]["interval"], kit.HALF_WIDTHS["gs+es"]["valence"]
    assert interval["upper"] - interval["lower"] == pytest.approx(2 * width, abs=1e-6)
    assert reply["transcript"]["times"] == "none"
    words = [(word["word"], word["start_ms"]) for word in reply["transcript"]["words"]]
    assert words == [(word, None) for word in kit.SENTENCE.split()]


def test_a_budget_that_runs_out_gives_the_score_without_semantics(service):
    body = kit.wav_bytes(kit.speech(2.0))
    reply = service.score(body, budget_ms=service.config.serve.limits.scoring_reserve_ms + 0.5, **TRANSCRIPT).json()
    alone = service.score(body, semantics="none").json()
    assert {one["reason"] for one in reply["semantics"]["absent"]} == {"the budget ran out before it was ready"}
    assert {one["part"] for one in reply["semantics"]["absent"]} == {"les", "gs", "es"}
    assert reply["transcript"] == {"text": kit.SENTENCE, "source": "given", "times": None, "words": []}
    np.testing.assert_allclose(values(reply), values(alone), atol=1e-5)


def test_no_time_course_if_it_is_not_wanted(service):
    body = kit.wav_bytes(kit.speech(6.0))
    reply = service.score(body, semantics="none", time_course="false").json()
    assert reply["time_course"] is None
    np.testing.assert_allclose(values(reply), values(service.score(body, semantics="none").json()), atol=1e-5)


def test_a_known_speaker_is_judged_against_their_own_habits(service):
    body = kit.wav_bytes(kit.speech(3.0, hz=230.0))
    known, unknown = (service.score(body, speaker_id=name, **TRANSCRIPT).json() for name in ("deep", "nobody"))
    assert known["semantics"]["description"] != unknown["semantics"]["description"]
    assert (known["speaker"], unknown["speaker"]) == (
        {"state": "enrolled", "clips": 5},
        {"state": "unknown", "clips": 0},
    )
    conditions = [reply["semantics"]["condition"] for reply in (known, unknown)]
    assert conditions == ["enrolled-5/reference", "unknown/reference"]


def test_a_speaker_enrolled_on_the_lake_is_known_to_the_running_service(service):
    body = kit.wav_bytes(kit.speech(3.0, hz=230.0))
    before = service.score(body, speaker_id="Ann", **TRANSCRIPT).json()
    assert before["speaker"]["state"] == "unknown"
    prosody = service.client.get("/v1/model").json()["stage_fingerprints"]["prosody"]
    own = kit.norms().speakers["high"]
    store_speaker(Lake(service.config.lake), "Ann", prosody, {**own, "clips": 7.0})

    def enrolled() -> dict | None:
        reply = service.score(body, speaker_id="Ann", **TRANSCRIPT).json()
        return reply if reply["speaker"]["state"] == "enrolled" else None

    reply = service.until(enrolled, "the enrolment")
    assert reply["speaker"] == {"state": "enrolled", "clips": 7}
    assert reply["semantics"]["condition"] == "enrolled-5/reference"


def test_every_way_to_send_the_same_clip_gives_the_same_score(service):
    wav = kit.wav_bytes(kit.speech(2.0))
    samples, _ = soundfile.read(io.BytesIO(wav), dtype="int16")
    replies = [
        service.score(wav, semantics="none"),
        service.score(wav, {"content-type": "application/octet-stream"}, semantics="none"),
        service.score(
            encoded(samples, format="FLAC", subtype="PCM_16"), {"content-type": "audio/flac"}, semantics="none"
        ),
        service.score(encoded(np.stack([samples, samples], 1), format="WAV", subtype="PCM_16"), semantics="none"),
        service.client.post("/v1/score", files={"file": ("a.wav", wav, "audio/wav")}, data={"semantics": "none"}),
        service.client.post("/v1/score?semantics=full", files={"file": ("a.wav", wav)}, data={"semantics": "none"}),
        service.client.post("/v1/score", params={"uri": "s3://open-clips/clip.wav", "semantics": "none"}),
    ]
    assert [reply.status_code for reply in replies] == [200] * len(replies)
    for reply in replies[1:]:
        np.testing.assert_allclose(values(reply.json()), values(replies[0].json()), atol=1e-5)


def test_8_khz_stereo_is_welcome(service):
    samples = kit.speech(2.0)[::2]
    body = encoded(np.stack([samples, samples], 1), 8000, format="WAV", subtype="PCM_16")
    reply = service.score(body, semantics="none")
    assert (reply.status_code, reply.json()["audio_end_ms"]) == (200, 2000)


@pytest.mark.parametrize(
    ("status", "code", "kind", "body"),
    [
        (422, "undecodable_audio", "empty_file", b""),
        (422, "undecodable_audio", "not_audio", b"these are words, not sound\n" * 50),
        (422, "undecodable_audio", "truncated_audio", kit.wav_bytes(kit.speech(2.0))[:9000]),
        (422, "undecodable_audio", "silent_audio", kit.wav_bytes(np.zeros(AUDIO_HZ, np.float32))),
        (
            422,
            "undecodable_audio",
            "non_finite_samples",
            encoded(np.array([0.1, np.nan] * AUDIO_HZ), format="WAV", subtype="FLOAT"),
        ),
        (400, "audio_too_short", None, kit.wav_bytes(kit.speech(0.05))),
        (400, "audio_too_long", None, kit.wav_bytes(kit.speech(13.0))),
        (413, "payload_too_large", None, bytes(MAX_BODY_BYTES + 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_audio_is_refused_by_name(service, status, code, kind, body):
    reply = service.score(body, {**WAV, "x-request-id": "r-9"}, semantics="none")
    answer = reply.json()
    assert (reply.status_code, answer["error"]["code"], answer["error"]["kind"]) == (status, code, kind)
    assert answer["request_id"] == "r-9"
    assert answer["error"]["message"]
    assert answer["error"]["remedy"]


def test_a_body_of_unannounced_length_is_cut_off_at_the_limit(service):
    chunks = (bytes(50_000) for _ in range(20))  # httpx sends an iterator chunked, without a content-length
    reply = service.client.post("/v1/score", content=chunks, headers=WAV)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("status", "code", "said", "request_"),
    [
        (415, "unsupported_media_type", "application/json", {"json": {"audio": [0.1, 0.2]}}),
        (415, "unsupported_media_type", "x-www-form-urlencoded", {"data": {"a": "b"}}),
        (400, "bad_parameter", "'semantic'", {"content": b"x", "headers": WAV, "params": {"semantic": "full"}}),
        (400, "bad_parameter", "'semantics'", {"content": b"x", "headers": WAV, "params": {"semantics": "all"}}),
        (400, "bad_parameter", "budget_ms", {"content": b"x", "headers": WAV, "params": {"budget_ms": 10**9}}),
        (400, "bad_parameter", "'sound'", {"files": {"sound": b"x"}}),
        (400, "bad_parameter", "'langage'", {"files": {"file": b"x"}, "data": {"langage": "en"}}),
        (400, "bad_parameter", "multipart", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (422, "undecodable_audio", "no audio", {"files": {}, "data": {}, "headers": WAV}),
        (400, "bad_parameter", "s3://bucket/key", {"params": {"uri": "file:///etc/passwd"}}),
        (403, "uri_not_allowed", "'private-clips'", {"params": {"uri": "s3://private-clips/clip.wav"}}),
        (404, "not_found", "nothing.wav", {"params": {"uri": "s3://open-clips/nothing.wav"}}),
        (413, "payload_too_large", "exceed", {"params": {"uri": "s3://open-clips/long.wav"}}),
        (
            400,
            "bad_parameter",
            "`uri`",
            {"content": b"x", "headers": WAV, "params": {"uri": "s3://open-clips/clip.wav"}},
        ),
    ],
)
def test_bad_requests_are_refused_by_name(service, status, code, said, request_):
    reply = service.client.post("/v1/score", **request_)
    answer = reply.json()
    assert (reply.status_code, answer["error"]["code"]) == (status, code)
    assert said in answer["error"]["message"]
    assert answer["request_id"]


def test_unknown_routes_and_methods_have_the_same_error_body(service):
    for reply, status, code in (
        (service.client.get("/v2/score"), 404, "not_found"),
        (service.client.get("/v1/score"), 405, "method_not_allowed"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_company_in_the_batch_changes_no_score(service):
    clips = [kit.wav_bytes(kit.speech(2.5 + 0.25 * number, 100 + 10 * number, number)) for number in range(16)]
    levels = ["none", "full"] * 8

    def ask(number: int) -> np.ndarray:
        return values(service.score(clips[number], semantics=levels[number], **TRANSCRIPT).raise_for_status().json())

    alone = [ask(number) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(16)))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_new_champion_takes_over_without_a_failed_request_and_a_broken_one_stays_out(service):
    body = kit.wav_bytes(kit.speech(2.5))
    second, broken = service.register(seed=2), service.register(seed=3)
    Path(versions.fetch(service.tracking, broken), "model.safetensors").write_bytes(b"no weights at all")
    before = service.status()["version"]
    seen: list[tuple[int, str]] = []
    over = threading.Event()

    def keep_asking(level: str) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
            while not over.is_set():
                params = {"semantics": level, **TRANSCRIPT}
                reply = client.post("/v1/score", content=body, headers=WAV, params=params)
                seen.append((reply.status_code, reply.json().get("model", {}).get("version")))

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(keep_asking, level) for level in ("none", "none", "full")]
        try:
            service.until(lambda: len(seen) > 5, "requests before the swap")
            service.make_champion(second)
            service.until(lambda: seen[-1] == (200, second.version), "a reply by the new champion")
            service.make_champion(broken)
            failure = service.until(lambda: service.status()["failure"], "the broken version being noticed")
            count = len(seen)
            service.until(lambda: len(seen) > count + 5, "requests after the broken version")
        finally:
            service.make_champion(second)
            over.set()
        for asker in askers:
            asker.result()
    assert failure["version"] == broken.version
    assert "weights cannot be loaded" in failure["message"]
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {before, second.version}
    assert service.status()["version"] == second.version
    service.until(lambda: service.status()["failure"] is None, "the failure being forgotten")


def _weights(service, version, change):
    """Rewrite a version's weights, each tensor changed."""
    path = Path(versions.fetch(service.tracking, version), "model.safetensors")
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda tensor: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor,
            "no finite score",
        ),
        (lambda tensor: tensor * 1.05 if tensor.is_floating_point() else tensor, "scored it as"),
    ],
    ids=["NaN", "other bytes"],
)
def test_a_version_whose_weights_changed_since_it_was_registered_stays_out(service, change, says):
    body, before = kit.wav_bytes(kit.speech(2.5)), service.status()["version"]
    champion = versions.by_version(service.tracking, before)
    broken = service.register(seed=5)
    _weights(service, broken, change)
    service.make_champion(broken)
    try:
        failure = service.until(lambda: service.status()["failure"], "the broken version being noticed")
        assert (failure["version"], service.status()["version"]) == (broken.version, before)
        assert says in failure["message"]
        reply = service.score(body, semantics="none")
        assert (reply.status_code, reply.json()["model"]["version"]) == (200, before)
    finally:
        service.make_champion(champion)
    service.until(lambda: service.status()["failure"] is None, "the failure being forgotten")


def test_a_clip_far_beyond_full_scale_is_a_named_error_and_no_null(service):
    file = io.BytesIO()
    soundfile.write(file, kit.speech(2.0) * 1e20, 16_000, format="WAV", subtype="FLOAT")
    reply = service.score(file.getvalue(), semantics="none")
    assert reply.status_code == 422
    assert (reply.json()["error"]["code"], reply.json()["error"]["kind"]) == ("undecodable_audio", "non_finite_score")
    assert "1 is full scale" in reply.json()["error"]["message"]


def test_metrics_count_what_was_asked(service):
    def counted(code: str) -> float:
        lines = service.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f'emoray_requests_total{{code="{code}"}}')]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    before = counted("ok"), counted("undecodable_audio")
    service.score(kit.wav_bytes(kit.speech(1.0)), semantics="none")
    service.score(b"nothing", semantics="none")
    assert (counted("ok"), counted("undecodable_audio")) == (before[0] + 1, before[1] + 1)


def test_openapi_shows_how_to_ask_and_what_comes_back(service):
    document = service.client.get("/openapi.json").json()
    route = document["paths"]["/v1/score"]["post"]
    assert {"audio/wav", "audio/flac", "multipart/form-data"} <= set(route["requestBody"]["content"])
    assert {parameter["name"] for parameter in route["parameters"]} >= {"semantics", "transcript", "budget_ms", "uri"}
    ScoreReply.model_validate(route["responses"]["200"]["content"]["application/json"]["example"])
    assert {"400", "403", "404", "413", "415", "422", "503"} <= set(route["responses"])


def test_the_page_needs_nothing_from_elsewhere(service):
    page, script = service.client.get("/"), service.client.get("/page.js")
    assert page.headers["content-type"].startswith("text/html")
    assert 'src="page.js"' in page.text
    for text in (page.text, script.text):
        assert "http://" not in text
        assert "https://" not in text


def test_a_second_application_on_the_same_port_is_refused_at_once(service):
    with pytest.raises(serve_job.ServiceError) as caught, serve_job.running(service.config):
        pass
    assert caught.value.kind == "port_in_use"
    assert "serve.http.port" in caught.value.remedy
