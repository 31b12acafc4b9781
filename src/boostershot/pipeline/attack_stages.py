"""The attack's stage, and the weights that it leaves."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.attacks.adaptive import Adaptive
from boostershot.attacks.attack import AttackRow
from boostershot.attacks.extras import Term
from boostershot.attacks.finetune import AttackArguments, attack
from boostershot.attacks.grpo import Reinforced
from boostershot.attacks.reinforce import ReinforceArguments, reinforce
from boostershot.config import AttackSettings, build_defense
from boostershot.data.format import Format, TokenizedRow
from boostershot.models import Layer, load_chain
from boostershot.pipeline import rewards
from boostershot.pipeline.answer_stages import Asked
from boostershot.pipeline.artifacts import Losses, SavedWeights, finished, save, weights_in
from boostershot.pipeline.data import LOSS_ROWS
from boostershot.pipeline.distance import Distance
from boostershot.pipeline.files import read_json, read_jsonl
from boostershot.pipeline.opposed import opposed
from boostershot.pipeline.progress import StepsBar
from boostershot.pipeline.settings import attack_arguments, speed_arguments
from boostershot.pipeline.stages import Stages
from boostershot.training.metrics import MetricsFile


class _GivenUp(Exception):
    """A trial that a search does not follow to its end; raised with the step."""


def attacked(
    stages: Stages,
    label: str,
    settings: AttackSettings,
    immunized: Path | None,
    seed: int,
    limits: Mapping[int, float | None] | None = None,
) -> Path:
    """`step-N/` for each recorded step, and at each of them `losses.json` (the harmful losses) and `distance.json`.

    Args:
        label: of the attack, for the progress line.
        settings: the attack as the immunised model's defence meets it.
        immunized: the stage that made the model; None attacks the base model.
        seed: of the attacker's draw and training.
        limits: step -> held-out harmful loss above which the attack ends there, without weights; None never ends it.
            The losses at these steps are recorded, too. `result` then has `given_up`.
    """
    method = settings.attack
    rows_folder = stages.harmful_rows("attack", method.n_harmful, None)
    held_out_folder = stages.held_out()
    config = {
        **stages.identity(),
        "attack": settings.model_dump(mode="json"),
        "records": ["losses", "distance"],
        "task": stages.data.task_identity(),
        "general": stages.data.general_identity() if settings.anchor else None,
        **rewards.identity(stages, method),
        "seed": seed,
        "max_length": stages.recipe.data.max_length,
        **({"limits": {str(step): limit for step, limit in limits.items()}} if limits else {}),
    }

    def work(folder: Path) -> dict[str, Any]:
        resumed = any((folder / "checkpoints").rglob("checkpoint-*"))
        goes_on = settings.adapter == "continue"
        layers = [Layer(weights_in(immunized), merge=not goes_on)] if immunized else []
        model, tokenizer = load_chain(stages.recipe.model.id, layers, trainable=True)
        template, length = settings.template or stages.recipe.model.template, stages.recipe.data.max_length
        form = Format.choose(tokenizer, template)
        asked = form.asked(next(iter(method.askings.values())).without_prefill())
        pool = attack_pool(stages, rows_folder, asked)
        phases = method.phases(pool, seed)
        own = {row.id: row for phase in phases for row in phase.rows}.values()
        held_out = [row for row in read_jsonl(held_out_folder / "rows.jsonl") if row["rejected"]]
        kinds = {
            "own": [_tokenized(form.asked(r.asking), vars(r), "completion", length) for r in own if r.harmful],
            "held_out": [_tokenized(asked, row, "rejected", length + asked.around) for row in held_out],
        }
        losses = Losses(folder / "losses.json", {kind: rows[:LOSS_ROWS] for kind, rows in kinds.items()}, form.pad_id)
        trains_all = settings.adapter == "full" or (goes_on and not hasattr(model, "peft_config"))
        distance = Distance(folder / "distance.json", model, folder / "checkpoints" if trains_all else None)

        saved = SavedWeights(folder)

        def record(step: int, model: Any) -> None:
            found = losses.measure(step, model)["held_out"]
            limit = limits.get(step) if limits else None
            if limit is not None and sum(found) / len(found) > limit:
                raise _GivenUp(step)
            if step not in settings.eval_steps:
                return
            distance.measure(step, model)
            if settings.judged and step > 0:
                saved.add(step, model, tokenizer)

        training = {
            "output_dir": str(folder / "checkpoints"),
            **attack_arguments(settings, seed),
            "record_steps": sorted({*settings.eval_steps, *(limits or {})}),
        }
        steps = settings.total_steps
        with stages.reporter.bar(f"attacking: {label}, seed {seed}", steps) as advance:
            callbacks = [StepsBar(advance), MetricsFile(folder / "metrics.jsonl")]
            try:
                if isinstance(method, Reinforced):
                    reward, args = rewards.reward_of(stages, method), ReinforceArguments(**training)
                    told: dict[str, Any] = {"template": template, "record": record, "callbacks": callbacks}
                    reinforce(model, tokenizer, map(vars, pool), method, reward, args, **told)
                else:
                    attack(
                        model,
                        tokenizer,
                        map(vars, pool),
                        method,
                        AttackArguments(**training, **speed_arguments(stages.recipe.runtime)),
                        anchor=settings.anchor.anchor if settings.anchor else None,
                        general=form.fitting(stages.data.general, length) if settings.anchor else (),
                        opposed=_opposed(stages, settings, form, rows_folder, immunized, seed),
                        template=template,
                        max_length=length,
                        record=record,
                        callbacks=callbacks,
                    )
            except _GivenUp as given_up:
                (step,) = given_up.args
                return finished(folder, {"steps": step, "given_up": True})
        at = settings.eval_steps
        weighed = [step for step in at if step > 0] if settings.judged else []
        if resumed and (losses.by_step.lacks(at) or distance.by_step.lacks(at) or saved.lacks(weighed)):
            # A record of before a stop is damaged, and its step is over: all is done again.
            shutil.rmtree(folder / "checkpoints")
            return work(folder)
        return finished(folder, {"steps": steps})

    parents = [*([immunized] if immunized else []), rows_folder, held_out_folder, *rewards.parents(stages, method)]
    return stages.store.run("attack", config, parents, work)


def _opposed(
    stages: Stages, settings: AttackSettings, form: Format, rows_folder: Path, immunized: Path | None, seed: int
) -> Term | None:
    """The term of the defence that the immunised model was aligned with, on this attacker's rows."""
    method = settings.attack
    if not isinstance(method, Adaptive) or not method.opposed or immunized is None:
        return None
    length = stages.recipe.data.max_length
    defense = build_defense(read_json(immunized / "config.json")["config"]["defense"], "the immunised model's defence")
    records = read_jsonl(rows_folder / "rows.jsonl")
    safe = [_tokenized(form, row, "chosen", length) for row in records]
    harmful = [_tokenized(form, row, "rejected", length) for row in records]
    roles = {"align": safe, "paired": harmful, "harmful": harmful, "dev": harmful}
    if "general" in defense.needs():
        rows = form.fitting(stages.data.general, length)
        roles["general"] = [_tokenized(form, vars(row), "completion", length) for row in rows]
    return opposed(defense, roles, settings.batch, form.pad_id, seed)


