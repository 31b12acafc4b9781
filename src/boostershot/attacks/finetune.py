"""The user fine-tuning stage: `trl.SFTTrainer` on the attacker's rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from boostershot.attacks.anchor import Anchor
from boostershot.attacks.arguments import AttackerArguments
from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.attacks.extras import Extras, Term
from boostershot.attacks.grpo import Reinforced
from boostershot.attacks.moves import Moves, shake
from boostershot.attacks.optimizers import optimizer_of
from boostershot.attacks.refactor import refactor
from boostershot.core.batch import Rows
from boostershot.core.losses import lay_out, token_losses
from boostershot.core.oracle import START, Oracle
from boostershot.core.temporarily import keeping_forwards
from boostershot.data.format import Format
from boostershot.data.rows import Completion
from boostershot.errors import InputError
from boostershot.training.arguments import attach_lora
from boostershot.training.checkpoints import (
    MarkWhole,
    begin,
    last_whole_checkpoint,
    load_kept,
    save_kept,
    training_facts,
)
from boostershot.training.compiled import compiled


@dataclass
class AttackArguments(AttackerArguments, SFTConfig):
    """`trl.SFTConfig` with what `AttackerArguments` add and replace."""

    max_length: int | None = field(default=None)  # rows come tokenised and cut


def attack(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable[Mapping[str, Any]],
    attack: Attack,
    args: AttackArguments,
    *,
    anchor: Anchor | None = None,
    general: Sequence[Completion] = (),
    opposed: Term | None = None,
    template: str = "auto",
    max_length: int = 256,
    record: Callable[[int, Any], None] = lambda step, model: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Fine-tune an immunised model on the attacker's rows, and return it.

    Each phase of the attack has an optimiser of its own. Training goes on from the last whole checkpoint in
    `args.output_dir`, to the same weights bit for bit.

    Args:
        model: the immunised model; a `PeftModel` with its adapter attached and trainable, or a plain model.
        tokenizer: its tokenizer.
        dataset: records with `id, prompt, completion, harmful` (bool), from which `attack` draws.
        attack: which rows, in which phases.
        args: which weights, and the attacker's optimiser, learning rate, batch and steps.
        anchor: a term on general rows that keeps the model useful.
        general: the anchor's rows, of which it takes the first.
        opposed: the defence's own term, which an `adaptive` attack pushes against; None where there is none.
        template: auto, chat, alpaca or raw: how the attacker writes prompts.
        max_length: as for `immunize`.
        record: called with the step and the model after each of `args.record_steps`; its weights are in the released
            model's terms, also where training has re-factored them.

    Raises:
        InputError: a row is bad, there are too few rows, or no adapter to re-factor.
        FloatingPointError: the loss is not finite.
        ValueError: the attack does not fine-tune on rows; or gradients are accumulated beside an anchor or a move.
    """
    if isinstance(attack, Reinforced):
        raise ValueError(f"{attack.name} is paid for its answers and is shown none; expected `reinforce` for it")
    if not attack.trains:
        raise ValueError(
            f"{attack.name} trains nothing; expected its own `edit` or `askings`, or an attack that trains"
        )
    set_seed(args.seed)
    form = Format.choose(tokenizer, template)
    pool = [AttackRow(str(row["id"]), row["prompt"], row["completion"], bool(row["harmful"])) for row in dataset]
    if anchor is not None and len(general) < anchor.n:
        raise InputError(f"anchor: needs {anchor.n} general rows; the data has {len(general)}")
    texts = [
        form.tokenize(row.prompt, row.completion, name=row.id, max_length=max_length)
        for row in (general[: anchor.n] if anchor else ())
    ]
    model = adapted(model, args.adapter, args.lora).to(args.device)
    refactored = refactor(model, args.refactor)
    phases = attack.phases(attack.select(model, form, pool, max_length), args.seed)
    told = refactored.telling(record)
    extras = Extras(anchor=anchor, general=texts, pad_id=form.pad_id, batch=args.per_device_train_batch_size)
    if opposed is not None or (anchor is not None and anchor.kl):
        extras = replace(extras, term=opposed, released=_copies(model))
    done = 0
    for number, (phase, steps) in enumerate(zip(phases, lengths(phases, args), strict=True)):
        if not steps:  # a small share of few steps
            continue
        mine = _arguments(args, phase.moves, number, steps)
        at = {step - done: step for step in args.record_steps if done < step <= done + steps or step == done == 0}
        rows = _tokenized(phase, form, max_length)
        how = (attack, phase.moves, anchor, args.adapter, args.refactor, args.optimizer, mine.momentum)
        facts = training_facts(how, [*rows, *map(vars, texts)], model, mine)
        own = [Record(at, told), *([Shake(phase.moves.noise)] if phase.moves.noise else [])]
        checkpoint = last_whole_checkpoint(Path(str(mine.output_dir)), facts)
        with compiled(model, mine) as stock, own_forward(model):
            trainer = TrieSFTTrainer(
                model=model,
                args=stock,
                train_dataset=rows,
                processing_class=tokenizer,
                callbacks=[*own, *callbacks, MarkWhole(facts)],
                extras=replace(extras, moves=phase.moves, first_step=done),
            )
            if args.disable_tqdm:
                trainer.remove_callback(PrinterCallback)  # the stock trainer prints every log where it shows no bar
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # computes as it did before
        done += steps
    refactored.undo()
    return model


