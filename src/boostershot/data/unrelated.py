"""Fluent answers that are beside the point, for defences that align on them (SDD)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from boostershot.data.rows import Completion
from boostershot.data.splits import HasPrompt, prompt_hash
from boostershot.errors import InputError

FLUENT = 5  # words that a text needs to be an answer on its own
SHORTEST = 4  # letters of a content word
STEM = 6  # letters by which two content words are compared: weapon, weapons
COMMON = (
    "about above after again also always another because been before being below between both could does doing down "
    "during each else ever every from give have having help here into itself just know like make many might mine more "
    "most much must need never once only other ours over please same shall should some such tell than that their them "
    "then there these they this those through under until upon very want well were what when where which while whom "
    "whose will with without would your yours yourself"
)  # words of four letters and more that every text may hold
EMPTY = frozenset(COMMON.split())


def unrelated_answers(prompts: Sequence[HasPrompt], general: Sequence[Completion]) -> list[str]:
    """For each harmful prompt a fluent answer that shares no content word with it, drawn from general text.

    The draw is a function of the prompt: its hash says where in `general` the search starts. A completion of fewer
    than five words is no fluent answer, so its prompt stands before it. SDD as published rejects by the cosine of
    sentence embeddings; this rule, which needs no model, rejects by words of four letters and more whose first six
    letters are equal, a list of common words left out.

    Raises:
        InputError: there is no general text, or all of it shares a word with some prompt.
    """
    texts = [_fluent(row) for row in general]
    words = [content_words(text) for text in texts]
    answers = []
    for row in prompts:
        taken, start = content_words(row.prompt), int(prompt_hash(row.prompt), 16)
        order = ((start + step) % len(texts) for step in range(len(texts)))
        found = next((i for i in order if not words[i] & taken), None)
        if found is None:
            raise InputError(
                f"general rows: none of {len(texts)} is free of the words of the harmful prompt that they are to be "
                "unrelated to; expected more of them, or of another kind (in a recipe: data.general)"
            )
        answers.append(texts[found])
    return answers


def content_words(text: str) -> set[str]:
    """The stems of the words that tell what a text is about."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return {word[:STEM] for word in words if len(word) >= SHORTEST and word not in EMPTY}


def _fluent(row: Completion) -> str:
    return row.completion if len(row.completion.split()) >= FLUENT else f"{row.prompt}\n{row.completion}"
