"""Procedural tasks of the package reasoning-gym, scored by the package's own verifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from boostershot.data.tasks.task import Score, TaskRow, Variant
from boostershot.errors import InputError


def gym_rows(name: str, options: Mapping[str, Any], variant: Variant) -> tuple[list[TaskRow], Score]:
    """Rows and the package's own score of an answer to one, 0 to 1; right is 1.

    `published` asks as the package's own evaluation does: its instructions stand before the question, and what is
    scored is the text in the last pair of <answer> tags.

    Raises:
        InputError: there is no such task, or it refuses the options.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS
    from reasoning_gym.utils import SYSTEM_PROMPTS, extract_answer

    if name not in DATASETS:
        raise InputError(f"reasoning-gym:{name}: reasoning-gym has no task {name!r}")
    try:
        data = reasoning_gym.create_dataset(name, **{"size": 4000, "seed": 0, **options})
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"reasoning-gym:{name} refuses {options}: {error}") from error
    tagged = variant == "published"
    rows = []
    for i in range(len(data)):
        entry = data[i]
        stored = json.dumps(entry, default=str)
        question, answer = entry["question"].strip(), str(entry["answer"]).strip()
        if tagged:
            question, answer = f"{SYSTEM_PROMPTS['default']}\n{question}", f"<answer>{answer}</answer>"
        rows.append(TaskRow(f"{name}/{i}", question, answer, stored))

    def score(answer: str, row: TaskRow) -> float:
        given = extract_answer(answer) if tagged else answer.strip()
        return float(data.score_answer(given, json.loads(row.entry)))

    return rows, score