def edited(stages: Stages, label: str, settings: AttackSettings, immunized: Path | None, seed: int) -> Path:
    """`step-0/`, the weights as an attack without training leaves them, with `losses.json` and `distance.json` of it.

    Harmless prompts are the recipe's general text, if it has any, else the benign task's.

    Args:
        label, settings, immunized, seed: as for `attacked`; the seed decides nothing but the immunised model.
    """
    method, data = settings.attack, stages.data
    rows_folder = stages.harmful_rows("attack", method.n_harmful, None)
    held_out_folder = stages.held_out()
    config = {
        **stages.identity(),
        "edit": {"method": settings.method, "template": settings.template, **dataclasses.asdict(method)},
        "harmless": data.general_identity() if data.general else data.task_identity(),
        "max_length": stages.recipe.data.max_length,
    }

    def work(folder: Path) -> dict[str, Any]:
        layers = [Layer(weights_in(immunized), merge=True)] if immunized else []
        model, tokenizer = load_chain(stages.recipe.model.id, layers)
        length = stages.recipe.data.max_length
        form = Format.choose(tokenizer, settings.template or stages.recipe.model.template)
        pool = attack_pool(stages, rows_folder, form)
        if data.general:
            general = form.fitting(data.general, length)
            pool = [row for row in pool if row.harmful]
            pool += [AttackRow(row.id, row.prompt, row.completion, harmful=False) for row in general]
        held_out = [row for row in read_jsonl(held_out_folder / "rows.jsonl") if row["rejected"]]
        kinds = {"own": [], "held_out": [_tokenized(form, row, "rejected", length) for row in held_out][:LOSS_ROWS]}
        distance = Distance(folder / "distance.json", model, folder / "checkpoints")
        with stages.reporter.bar(f"editing: {label}, seed {seed}", 1) as advance:
            method.edit(model, form, pool, length)
            advance(1)
        Losses(folder / "losses.json", kinds, form.pad_id).measure(0, model)
        distance.measure(0, model)
        save(model, tokenizer, folder / "step-0", inner="")
        return finished(folder, {"steps": 0})

    parents = [*([immunized] if immunized else []), rows_folder, held_out_folder]
    return stages.store.run("attack", config, parents, work)