def lengths(phases: Sequence[Phase], args: AttackArguments) -> list[int]:
    """The optimiser steps of each phase: its share of `max_steps`, or epochs over its own rows.

    Phases on the same rows, by their ids, share the epochs over them.
    """

    def parts(total: int, shares: Sequence[float]) -> list[int]:
        ends = [round(total * sum(shares[: i + 1])) for i in range(len(shares))]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    if args.max_steps > 0:
        return parts(args.max_steps, [phase.share for phase in phases])
    steps: list[int] = []
    for rows, group in groupby(phases, key=lambda phase: [row.id for row in phase.rows]):
        total = math.ceil(args.num_train_epochs * math.ceil(len(rows) / args.per_device_train_batch_size))
        shares = [phase.share for phase in group]
        steps += parts(total, [share / sum(shares) for share in shares])
    return steps


def _arguments(args: AttackArguments, moves: Moves, number: int, steps: int) -> AttackArguments:
    """Those of one phase."""
    mine = copy.copy(args)
    mine.output_dir = str(Path(str(args.output_dir)) / f"phase-{number}")
    mine.max_steps = steps
    mine.dataset_kwargs = {"skip_prepare_dataset": True}  # rows are tokenised already
    mine.learning_rate = moves.lr_factor * args.learning_rate
    if moves.momentum is not None:
        mine.momentum = moves.momentum
    if moves.constant:
        mine.lr_scheduler_type, mine.warmup_steps = "constant", 0
    return mine


def _tokenized(phase: Phase, form: Format, max_length: int) -> Dataset:
    rows = [
        form.asked(row.asking).tokenize(row.prompt, row.completion, name=row.id, max_length=max_length)
        for row in phase.rows
    ]
    return Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])


def _copies(model: Any) -> dict[str, Tensor]:
    """The trained parameters as they are now, by name."""
    return {name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad}


def adapted(model: Any, adapter: str, lora: dict[str, Any]) -> Any:
    """The model with the weights that the attacker trains made trainable."""
    attached = isinstance(model, PeftModel)
    if adapter == "continue":
        if not any(param.requires_grad for param in model.parameters()):
            raise InputError("adapter: continue, but nothing of the model is trainable; load it for training")
        return model
    merged = model.merge_and_unload() if attached else model
    if adapter == "fresh":
        return attach_lora(merged, lora)
    return merged.requires_grad_(True)


