"""What is timed on: the built-in model in the quickstart's shapes, on the quickstart's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from boostershot.attacks import Attack
from boostershot.config import Recipe, build_defense, load_recipe
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.data.format import Format, collate
from boostershot.data.rows import HarmfulPrompt
from boostershot.defenses.defense import Defense
from boostershot.models import load_base
from boostershot.pipeline.attack_stages import attack_pool
from boostershot.pipeline.files import read_jsonl
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store
from boostershot.training.arguments import attach_lora

BATCHES = 3  # of each kind, which the repeats take in turn
PROMPTS = 50  # of each kind of answers: one batch of the quickstart


@dataclass(frozen=True)
class Workload:
    """A model in training, batches of rows and prompts.

    Args:
        model: with a LoRA adapter.
        form: how prompts are written.
        align, harmful, attack: batches of rows; `harmful` the harmful answers to the prompts of `align`.
        prompts: tokens of the prompts that are scored, the harmful ones and the task's.
        asked: tokens of the prompts to which the base model writes harmful answers.
        booster: the defence.
    """

    model: Any
    form: Format
    align: Sequence[Rows]
    harmful: Sequence[Rows]
    attack: Sequence[Rows]
    prompts: Sequence[Sequence[Sequence[int]]]
    asked: Sequence[Sequence[int]]
    booster: Defense

    def step(self, defense: Defense, number: int, *, same_rows: bool = False, **oracle: Any) -> None:
        """A gradient of a defence on the rows of this repeat.

        Args:
            defense: which reads no other roles than align and harmful.
            number: of the repeat.
            same_rows: read the rows of `align` in place of the harmful ones, too.
            oracle: its further arguments.
        """
        align = self.align[number % len(self.align)]
        harmful = align if same_rows else self.harmful[number % len(self.harmful)]
        defense.step(Oracle(self.model, step=number, **oracle), Batch(align=align, harmful=harmful))


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Within, the model is as an evaluation has it: in eval mode, without gradients, its adapter merged."""
    model.eval()
    model.merge_adapter()
    try:
        with torch.no_grad():
            yield
    finally:
        model.unmerge_adapter()
        model.train()


def quickstart() -> tuple[Recipe, Workload]:
    """The recipe, and rows of its own: the first ones that it would align on, attack with and score."""
    recipe = load_recipe("quickstart")
    size, length, lora = recipe.immunize.batch, recipe.data.max_length, recipe.immunize.lora
    assert lora is not None
    ((_, settings),) = recipe.attacks.items()
    attack: Attack = replace(settings.attack, n=BATCHES * settings.batch)  # type: ignore[type-var] - a dataclass
    with TemporaryDirectory() as folder:
        stages = Stages(recipe, Store(Path(folder)), Reporter(quiet=True))
        aligned = [
            HarmfulPrompt(**row)
            for row in read_jsonl(stages.harmful_rows("align", BATCHES * size, None) / "rows.jsonl")
        ]
        model, tokenizer = load_base(recipe.model.id)
        form = Format.choose(tokenizer, recipe.model.template)
        pool = attack_pool(stages, stages.harmful_rows("attack", attack.n_harmful, None), form)
        chosen = attack.phases(attack.select(model, form, pool, length), recipe.seeds[0])[0].rows
        data = stages.data
        prompts = [
            [form.prompt_ids(row.prompt) for row in rows[:PROMPTS]]
            for rows in (data.splits["test"], data.task.splits["test"])
        ]
        asked = [form.prompt_ids(row.prompt) for row in data.splits["align"][:PROMPTS]]

    def batches(rows: Sequence[tuple[str, str, str]], size: int) -> list[Rows]:
        tokenized = [form.tokenize(prompt, answer, name=name, max_length=length) for name, prompt, answer in rows]
        return [collate(tokenized[i : i + size], form.pad_id) for i in range(0, len(rows), size)]

    torch.manual_seed(0)
    return recipe, Workload(
        model=attach_lora(model, lora.model_dump()).train(),
        form=form,
        align=batches([(row.id, row.prompt, str(row.chosen)) for row in aligned], size),
        harmful=batches([(row.id, row.prompt, str(row.rejected)) for row in aligned], size),
        attack=batches([(row.id, row.prompt, row.completion) for row in chosen], settings.batch),
        prompts=prompts,
        asked=asked,
        booster=build_defense(recipe.defenses["booster"], "booster"),
    )
