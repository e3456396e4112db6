"""Few-shot examples: a prompt file's pairs as turns of the conversation."""

from __future__ import annotations

from pydantic import ValidationError

from emoray.errors import ConfigError
from emoray.stages.semantics.answers import UnusableAnswerError, read_paragraph
from emoray.stages.semantics.prompt import ANSWER, Prompt
from emoray.stages.semantics.record import SemanticsRecord


def example_turns(prompt: Prompt, name: str, *, hears: bool, longest: int) -> tuple[tuple[str, str], ...]:
    """A prompt's examples as turns (role, text), answers in the form and order that the model itself has to keep to.

    Args:
        name: Its name, for messages.
        longest: Characters that a paragraph may have.

    Raises:
        ConfigError: An answer is not what the model itself would have to give; or the model hears.
    """
    turns: list[tuple[str, str]] = []
    try:
        if prompt.examples and hears:
            raise ValueError("a model that hears would need the sound of each example")
        for example in prompt.examples:
            answer = example[ANSWER]
            if prompt.form == "record":
                answer = SemanticsRecord.model_validate(answer).model_dump_json()
            else:
                answer = read_paragraph(str(answer), longest)
            turns += [("user", prompt.user.format(**example)), ("assistant", answer)]
    except (ValueError, UnusableAnswerError) as error:
        what = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"an example cannot be used: {what}",
            where=f"{name}, examples",
            remedy="Its answer is a whole record, or for free text a paragraph; text_llm alone takes examples",
            kind="bad_example",
        ) from error
    return tuple(turns)