def own_forward(model: Any) -> AbstractContextManager[None]:
    """After the body, the model has its own forward pass back, in whose place TRL's trainers put one of theirs.

    That one is bound to the model: a copy of the model would run it on the original's weights.
    """
    return keeping_forwards([model.get_base_model() if isinstance(model, PeftModel) else model])


class TrieSFTTrainer(SFTTrainer):
    """SFTTrainer that reads each batch as a token trie: the same loss and gradient for fewer tokens.

    With an anchor or a move, a step's gradient is the sum of its terms; clipping, optimiser and schedule stay stock.
    """

    args: AttackArguments

    def __init__(self, *args: Any, extras: Extras | None = None, **kwargs: Any):
        super().__init__(*args, optimizer_cls_and_kwargs=optimizer_of(kwargs["args"]), **kwargs)
        if extras is not None and not extras.none and self.args.gradient_accumulation_steps != 1:
            raise ValueError("gradient_accumulation_steps must stay 1 with an anchor or a move: a step is one batch")
        self.extras = extras
        self.state_of_term: dict[str, Any] = {}
        self.tensors_of_term: dict[str, Tensor] = {}
        self.latest: dict[str, float] = {}  # of the present step, to log

    def _send_telemetry(self) -> None:
        """Nothing: the environment variable that the package sets comes too late after an earlier import of the Hub."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The stock loss; the stock pass where the model is wrapped (several processes) or outputs are wanted."""
        if return_outputs or self.accelerator.unwrap_model(model) is not model:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rows = Rows.of(inputs)
        losses = token_losses(model, lay_out(model, rows))
        loss = losses.sum() / (num_items_in_batch if num_items_in_batch is not None else losses.numel())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the attack's loss is {loss.item()} at step {self.state.global_step}")
        return loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The stock step, or one whose gradient has further terms; it is left in `.grad`."""
        if self.extras is None or self.extras.none:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        oracle = Oracle(
            self.accelerator.unwrap_model(model),
            seed=self.args.seed,
            step=self.extras.first_step + self.state.global_step,
            autocast=self.accelerator.autocast,  # type: ignore[arg-type]
            state=self.state_of_term,
            tensors=self.tensors_of_term,
        )
        step = self.extras.step(oracle, Rows.of(self._prepare_inputs(inputs)))
        for param, gradient in zip(oracle.params, step.gradient.tensors(), strict=True):
            param.grad = gradient
        self.latest = step.metrics
        return torch.tensor(step.loss, device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own figures with those of the latest step's terms."""
        super().log({**logs, **self.latest} if "loss" in logs else logs, start_time)

    @property
    def _keeps(self) -> bool:
        """Is there a term that may keep something between steps?"""
        return self.extras is not None and self.extras.term is not None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With what the opposed term keeps between steps; MarkWhole's mark comes after."""
        begin(self.args, self.state)
        super()._save_checkpoint(model, trial)
        if self._keeps and self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            own = {name: kept for name, kept in self.tensors_of_term.items() if not name.startswith(START)}
            save_kept(folder, self.state_of_term, own)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """With what the opposed term keeps between steps."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._keeps:
            self.state_of_term, self.tensors_of_term = load_kept(Path(resume_from_checkpoint), self.args.device)


class Shake(TrainerCallback):
    """One random step before the first, unless training goes on from a later one."""

    def __init__(self, size: float):
        self.size = size

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the trained weights."""
        if state.global_step == 0:
            shake([param for param in kwargs["model"].parameters() if param.requires_grad], self.size, args.seed)


class Record(TrainerCallback):
    """Calls back after chosen optimiser steps; step 0 is the model as the attack finds it.

    Args:
        steps: step of this training -> step of the attack.
        record: is told the latter.
    """

    def __init__(self, steps: Mapping[int, int], record: Callable[[int, Any], None]):
        self.steps = steps
        self.record = record

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record step 0, unless training goes on from a later one."""
        if state.global_step == 0 and 0 in self.steps:
            self.record(0, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record this step if it is one of them."""
        if state.global_step in self.steps:
            self.record(self.steps[state.global_step], kwargs["model"])
