"""What a decoder can be held to: bounded text as a pattern that compiles, and how long an answer can become."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from emoray.errors import ConfigError

log = logging.getLogger(__name__)

#: Printable ASCII that JSON writes without an escape.
CHARACTER = r"[ !#-\[\]-~]"
#: xgrammar (up to 0.2.8) cannot compile a repetition of more than 128. Longer texts are several repetitions.
MAX_REPETITION = 120
#: English prose has more characters in a token than this, whatever the tokenizer: a bound on `max_tokens` from below.
CHARACTERS_PER_TOKEN = 4
#: No text field is as long as this.
_MAX_TEXT = 1024


def text_pattern(longest: int) -> str:
    """Pattern of a text of 1 to `longest` characters.

    Whole blocks come first and the rest after them, so that a text can be read in one way only: `x{0,120}x{1,120}`
    means the same and takes xgrammar three times as long to compile (20 times with five pieces).
    """
    pieces = -(-longest // MAX_REPETITION)
    if pieces == 1:
        return f"^{CHARACTER}{{1,{longest}}}$"
    block = longest // pieces
    rest = longest - block * (pieces - 1)
    return f"^({CHARACTER}{{{block}}}){{0,{pieces - 1}}}{CHARACTER}{{1,{rest}}}$"


def longest_answer(schema: Mapping[str, Any]) -> int:
    """Characters of the longest object that a schema of `enum` and `pattern` fields allows, without white space."""
    return len(
        json.dumps({name: _longest(field) for name, field in schema["properties"].items()}, separators=(",", ":"))
    )


def check_length(longest: int, max_tokens: int, where: str) -> None:
    """Check that the answers that the bounds allow fit.

    Args:
        longest: Characters of the longest answer (`longest_answer`).
        max_tokens: Longest answer in tokens.
        where: Configuration section of the bounds, for messages.

    Raises:
        ConfigError: Even English prose as long as the bounds allow cannot fit.
    """
    if max_tokens * CHARACTERS_PER_TOKEN < longest:
        raise ConfigError(
            f"{max_tokens} tokens cannot hold an answer of {longest} characters, which the bounds allow",
            where=f"{where}.max_tokens",
            remedy=f"Set it to {longest}, enough for any tokenizer, or lower the bounds (…_characters)",
            kind="max_tokens_too_small",
        )
    if max_tokens < longest:
        _warn_once(where, max_tokens, longest)


@functools.cache
def check_compiles(schema: str, where: str) -> None:
    """Compile a schema, given as JSON, with xgrammar, if it is installed here.

    It takes milliseconds, but importing xgrammar takes seconds: for processes that run an engine, and for `doctor`.

    Raises:
        ConfigError: It does not compile.
    """
    if importlib.util.find_spec("xgrammar") is None:
        return
    import xgrammar

    # Which tokens there are decides how long it takes, not whether it succeeds.
    characters = [chr(code) for code in range(32, 127)]
    tokens = xgrammar.TokenizerInfo([*characters, "</s>"], xgrammar.VocabType.RAW, stop_token_ids=[len(characters)])
    try:
        xgrammar.GrammarCompiler(tokens, max_threads=1).compile_json_schema(schema, any_whitespace=False)
    except Exception as error:
        raise ConfigError(
            f"xgrammar {importlib.metadata.version('xgrammar')} cannot compile the record's schema: {error}",
            where=where,
            remedy="Lower phrase_characters and sentence_characters, or install another version of xgrammar",
            kind="schema_not_compiled",
        ) from error


def _longest(field: Mapping[str, Any]) -> Any:
    if "enum" in field:
        return max(field["enum"], key=lambda value: len(json.dumps(value)))
    return "x" * _longest_text(field["pattern"])


@functools.cache
def _longest_text(pattern: str) -> int:
    return max(length for length in range(1, _MAX_TEXT) if re.search(pattern, "x" * length))


@functools.cache
def _warn_once(where: str, max_tokens: int, longest: int) -> None:
    log.warning(
        "%s.max_tokens: %d tokens are enough for English prose, but not for every answer of the %d characters that the"
        " bounds allow: some rows may be cut off",
        where,
        max_tokens,
        longest,
    )
