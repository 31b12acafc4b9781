"""The user fine-tuning stage: `trl.SFTTrainer` on the attacker's rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.core.batch import Rows
from boostershot.core.losses import lay_out, token_losses
from boostershot.data.format import Format
from boostershot.errors import InputError
from boostershot.training.arguments import DEFAULT_LORA, attach_lora
from boostershot.training.checkpoints import MarkWhole, last_whole_checkpoint, training_facts


@dataclass
class AttackArguments(SFTConfig):
    """`trl.SFTConfig` with every default that would surprise replaced: no bf16, no activation checkpointing.

    Args:
        adapter: `continue` trains on what is there (the immunised adapter, or all weights if it has none), `fresh`
            merges it and trains a new LoRA adapter, `full` merges it and trains all weights.
        lora: `dict(rank, alpha, dropout, targets)` of the adapter that `adapter: fresh` attaches.
        record_steps: the optimiser steps after which `attack` calls `record`; 0 is before the first.
    """

    output_dir: str = field(default="attacked")  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: float = field(default=1e-4)
    lr_scheduler_type: str = field(default="constant")  # type: ignore[assignment]
    weight_decay: float = field(default=0.1)
    bf16: bool = field(default=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    gradient_checkpointing: bool = field(default=False)
    logging_steps: float = field(default=1)
    max_length: int | None = field(default=None)  # rows come tokenised and cut
    report_to: str = field(default="none")  # type: ignore[assignment]
    adapter: str = field(default="continue")
    lora: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_LORA))
    record_steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.adapter not in ("continue", "fresh", "full"):
            raise ValueError(f"adapter is {self.adapter!r}; expected continue, fresh or full")
        super().__post_init__()


def attack(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable[Mapping[str, Any]],
    attack: Attack,
    args: AttackArguments,
    *,
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
        args: which weights, and the attacker's learning rate, batch and steps.
        template: auto, chat, alpaca or raw: how the attacker writes prompts.
        max_length: as for `immunize`.
        record: called with the step and the model after each of `args.record_steps`.

    Raises:
        InputError: a row is bad, or there are too few rows.
        FloatingPointError: the loss is not finite.
    """
    set_seed(args.seed)
    form = Format.choose(tokenizer, template)
    pool = [AttackRow(str(row["id"]), row["prompt"], row["completion"], bool(row["harmful"])) for row in dataset]
    phases = attack.phases(pool, args.seed)
    model = adapted(model, args.adapter, args.lora)
    done = 0
    for number, (phase, steps) in enumerate(zip(phases, lengths(phases, args), strict=True)):
        trainer = _trainer(model, form, phase, args, number, (done, steps), max_length, record, callbacks)
        facts = training_facts(attack, list(trainer.train_dataset), model, trainer.args)  # type: ignore[arg-type]
        trainer.add_callback(MarkWhole(facts))
        checkpoint = last_whole_checkpoint(Path(str(trainer.args.output_dir)), facts, removing=args.should_save)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        model = trainer.accelerator.unwrap_model(trainer.model)
        done += steps
    return model


def lengths(phases: Sequence[Phase], args: AttackArguments) -> list[int]:
    """The optimiser steps of each phase: its share of `max_steps`, or epochs over its own rows."""
    if args.max_steps <= 0:
        batch = args.per_device_train_batch_size
        return [math.ceil(args.num_train_epochs * math.ceil(len(phase.rows) / batch)) for phase in phases]
    ends = [round(args.max_steps * sum(p.share for p in phases[: i + 1])) for i in range(len(phases))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _trainer(
    model: Any,
    form: Format,
    phase: Phase,
    args: AttackArguments,
    number: int,
    steps: tuple[int, int],
    max_length: int,
    record: Callable[[int, Any], None],
    callbacks: Sequence[TrainerCallback],
) -> TrieSFTTrainer:
    """The trainer of one phase; `steps` are those before it and its own."""
    before, own = steps
    mine = copy.copy(args)
    mine.output_dir = str(Path(str(args.output_dir)) / f"phase-{number}")
    mine.max_steps = own
    mine.dataset_kwargs = {"skip_prepare_dataset": True}  # rows are tokenised already
    rows = [
        form.asked(row.asking).tokenize(row.prompt, row.completion, name=row.id, max_length=max_length)
        for row in phase.rows
    ]
    at = {step - before: step for step in args.record_steps if before < step <= before + own or step == number == 0}
    trainer = TrieSFTTrainer(
        model=model,
        args=mine,
        train_dataset=Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in rows]),
        processing_class=form.tokenizer,
        callbacks=[Record(at, record), *callbacks],
    )
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # the stock trainer prints every log where it shows no bar
    return trainer


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


class TrieSFTTrainer(SFTTrainer):
    """SFTTrainer that reads each batch as a token trie: the same loss and gradient for fewer tokens."""

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
