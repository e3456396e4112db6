"""Vectors: against mean pooling worked out here, independent of batch and padding, LES on the full sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from emoray.stages.deviations import deviation_vector, deviations
from emoray.stages.embed import EmbedSemantics, EmbedTranscript, word_spans
from emoray.stages.model_files.weights import model_folder
from emoray.stages.pipeline import text_stages
from emoray.stages.prosodic_features import measure_prosodic_features
from emoray.stages.text_encoder import span_mean

TEXTS = [
    "The hotel was superb but the dinner was awful",
    "Fine",
    "On Monday the garden behind the church seemed unremarkable, plain and, to be honest, rather dull as well",
    "she said the lecture was great",
]


def transcribed(text, marks=None):
    row = {"utterance_id": text, "transcribe": {"text": text}}
    if marks is not None:
        row["emphasis"] = {"words": [{"word": w, "emphasised": w in marks} for w in text.split()]}
    return row


@pytest.fixture(scope="module")
def reference_states():
    """Token states and tokens of one text, straight from transformers, without any padding."""
    folder = model_folder("minilm")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def encode(text):
        batch = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = network(**batch).last_hidden_state[0].numpy()
        return states, tokenizer.convert_ids_to_tokens(batch["input_ids"][0])

    return encode


def test_gs_is_the_mean_over_all_tokens(config, reference_states):
    values = EmbedTranscript(config.embed).run([transcribed(text) for text in TEXTS])
    for text, value in zip(TEXTS, values, strict=True):
        assert value["les"] is None
        assert value["gs"].dtype == np.float32
        np.testing.assert_allclose(value["gs"], reference_states(text)[0].mean(axis=0), atol=1e-5)


def test_es_of_several_texts_is_the_mean_of_their_vectors(config, reference_states):
    rows = [
        {"semantics": {"text": TEXTS[0], "texts": [TEXTS[0], TEXTS[2]]}},
        {"semantics": {"text": TEXTS[3], "texts": None}},
        {"semantics": {"text": TEXTS[1]}},  # as cues write it
    ]
    several, one, cues = (value["es"] for value in EmbedSemantics(config.embed).run(rows))
    vectors = [reference_states(text)[0].mean(axis=0) for text in TEXTS]
    np.testing.assert_allclose(several, (vectors[0] + vectors[2]) / 2, atol=1e-5)
    np.testing.assert_allclose(one, vectors[3], atol=1e-5)
    np.testing.assert_allclose(cues, vectors[1], atol=1e-5)
    assert several.dtype == np.float32


def test_les_is_the_mean_of_the_emphasised_tokens_on_the_full_sentence(config, reference_states):
    value = EmbedTranscript(config.embed).run([transcribed(TEXTS[2], {"church", "unremarkable,"})])[0]
    states, tokens = reference_states(TEXTS[2])
    text = " ".join(tokens).replace(" ##", "")
    assert "church seemed un" in text
    first = tokens.index("church")
    chosen = [first, *range(first + 2, tokens.index(",") + 1)]  # "seemed" lies between
    np.testing.assert_allclose(value["les"], states[chosen].mean(axis=0), atol=1e-5)


def test_les_alone_encodes_the_words_by_themselves(configure, reference_states):
    config = configure({"embed": {"les_context": "alone"}})
    value = EmbedTranscript(config.embed).run([transcribed(TEXTS[0], {"superb"})])[0]
    np.testing.assert_allclose(value["les"], reference_states("superb")[0].mean(axis=0), atol=1e-5)


def test_batch_order_and_padding_change_nothing(configure):
    rows = [transcribed(text, {text.split()[-1]}) for text in TEXTS]
    together = EmbedTranscript(configure().embed).run(rows)
    backwards = EmbedTranscript(configure({"embed": {"batch_size": 3}}).embed).run(rows[::-1])[::-1]
    for row, first, second in zip(rows, together, backwards, strict=True):
        alone = EmbedTranscript(configure().embed).run([row])[0]
        for name in ("les", "gs"):
            np.testing.assert_allclose(first[name], alone[name], atol=1e-5)
            np.testing.assert_allclose(second[name], alone[name], atol=1e-5)


def test_es_is_the_mean_over_the_semantics_text(config, reference_states):
    text = "Very deep voice, loud. Pitch 3 semitones below the speaker's habit."
    value = EmbedSemantics(config.embed).run([{"utterance_id": "u", "semantics": {"text": text}}])[0]
    np.testing.assert_allclose(value["es"], reference_states(text)[0].mean(axis=0), atol=1e-5)


def test_numbers_stand_behind_the_text_vector_whoever_wrote_it(configure, speak, plain_norms):
    row = speak([("word", 0.1, 0.5, 150.0, -20.0)], 0.6, semantics={"text": "Glad, to share."})
    low = speak([("word", 0.1, 0.5, 80.0, -20.0)], 0.6)
    norms = plain_norms.enroll("deep", [low] * 20)
    config = configure({"embed": {"semantics_numbers": True}})
    stage = next(stage for stage in text_stages(config, norms) if stage.name == "embed_semantics")
    (plain,) = EmbedSemantics(config.embed).run([row])
    own, unknown, unheard = stage.run([{**row, "speaker_id": "deep"}, row, {**row, "prosody": None}])
    for value in (own, unknown, unheard):
        assert value["es"].dtype == np.float32
        np.testing.assert_allclose(value["es"][: len(plain["es"])], plain["es"], atol=1e-5)
    measures = measure_prosodic_features(row["prosody"], row["transcribe"])
    expected = deviation_vector(deviations(measures, norms.for_speaker("deep")))
    np.testing.assert_allclose(own["es"][len(plain["es"]) :], expected)
    assert not np.allclose(own["es"], unknown["es"])  # another habit
    assert not unheard["es"][len(plain["es"]) :].any()


def test_a_text_longer_than_the_encoder_takes_is_cut_and_words_behind_the_cut_give_no_les(configure):
    config = configure({"embed": {"max_tokens": 16}}).embed
    text = " ".join(["word"] * 40 + ["last"])
    value = EmbedTranscript(config).run([transcribed(text, {"last"})])[0]
    assert value["les"] is None
    assert np.isfinite(value["gs"]).all()


def test_words_are_found_in_order_whatever_their_case_and_the_rest_is_skipped():
    text = "The end: the END, again."
    assert word_spans(text, ["the", "end:", "the", "end"]) == [(0, 3), (4, 8), (9, 12), (13, 16)]
    assert word_spans(text, ["The", "missing", "again."]) == [(0, 3), None, (18, 24)]
    assert word_spans("İki İyi", ["İki", "İyi"]) == [(0, 3), (4, 7)]  # lower case is longer than upper here


def test_no_emphasised_word_in_the_text_leaves_les_absent(config):
    row = transcribed("hello there")
    row["emphasis"] = {"words": [{"word": "goodbye", "emphasised": True}]}
    assert EmbedTranscript(config.embed).run([row])[0]["les"] is None


def test_span_mean_takes_tokens_that_overlap():
    states = np.arange(8, dtype=np.float32).reshape(4, 2)
    spans = np.array([[-1, -1], [0, 3], [3, 6], [7, 9]])
    np.testing.assert_allclose(span_mean(states, spans, [(2, 4)]), states[1:3].mean(axis=0))
    assert span_mean(states, spans, [(6, 7)]) is None
