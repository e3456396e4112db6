"""What a transcript notes and nobody says: sounds, speakers, times."""

from __future__ import annotations

import re

#: In these there are no spoken words: [LAUGHTER], <unk>, {noise}, *sighs*.
_BRACKETS = re.compile(r"\[[^\[\]]*\]|<[^<>\s\d][^<>]*>|\{[^{}]*\}|\*[^*\s][^*]*\*")
#: Parentheses may hold words that are said; these sounds are noted, alone or with a word beside them: (laughs loudly).
_SOUNDS = (
    r"laugh\w*|chuckl\w*|giggl\w*|sigh\w*|cough\w*|sneez\w*|cry|cries|crying|sob\w*|sniff\w*|breath\w*|inhal\w*|exhal\w*|"
    r"gasp\w*|groan\w*|moan\w*|scream\w*|yawn\w*|throat|noise|music|silence|pause|applause|inaudible|unintelligible|"
    r"unclear|crosstalk|overlap\w*|x+|\?+"
)
_NOTED = re.compile(rf"\(\s*(?:\w+\s+)?(?:{_SOUNDS})(?:\s+\w+)?\s*\)", re.IGNORECASE)
#: "SPEAKER_01:", "Spk 2:" and "A:" in front.
_SPEAKER = re.compile(r"^\s*(?:(?i:speaker|spkr?)[\s_-]?\w{1,3}|[A-Z]{1,2}\d{0,2})\s*:\s")
#: "00:01:02.500 --> 00:01:04.000", as subtitles have it. A time of day has no fraction.
_TIME = re.compile(r"\b(?:\d{1,2}:)?\d{1,2}:\d{2}[.,]\d{1,3}\b(?:\s*-->)?")


def spoken(text: str) -> str:
    """A transcript without its markup, with single spaces."""
    for pattern in (_TIME, _BRACKETS, _NOTED, _SPEAKER):
        text = pattern.sub(" ", text)
    return " ".join(text.split())
