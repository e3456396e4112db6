"""The tokenizers of the tiny checkpoints: byte-level BPE with merges learned from the words that occur here.

Whole words become single tokens, so that a random network writes words and not letters, and few tokens make a record.
"""

from __future__ import annotations

import functools
import itertools
import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from emoray.corpora.synthetic.text import LEXICON, PEOPLE, PLACES, THINGS, TIMES
from emoray.stages.semantics.cues import WORDS
from emoray.stages.semantics.record import SemanticsRecord

VOCABULARY = 1200
#: Letters with the space before them, or one other character: no merge ever joins a word with what follows it.
PIECES = r" ?\p{L}+|\s|[^\s\p{L}]"


@functools.cache
def learned() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary (token → number, without special tokens) and merges, in the order they were learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_text(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return dict(model["vocab"]), [(first, second) for first, second in model["merges"]]


def _text() -> list[str]:
    phrases = [*LEXICON, *THINGS, *PEOPLE, *PLACES, *TIMES, *itertools.chain(*WORDS.values())]
    fields = [f'"{name}":' for name in SemanticsRecord.model_fields]
    # Twice each, with and without a leading space: as first and as later word of a text.
    return [text for phrase in (*phrases, *fields) for text in (phrase, f" {phrase}")]