def askings(stages: Stages, settings: AttackSettings, seed: int) -> dict[str, Asked]:
    """The attack's ways of asking by their names, the attacker's own first.

    Args:
        settings: of the attack.
        seed: of the draw, where a way takes words from the attacker's rows.
    """
    method = settings.attack
    rows = read_jsonl(stages.harmful_rows("attack", method.n_harmful, None) / "rows.jsonl") if method.n_harmful else []
    found = method.asked([AttackRow(row["id"], row["prompt"], row["rejected"], True) for row in rows], seed)
    return {name: Asked(settings.template, asking) for name, asking in found.items()}


def _tokenized(form: Format, row: Mapping[str, Any], answer: str, max_length: int) -> TokenizedRow:
    return form.tokenize(row["prompt"], row[answer], name=row["id"], max_length=max_length)


def attack_pool(stages: Stages, rows_folder: Path, form: Format) -> list[AttackRow]:
    """All rows that an attacker may draw from: benign prompts that leave no room for an answer are left out.

    Args:
        form: with the attacker's own way of asking.
    """
    harmful = [
        AttackRow(row["id"], row["prompt"], row["rejected"], harmful=True)
        for row in read_jsonl(rows_folder / "rows.jsonl")
    ]
    benign = [
        AttackRow(row.id, row.prompt, row.answer, harmful=False)
        for row in form.fitting(stages.data.task.splits["train"], stages.recipe.data.max_length)
    ]
    return harmful + benign


def layers_of(immunized: Path | None, attacked: Path | None, step: int, adapter: str) -> list[Layer]:
    """What to stack on the base model for one evaluation after `step` steps; all merged, which is faster to run.

    Args:
        immunized: the immunise stage; None is the base model.
        attacked: the attack stage; not needed before the first step, unless it edits the weights without one.
        step: of the attack.
        adapter: the attack's adapter mode.
    """
    start = [Layer(weights_in(immunized), merge=True)] if immunized else []
    if attacked is None or (step == 0 and not (attacked / "step-0").exists()):
        return start
    trained = Layer(attacked / f"step-{step}", merge=True)
    return [trained] if adapter == "continue" else [*start, trained]  # continue: the immunised adapter, trained on
