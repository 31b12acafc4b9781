"""The quickstart's work, ours and as public code does it, put together from what its parts take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import reference
import torch
from datasets import Dataset
from generation import one_at_a_time
from trl.trainer.sft_trainer import SFTTrainer

import boostershot as bs
from boostershot.attacks.finetune import AttackArguments, TrieSFTTrainer, own_forward
from boostershot.config import Recipe
from boostershot.evaluation.generation import by_batch
from boostershot.pipeline.data import LOSS_ROWS
from boostershot.pipeline.estimate import CALIBRATION_ROWS
from engine.steps import alpha_of, padded_batch
from engine.timing import Ratio, Seconds, interleaved, ratio
from engine.workload import Workload, answering

ALONE = 4  # prompts that are answered one at a time in a repeat, of each kind
PARTS = ("an SFT step", "a Booster step", "an attack step", "an answer", "a harmful answer")


def counts(recipe: Recipe) -> dict[str, int]:
    """How often the quickstart does each part; `pipeline.estimate` counts the same."""
    ((_, attack),) = recipe.attacks.items()
    steps, seeds = recipe.immunize.steps, len(recipe.seeds)
    assert steps is not None
    scored = 1 + seeds * len(recipe.defenses) * 2  # the base model; each defence before and after the attack
    evaluate = recipe.evaluate
    written = (recipe.data.align.n or 0) + attack.attack.n_harmful + min(evaluate.n_harmful, LOSS_ROWS)
    answers = scored * (evaluate.n_harmful + evaluate.n_task) + CALIBRATION_ROWS
    attacked = seeds * len(recipe.defenses) * attack.total_steps
    return dict(zip(PARTS, (seeds * steps, seeds * steps, attacked, answers, written), strict=True))


def parts(work: Workload, recipe: Recipe, repeats: int) -> dict[str, Seconds]:
    """Seconds of each part, by repeat: ours and the reference's."""
    booster = work.booster
    lam, alpha = booster.lam, alpha_of(work)  # type: ignore[attr-defined] - Booster's

    def plain_sft(number: int) -> None:
        reference.sft_step(work.model, padded_batch(work.align[number % len(work.align)]))

    def plain_booster(number: int) -> None:
        rows = [padded_batch(some[number % len(some)]) for some in (work.align, work.harmful)]
        reference.booster_step(work.model, *rows, lam, alpha)

    with own_forward(work.model):
        steps = {
            "an SFT step": (partial(work.step, bs.SFT()), plain_sft),
            "a Booster step": (partial(work.step, booster), plain_booster),
            "an attack step": (_attack_step(TrieSFTTrainer, work), _attack_step(SFTTrainer, work)),
        }
        training = {(part, who): one for part, both in steps.items() for who, one in zip(WHO, both, strict=True)}
        seconds = interleaved(training, repeats)
    work.model.zero_grad()
    asked = {
        "an answer": (work.prompts, recipe.evaluate.max_new_tokens),
        "a harmful answer": ([work.asked], recipe.data.answer_tokens),
    }
    answers = {}
    for part, (groups, tokens) in asked.items():
        answers[part, "ours"] = partial(_together, work, groups, tokens, recipe.runtime.generation_batch_size)
        answers[part, "reference"] = partial(_alone, work, groups, tokens)
    with answering(work.model):  # merging the adapter is for a whole evaluation, and no part of one answer
        seconds |= interleaved(answers, repeats)
    found: dict[str, Seconds] = {}
    for part, who in [*training, *answers]:
        groups = asked[part][0] if part in asked else [[0]]
        many = sum(len(group) if who == "ours" else min(ALONE, len(group)) for group in groups)
        found.setdefault(part, {})[who] = [one / many for one in seconds[part, who]]
    return found


WHO = ("ours", "reference")


def whole(work: Workload, recipe: Recipe, repeats: int) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """The reference's whole over ours, with our batches in the attack and with the stock ones."""
    seconds, often = parts(work, recipe, repeats), counts(recipe)

    def total(who: Callable[[str], str]) -> list[float]:
        return [sum(often[part] * seconds[part][who(part)][i] for part in PARTS) for i in range(repeats)]

    theirs = total(lambda _: "reference")
    stock_attack = total(lambda part: "reference" if part == "an attack step" else "ours")
    found = {
        "the quickstart's work by the reference / ours": ratio(theirs, total(lambda _: "ours"), "higher", 4.0),
        "the same where our attack is the stock one": ratio(theirs, stock_attack, "higher", 3.0),
        **{f"{part} of the reference / ours": ratio(seconds[part]["reference"], seconds[part]["ours"], "higher")
           for part in PARTS},
    }  # fmt: skip
    return found, {"seconds": seconds, "counts": often}


def _attack_step(kind: type[SFTTrainer], work: Workload) -> Callable[[int], None]:
    """Loss and gradient of a step of trl's trainer, or of ours on it."""
    with TemporaryDirectory() as folder:
        args = AttackArguments(
            output_dir=folder,
            max_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        rows = work.attack[0]
        data = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in rows.input_ids.tolist()])
        trainer = kind(model=work.model, args=args, train_dataset=data, processing_class=work.form.tokenizer)

    def step(number: int) -> None:
        batch = padded_batch(work.attack[number % len(work.attack)])
        work.model.zero_grad()
        tokens = torch.tensor(int((batch["labels"][:, 1:] != -100).sum()))
        trainer.compute_loss(work.model, batch, num_items_in_batch=tokens).backward()

    return step


def _together(work: Workload, groups: Sequence[Sequence[Sequence[int]]], tokens: int, batch: int, _repeat: int) -> None:
    for rows in groups:
        for _ in by_batch(work.model, work.form, rows, range(len(rows)), tokens, batch):
            pass


def _alone(work: Workload, groups: Sequence[Sequence[Sequence[int]]], tokens: int, repeat: int) -> None:
    """Other prompts in each repeat."""
    for rows in groups:
        start = repeat * ALONE % max(1, len(rows) - ALONE + 1)
        one_at_a_time(work.model, work.form, rows[start : start + ALONE], tokens)


def composed(found: Mapping[str, Any]) -> str:
    """How the whole was put together, in words."""
    return ", ".join(f"{often:,} times {part}" for part, often in found["counts"].items())
