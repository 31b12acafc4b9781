"""From a recipe's training section to `TrainingArguments`."""

from __future__ import annotations

from typing import Any

from boostershot.config import AttackSettings, Runtime, Training

CHECKPOINT_EVERY = 10  # optimiser steps between checkpoints, so that little is lost to a stop


def training_arguments(settings: Training, seed: int, processes: int = 1) -> dict[str, Any]:
    """What both kinds of training pass on to `TrainingArguments`; the batch is that of all processes together."""
    warm = settings.schedule == "constant" and settings.warmup_steps > 0
    schedule = "constant_with_warmup" if warm else settings.schedule  # Hugging Face's plain one ignores the warm-up
    length = {"max_steps": settings.steps} if settings.steps else {"num_train_epochs": settings.epochs}
    return {
        **length,
        "learning_rate": settings.lr,
        "per_device_train_batch_size": settings.batch // processes,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "lr_scheduler_type": schedule,
        "warmup_steps": settings.warmup_steps,
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": CHECKPOINT_EVERY,
        "save_total_limit": 2,  # where the newest is found damaged, the one before it is gone on from
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def speed_arguments(runtime: Runtime) -> dict[str, Any]:
    """What the alignment and the attacks that fine-tune pass on of the settings that change no result."""
    return {"activation_checkpointing": runtime.checkpointing, "torch_compile": runtime.compile}


def attack_arguments(settings: AttackSettings, seed: int) -> dict[str, Any]:
    """What an attack passes on to `AttackArguments`: those, its weights, its optimiser, its steps to record."""
    return {
        **training_arguments(settings, seed),
        "adapter": settings.adapter,
        "refactor": settings.refactor,
        "lora": settings.lora.model_dump() if settings.lora else {},
        "optimizer": settings.optimizer,
        "momentum": settings.momentum,
        "record_steps": list(settings.eval_steps),
    }
