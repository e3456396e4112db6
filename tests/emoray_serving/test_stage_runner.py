"""Stages behind the online describer: what one of them cannot do takes nothing from the others."""

from __future__ import annotations

import asyncio

import scoring_kit as kit
from engine_kit import endpoint_config, serving

from emoray.config import merge
from emoray.stages.config import AnnotateConfig
from emoray.stages.pipeline import annotate_rows, audio_stages, fingerprints, text_stages
from emoray_serving.messages import AS_FITTED, StageJob
from emoray_serving.stage_runner import StageRunner, StageSet, chained_fingerprints


def settings(url, **model):
    engine = endpoint_config(url, max_attempts=1).model_dump(mode="json")
    semantics = {"kind": "text_llm", "text_llm": {"model": "some", "revision": "r1", **model}, "engine": engine}
    return AnnotateConfig.model_validate(merge(kit.annotate_config().model_dump(mode="json"), {"semantics": semantics}))


def described(annotate, absent=()):
    """What the describer says of a clip, with the stages of a version that was fitted like this."""
    row = {
        "utterance_id": "u",
        "speaker_id": None,
        "transcript": kit.SENTENCE,
        "words": [{**word, "emphasised": None} for word in kit.WORDS],
        "waveform": kit.speech(),
    }
    annotate_rows(audio_stages(kit.annotate_config())[1:], [row], annotate.guard)
    del row["waveform"]

    def build(version, variant):
        stages = [stage for stage in text_stages(annotate, kit.norms()) if stage.name in ("emphasis", "semantics")]
        stages = [stage for stage in stages if stage.name not in absent]
        known = fingerprints(kit.annotate_config(), kit.norms().hash)
        prints = chained_fingerprints(stages, known, kit.norms().hash)
        return StageSet(stages, prints, annotate.guard, dict(absent))

    job = StageJob("7", AS_FITTED, ("emphasis", "semantics"), row)
    (found,) = asyncio.run(StageRunner(build).run([job]))
    return found


def test_an_engine_that_is_away_leaves_the_emphasis():
    with serving(lambda body: (503, "gone")) as (url, _):
        found = described(settings(url))
    assert list(found.values) == ["emphasis"]
    assert "does not answer" in found.errors["semantics"]


def test_a_model_that_cannot_be_fingerprinted_leaves_the_emphasis():
    found = described(settings(None, revision=None))
    assert list(found.values) == ["emphasis"]
    assert "address" in found.errors["semantics"]


def test_a_stage_that_this_service_lacks_is_named_with_the_reason():
    tree = merge(settings(None).model_dump(mode="json"), {"semantics": {"kind": "audio_llm"}})
    found = described(AnnotateConfig.model_validate(tree), {"semantics": "it cannot hear"})
    assert list(found.values) == ["emphasis"]
    assert found.errors == {"semantics": "it cannot hear"}
