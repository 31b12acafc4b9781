"""transformers.Trainer with a defence's step in place of the loss; everything else is stock."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import ExportableState

from boostershot.core.lower import Lower
from boostershot.core.oracle import Oracle
from boostershot.core.sharded import whole
from boostershot.core.step import Batch
from boostershot.defenses.defense import Defense
from boostershot.training.arguments import ImmunizeArguments
from boostershot.training.checkpoints import MarkWhole, begin, last_whole_checkpoint, training_facts
from boostershot.training.compiled import compiled
from boostershot.training.data import NextRows, RolesCollator, RolesDataset, rows_of
from boostershot.training.lower import kept_below
from boostershot.training.whole import load_optimizer_state, load_weights, whole_optimizer_state, whole_weights

TENSORS = "defense.safetensors"  # beside a checkpoint's weights
LOWER = "lower"  # beside the checkpoints: what cached layers give, while the training lasts


def train(
    model: nn.Module,
    defense: Defense,
    args: ImmunizeArguments,
    rows: RolesDataset,
    processing_class: Any,
    callbacks: Sequence[TrainerCallback] = (),
) -> nn.Module:
    """The model trained with `defense`, from the last whole checkpoint in `args.output_dir` on.

    Raises:
        InputError: that checkpoint is of another training, or the model cannot be started above its cached layers.
    """
    facts = training_facts(defense, rows.facts(), model, args)
    checkpoint = last_whole_checkpoint(Path(str(args.output_dir)), facts)
    kept = Path(str(args.output_dir)) / LOWER
    with compiled(model, args) as stock:
        trainer = DefenseTrainer(model, defense, stock, rows, processing_class, [*callbacks, MarkWhole(facts)])
        if args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)  # the stock trainer prints every log where it shows no bar
        if args.cached_layers:
            read = [row for some in rows.roles.values() for row in some]
            autocast: Any = trainer.accelerator.autocast
            trainer.lower = kept_below(model, args.cached_layers, read, kept, args.micro_batch_size, autocast)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if args.cached_layers:
        shutil.rmtree(kept, ignore_errors=True)
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # computes as it did before


class DefenseState(TrainerCallback, ExportableState):
    """What a defence keeps between steps (`oracle.state`), saved and restored with the trainer's state."""

    def __init__(self, values: dict[str, Any] | None = None):
        self.values: dict[str, Any] = values if values is not None else {}

    def state(self) -> dict[str, Any]:
        """As the checkpoint stores it."""
        return {"args": {"values": self.values}, "attributes": {}}


class DefenseTrainer(Trainer):
    """Hands a defence's gradient to the optimiser; clipping, schedule, logging, checkpoints and resume are stock.

    Each logged step holds the defence's metrics and `tokens_per_second` (tokens that the model read).
    """

    def __init__(
        self,
        model: nn.Module,
        defense: Defense,
        args: ImmunizeArguments,
        rows: RolesDataset,
        processing_class: Any,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        if dist.is_initialized() and dist.get_world_size() != args.world_size:
            raise ValueError(
                f"the training arguments know of {args.world_size} of {dist.get_world_size()} processes; set use_cpu "
                "where there is no GPU"
            )
        args.restore_callback_states_from_checkpoint = True
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=RolesCollator(processing_class.pad_token_id),  # type: ignore[arg-type]
            train_dataset=rows,
            processing_class=processing_class,
            callbacks=[DefenseState(), NextRows(rows), *callbacks],
        )
        self.defense = defense
        self.tensors: dict[str, Tensor] = {}  # what it keeps between steps, beside the numbers of DefenseState
        self.lower: Lower | None = None  # layers that do not run in a step
        self.latest: dict[str, float] = {}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One step of the defence; leaves its gradient in `.grad`."""
        started = time.perf_counter()
        model.train()
        oracle = Oracle(
            self.accelerator.unwrap_model(model),
            micro_batch_size=self.args.micro_batch_size,  # type: ignore[attr-defined]
            tokens_per_micro_batch=self.args.tokens_per_micro_batch,  # type: ignore[attr-defined]
            padded=self.args.padded_rows,  # type: ignore[attr-defined]
            seed=self.args.seed,
            step=self.state.global_step,
            autocast=self.accelerator.autocast,  # type: ignore[arg-type]
            state=self._defense_state().values,
            tensors=self.tensors,
            lower=self.lower,
        )
        batch = {role: rows_of(rows) for role, rows in self._prepare_inputs(inputs).items()}  # type: ignore[arg-type]
        with self.lower.skipped() if self.lower else nullcontext():
            step = self.defense.step(oracle, Batch(**batch, parts=self.defense.reads()))
        for name, param, gradient in zip(oracle.names, oracle.params, step.gradient.tensors(), strict=True):
            param.grad = None if name in oracle.untouched else gradient  # the optimiser skips None
        seconds = time.perf_counter() - started
        self.latest = {
            **step.metrics,
            "seconds_per_step": seconds,
            "tokens_per_second": oracle.tokens / seconds,
        }
        return torch.tensor(step.loss, device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own figures with the defence's of the latest step."""
        if "loss" in logs:
            logs = {**logs, **self.latest}
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As one process saves it, also where the model is sharded."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = whole_weights(self.model)  # type: ignore[arg-type]
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """With the defence's tensors; MarkWhole's mark comes after."""
        begin(self.args, self.state)
        super()._save_checkpoint(model, trial)
        tensors = {name: whole(tensor).contiguous() for name, tensor in self.tensors.items()}
        if tensors and self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            save_file(tensors, folder / TENSORS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As one process saves them, also where the optimiser's state is sharded."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_optimizer_state(self.optimizer)  # type: ignore[arg-type]
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)  # type: ignore[union-attr]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """With the defence's tensors."""
        if self.is_fsdp_enabled:
            load_weights(self.model, Path(resume_from_checkpoint))  # type: ignore[arg-type]
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[arg-type]
        path = Path(resume_from_checkpoint) / TENSORS
        self.tensors = load_file(path, device=str(self.args.device)) if path.exists() else {}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """From files of any number of processes."""
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        load_optimizer_state(self.optimizer, state)  # type: ignore[arg-type]
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[union-attr]

    def _defense_state(self) -> DefenseState:
        """Looked up each time: a resume replaces the callback by the restored one."""
        return next(c for c in self.callback_handler.callbacks if isinstance(c, DefenseState))
