"""Time the answers of an evaluation against one prompt at a time, and hold them against each other.

    python bench/generation.py [N [TOKENS [THREADS]]]   128 prompts, 64 tokens and 2 threads by default

The prompts are those that quickstart scores, harmful and task ones as 3 to 4; the model is the built-in one. Writes
docs/generation.json and docs/generation.md. Fails where an answer differs for another reason than rounding: at its
first token that differs the two tokens must be the two likeliest, their logits within 1e-4 of each other.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from boostershot.config import load_recipe
from boostershot.data.format import Format
from boostershot.evaluation.generation import by_batch
from boostershot.models import load_base
from boostershot.pipeline.data import RecipeData

DOCS = Path(__file__).parents[1] / "docs"
TIE = 1e-4  # between the two best logits
TARGET = 8  # times faster than one prompt at a time
BATCH = 96  # prompts at once: the whole evaluation in as few batches as one would on a machine of this size


class Clock:
    """Seconds by the wall and of the processor: the second is what a shared machine leaves comparable."""

    def __enter__(self) -> Clock:
        self.wall, self.cpu = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = self.wall + time.perf_counter(), self.cpu + time.process_time()


def one_at_a_time(model: Any, form: Format, rows: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """As public implementations do: `generate` with its cache, for one prompt after the other."""
    ends = {form.end_ids()[0], form.tokenizer.eos_token_id}
    settings = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, num_beams=1, eos_token_id=sorted(ends), pad_token_id=form.pad_id
    )
    answers = []
    for row in rows:
        ids = torch.tensor([row])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        answers.append(list(takewhile(lambda token: token not in ends, output[0, len(row) :].tolist())))
    return answers


def batched(model: Any, form: Format, groups: Sequence[Sequence[Sequence[int]]], tokens: int) -> list[list[int]]:
    """As an evaluation does: the harmful prompts, then the task's."""
    answers = []
    for rows in groups:
        found: dict[int, list[int]] = {}
        for batch, answered in by_batch(model, form, rows, range(len(rows)), tokens, BATCH):
            found |= dict(zip(batch, answered, strict=True))
        answers += [found[i] for i in range(len(rows))]
    return answers


@torch.no_grad()
def gap(model: Any, row: Sequence[int], one: Sequence[int], other: Sequence[int], end: int) -> float:
    """How far apart the logits are at the first token that differs; inf where the two are not the two best."""
    pairs = list(zip_longest(one, other, fillvalue=end))
    place = next(i for i, (a, b) in enumerate(pairs) if a != b)
    logits = model(input_ids=torch.tensor([[*row, *one[:place]]])).logits[0, -1]
    best = logits.topk(2)
    return float(best.values[0] - best.values[1]) if set(pairs[place]) == set(best.indices.tolist()) else float("inf")


def measure(n: int, tokens: int, threads: int) -> dict[str, Any]:
    """The figures; ours runs before and after the other, so that a machine that changes meanwhile shows."""
    torch.set_num_threads(threads)
    recipe = load_recipe("quickstart")
    model, tokenizer = load_base(recipe.model.id)
    form, data = Format.choose(tokenizer), RecipeData(recipe)
    model.eval()
    harmful, task = data.splits["test"][: 3 * n // 7], data.task.splits["test"][: n - 3 * n // 7]
    groups = [[form.prompt_ids(row.prompt) for row in rows] for rows in (harmful, task)]
    rows = [row for group in groups for row in group]
    one_at_a_time(model, form, rows[:1], 2)  # the first pass pays for what is loaded late
    with Clock() as before:
        ours = batched(model, form, groups, tokens)
    with Clock() as single:
        theirs = one_at_a_time(model, form, rows, tokens)
    with Clock() as after:
        again = batched(model, form, groups, tokens)
    different = [i for i in range(len(rows)) if ours[i] != theirs[i]]
    gaps = [gap(model, rows[i], theirs[i], ours[i], form.end_ids()[0]) for i in different]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": recipe.model.id,
        "prompts": len(rows),
        "harmful_prompts": len(harmful),
        "max_new_tokens": tokens,
        "mean_answer_tokens": sum(map(len, theirs)) / len(theirs),
        "threads": threads,
        "batch": BATCH,
        "load_average": os.getloadavg()[1],
        "one_at_a_time": {"wall": single.wall, "cpu": single.cpu},
        "batched": [{"wall": clock.wall, "cpu": clock.cpu} for clock in (before, after)],
        "times_faster": {
            key: getattr(single, key) * 2 / (getattr(before, key) + getattr(after, key)) for key in ("wall", "cpu")
        },
        "repeats_exactly": ours == again,
        "different_answers": len(different),
        "different_at_a_tie": sum(one <= TIE for one in gaps),
        "gaps": gaps,
    }


def page(found: dict[str, Any]) -> str:
    """docs/generation.md."""
    seconds = [found["one_at_a_time"], *found["batched"]]
    names = ["one prompt at a time", "ours, before", "ours, after"]
    table = [f"| {name} | {one['wall']:.1f} | {one['cpu']:.1f} |" for name, one in zip(names, seconds, strict=True)]
    times = found["times_faster"]
    return f"""# Speed of generation

Written by `make bench-generation` ({found["date"]}). {found["prompts"]} of quickstart's test prompts, of which
{found["harmful_prompts"]} harmful and the others of the task, `{found["model"]}` in float32, greedy answers of at most
{found["max_new_tokens"]} tokens ({found["mean_answer_tokens"]:.1f} on average), {found["threads"]} thread(s), at most
{found["batch"]} prompts at once. One prompt at a time is `model.generate` with its cache, as public implementations
call it. Load average of the machine in the last five minutes: {found["load_average"]:.1f}; processor seconds depend on
it less than those of the wall.

| | seconds | processor seconds |
|---|---:|---:|
{chr(10).join(table)}

**{times["wall"]:.1f} times faster** ({times["cpu"]:.1f} times in processor seconds); {TARGET} is the target:
{"met" if times["wall"] >= TARGET else "missed"}. With fewer prompts at once the ratio is smaller.

{found["different_answers"]} of {found["prompts"]} answers differ; in {found["different_at_a_tie"]} of these the two
best logits lie within {TIE:g} at the first token that differs, and the two tokens are those two. The two passes of
ours {"agree token by token" if found["repeats_exactly"] else "DO NOT agree"}.
"""


def main(arguments: Sequence[str]) -> int:
    """1 if an answer differs for another reason than a tie."""
    given = [int(argument) for argument in arguments]
    found = measure(*[*given, *(128, 64, 2)[len(given) :]])
    (DOCS / "generation.json").write_text(json.dumps(found, indent=1) + "\n")
    (DOCS / "generation.md").write_text(page(found))
    print(page(found))
    return int(found["different_answers"] != found["different_at_a_tie"] or not found["repeats_exactly"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
