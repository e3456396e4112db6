"""What is noted in a transcript and not said."""

from __future__ import annotations

import pytest

from emoray.stages.transcribe.markup import spoken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[LAUGHTER] I know <unk> that {noise}", "I know that"),
        ("(laughs) well (sighs deeply) no (nervous laughter)", "well no"),
        ("SPEAKER_01: hello", "hello"),
        ("Spk 2: hello A: no", "hello A: no"),
        ("B: hello", "hello"),
        ("00:01:02.500 --> 00:01:04.000 hello", "hello"),
        ("*clears throat* hello", "hello"),
        ("at 10:30 (I think) we met", "at 10:30 (I think) we met"),
        ("I <3 you, 5 > 4", "I <3 you, 5 > 4"),
        ("note: it costs $5, for (crying out loud)", "note: it costs $5, for (crying out loud)"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("  [noise] ", ""),
    ],
)
def test_markup_is_no_word(text, said):
    assert spoken(text) == said
