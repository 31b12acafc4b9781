"""The attack's stage, and the weights that it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.attacks.attack import AttackRow
from boostershot.attacks.finetune import AttackArguments, attack
from boostershot.attacks.grpo import Reinforced
from boostershot.attacks.reinforce import ReinforceArguments, reinforce
from boostershot.config import AttackSettings
from boostershot.data.format import Format, TokenizedRow
from boostershot.models import Layer, load_chain
from boostershot.pipeline import rewards
from boostershot.pipeline.artifacts import Losses, SavedWeights, finished, weights_in
from boostershot.pipeline.data import LOSS_ROWS
from boostershot.pipeline.distance import Distance
from boostershot.pipeline.files import read_jsonl
from boostershot.pipeline.progress import StepsBar
from boostershot.pipeline.settings import training_arguments
from boostershot.pipeline.stages import Stages
from boostershot.training.metrics import MetricsFile


def attacked(stages: Stages, label: str, settings: AttackSettings, immunized: Path | None, seed: int) -> Path:
    """`step-N/` for each recorded step, and at each of them `losses.json` (the harmful losses) and `distance.json`.

    Args:
        label: of the attack, for the progress line.
        settings: the attack as the immunised model's defence meets it.
        immunized: the stage that made the model; None attacks the un-aligned model.
        seed: of the attacker's draw and training.
    """
    method = settings.attack
    rows_folder = stages.harmful_rows("attack", method.n_harmful, None)
    held_out_folder = stages.held_out()
    config = {
        **stages.identity(),
        "attack": settings.model_dump(mode="json"),
        "records": ["losses", "distance"],
        "task": stages.data.task_identity(),
        **rewards.identity(stages, method),
        "seed": seed,
        "max_length": stages.recipe.data.max_length,
    }

    def work(folder: Path) -> dict[str, Any]:
        resumed = any((folder / "checkpoints").rglob("checkpoint-*"))
        goes_on = settings.adapter == "continue"
        layers = [Layer(weights_in(immunized), merge=not goes_on)] if immunized else []
        model, tokenizer = load_chain(stages.recipe.model.id, layers, trainable=True)
        template, length = settings.template or stages.recipe.model.template, stages.recipe.data.max_length
        form = Format.choose(tokenizer, template)
        pool = attack_pool(stages, rows_folder, form)
        own = [row for phase in method.phases([AttackRow(**row) for row in pool], seed) for row in phase.rows]
        held_out = [row for row in read_jsonl(held_out_folder / "rows.jsonl") if row["rejected"]]
        asked = form.asked(next(iter(method.askings.values())).without_prefill())
        kinds = {
            "own": [_tokenized(form.asked(r.asking), vars(r), "completion", length) for r in own if r.harmful],
            "held_out": [_tokenized(asked, row, "rejected", length) for row in held_out],
        }
        losses = Losses(folder / "losses.json", {kind: rows[:LOSS_ROWS] for kind, rows in kinds.items()}, form.pad_id)
        trains_all = settings.adapter == "full" or (goes_on and not hasattr(model, "peft_config"))
        distance = Distance(folder / "distance.json", model, folder / "checkpoints" if trains_all else None)

        saved = SavedWeights(folder)

        def record(step: int, model: Any) -> None:
            losses.measure(step, model)
            distance.measure(step, model)
            if settings.judged and step > 0:
                saved.add(step, model, tokenizer)

        training = {
            "output_dir": str(folder / "checkpoints"),
            "adapter": settings.adapter,
            "lora": settings.lora.model_dump() if settings.lora else {},
            "record_steps": list(settings.eval_steps),
            **training_arguments(settings, seed),
        }
        steps = settings.total_steps
        with stages.reporter.bar(f"attacking: {label}, seed {seed}", steps) as advance:
            callbacks = [StepsBar(advance), MetricsFile(folder / "metrics.jsonl")]
            if isinstance(method, Reinforced):
                reward, args = rewards.reward_of(stages, method), ReinforceArguments(**training)
                told: dict[str, Any] = {"template": template, "record": record, "callbacks": callbacks}
                reinforce(model, tokenizer, pool, method, reward, args, **told)
            else:
                attack(
                    model,
                    tokenizer,
                    pool,
                    method,
                    AttackArguments(**training),
                    template=template,
                    max_length=length,
                    record=record,
                    callbacks=callbacks,
                )
        at = settings.eval_steps
        weighed = [step for step in at if step > 0] if settings.judged else []
        if resumed and (losses.by_step.lacks(at) or distance.by_step.lacks(at) or saved.lacks(weighed)):
            # A record of before a stop is damaged, and its step is over: all is done again.
            shutil.rmtree(folder / "checkpoints")
            return work(folder)
        return finished(folder, {"steps": steps})

    parents = [*([immunized] if immunized else []), rows_folder, held_out_folder, *rewards.parents(stages, method)]
    return stages.store.run("attack", config, parents, work)


def _tokenized(form: Format, row: Mapping[str, Any], answer: str, max_length: int) -> TokenizedRow:
    return form.tokenize(row["prompt"], row[answer], name=row["id"], max_length=max_length)


def attack_pool(stages: Stages, rows_folder: Path, form: Format) -> list[dict[str, Any]]:
    """All rows that an attacker may draw from: benign prompts that leave no room for an answer are left out."""
    harmful = [
        {"id": row["id"], "prompt": row["prompt"], "completion": row["rejected"], "harmful": True}
        for row in read_jsonl(rows_folder / "rows.jsonl")
    ]
    benign = [
        {"id": row.id, "prompt": row.prompt, "completion": row.answer, "harmful": False}
        for row in form.fitting(stages.data.task.splits["train"], stages.recipe.data.max_length)
    ]
    return harmful + benign


def layers_of(immunized: Path | None, attacked: Path | None, step: int, adapter: str) -> list[Layer]:
    """What to stack on the base model for one evaluation after `step` steps; all merged, which is faster to run.

    Args:
        immunized: the immunise stage; None is the un-aligned model.
        attacked: the attack stage; not needed before the first step.
        step: of the attack.
        adapter: the attack's adapter mode.
    """
    start = [Layer(weights_in(immunized), merge=True)] if immunized else []
    if step == 0 or attacked is None:
        return start
    trained = Layer(attacked / f"step-{step}", merge=True)
    return [trained] if adapter == "continue" else [*start, trained]  # continue: the immunised adapter, trained on
