"""What an attacker sets for a training of any kind, beside what trl's own configurations have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from boostershot.attacks.attack import Optimizer
from boostershot.attacks.optimizers import check_optimizer
from boostershot.training.arguments import DEFAULT_LORA, on_one_device


@dataclass
class AttackerArguments:
    """Stands before one of trl's configurations: no bf16, no activation checkpointing, and what trl does not know.

    A launcher's mixed precision changes nothing here, and a process trains on one device.

    Args:
        adapter: `continue` trains on what is there (the immunised adapter, or all weights if it has none), `fresh`
            merges it and trains a new LoRA adapter, `full` merges it and trains all weights.
        optimizer: adamw, sgd, adafactor or lion.
        momentum: of the optimiser; its own default if not given (see `optimizer_of`).
        lora: `dict(rank, alpha, dropout, targets)` of the adapter that `adapter: fresh` attaches.
        refactor: None, `norms` (their gains go into the matrices that read them) or `adapter` (its factors become those
            of the SVD of their product): how the released weights are written anew, outputs unchanged, before training.
        record_steps: the optimiser steps after which the training calls `record`; 0 is before the first.

    Raises:
        ValueError: the adapter mode, the re-factoring or the optimiser is none of these.
    """

    output_dir: str | None = field(default="attacked")
    learning_rate: float = field(default=1e-4)
    lr_scheduler_type: str = field(default="constant")
    weight_decay: float = field(default=0.1)
    bf16: bool | None = field(default=False)
    gradient_checkpointing: bool = field(default=False)
    logging_steps: float = field(default=1)
    report_to: str | list[str] | None = field(default="none")
    adapter: str = field(default="continue")
    optimizer: Optimizer = field(default="adamw")
    momentum: float | None = field(default=None)
    lora: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_LORA))
    refactor: str | None = field(default=None)
    record_steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.adapter not in ("continue", "fresh", "full"):
            raise ValueError(f"adapter is {self.adapter!r}; expected continue, fresh or full")
        if self.refactor not in (None, "norms", "adapter"):
            raise ValueError(f"refactor is {self.refactor!r}; expected norms, adapter or None")
        check_optimizer(self.optimizer)
        super().__post_init__()  # type: ignore[misc] - of the configuration that comes after this class
        on_one_device(self)  # type: ignore[arg-type] - with that configuration it is one of transformers'
        if not self.bf16:
            self.mixed_precision = "no"  # whatever a launcher says: attacks stay in float32
