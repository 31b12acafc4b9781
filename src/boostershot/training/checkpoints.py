"""Checkpoints that can be trusted: one counts once its mark says that all was written, and only as it was written.

The mark is a sealed JSON file, written last: the checksums of the checkpoint's files, and which training they are of.
An empty file that is written first says that the checkpoint is ours: no other is ever removed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import operator
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boostershot.checksums import checksums, difference, sealed, unsealed
from boostershot.core.sharded import whole
from boostershot.errors import InputError
from boostershot.training.processes import decided_by_the_first

MARK = "whole"
BEGUN = "begun-by-boostershot"
_MAY_CHANGE = ("processes", "versions")  # a resume under others goes on, and says so
_STEP = re.compile(r"checkpoint-[0-9]+")
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "numpy")
_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "lr_scheduler_kwargs",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_steps",
    "num_train_epochs",
    "bf16",
    "seed",
    "data_seed",
)
_ADAPTER = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
_FROZEN = "frozen weights"


def training_facts(method: object, rows: Any, model: nn.Module, args: TrainingArguments) -> dict[str, Any]:
    """What a training is: from a checkpoint of another one no training goes on.

    Args:
        method: the defence or the attack; a dataclass.
        rows: what is read, tokenised; JSON data, or what JSON makes lists of.
        model: with the weights that are trained.
        args: of the training; `world_size` times the batch of one process counts as its batch.
    """
    trained = [[name, list(param.shape)] for name, param in model.named_parameters() if param.requires_grad]
    adapters = model.peft_config if isinstance(model, PeftModel) else {}
    return {
        "method": re.sub(r" at 0x[0-9a-f]+", "", repr(method)),
        "data": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
        "trained weights": hashlib.sha256(json.dumps(trained).encode()).hexdigest(),
        _FROZEN: [_samples(param) for param in model.parameters() if not param.requires_grad],
        "lora": {name: {key: getattr(one, key, None) for key in _ADAPTER} for name, one in adapters.items()},
        "batch": args.train_batch_size * args.world_size,
        "forward passes": _passes(model, args),
        **{key: getattr(args, key) for key in _SETTINGS},
        "processes": args.world_size,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _passes(model: nn.Module, args: TrainingArguments) -> list[Any]:
    """What a forward pass reads, where that decides dropout masks."""
    if not _drops(model):
        return []
    size = getattr(args, "micro_batch_size", None)
    bound = size if size is not None and size < args.train_batch_size else None
    return [bound, getattr(args, "tokens_per_micro_batch", None), getattr(args, "padded_rows", False)]


def _drops(model: nn.Module) -> bool:
    """Has a model any dropout, as a module or as a number that a module passes on?"""
    return any(
        "drop" in name and isinstance(value, float) and value > 0
        for module in model.modules()
        for name, value in [*vars(module).items(), *([("drop", module.p)] if isinstance(module, nn.Dropout) else [])]
    )


def _samples(param: Tensor) -> list[float]:
    """Four of a tensor's values, evenly spread: another model has others, and to read them costs nothing."""
    values = whole(param).reshape(-1)
    return values[:: max(1, values.numel() // 4)][:4].tolist()


class MarkWhole(TrainerCallback):
    """Writes the mark after the trainer has written everything else, and then removes older checkpoints.

    It takes `save_total_limit` over: the trainer removes before the newest one is marked, and by the files' times,
    so that after a step back of the clock it would remove the newest. It stands last of the callbacks, because what
    another one writes into a checkpoint belongs to it.

    Args:
        facts: of the training.
    """

    def __init__(self, facts: Mapping[str, Any] = MappingProxyType({})):
        self.facts = facts
        self.keep: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the limit over."""
        self.keep, args.save_total_limit = args.save_total_limit, None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Give it back."""
        args.save_total_limit = self.keep

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """No checkpoint after the last step: a trainer that goes on from it takes one step too many."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Nor at the end of an epoch that the last step ended or cut short."""
        self.on_step_end(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Mark the checkpoint of this step."""
        if dist.is_initialized():
            dist.barrier()  # every process writes the state of its own random numbers
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        mark(folder / f"checkpoint-{state.global_step}", self.facts)
        for older in [path for path in _by_step(folder) if _is_ours(path)][: -self.keep] if self.keep else ():
            _remove(older)


def begin(args: TrainingArguments, state: TrainerState) -> None:
    """Say that the checkpoint of this step is ours, before anything is in it; every process may be the first."""
    folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()


def mark(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Say that all of the checkpoint is written; atomically, because a torn mark would be taken for damage."""
    record = {"files": checksums(checkpoint, lambda name: name != MARK), "training": dict(facts)}
    partial = checkpoint.with_suffix(".mark")
    partial.write_text(json.dumps(sealed(record), indent=1), encoding="utf-8")
    os.replace(partial, checkpoint / MARK)


def last_whole_checkpoint(folder: Path, facts: Mapping[str, Any] = MappingProxyType({})) -> Path | None:
    """The latest checkpoint in `folder` that is what was written; of several processes the first finds it for all.

    Of those begun by a training of ours, unmarked ones (of a kill or a full disk) are removed, and so, with a warning,
    are damaged ones.

    Args:
        folder: of the checkpoints.
        facts: of the training that would go on from it.

    Raises:
        InputError: it is of another training (another method, other data, other weights or other settings), there is a
            checkpoint that no training of ours began, or a file in it that was not written with it.
    """
    return decided_by_the_first(lambda: _last_whole(folder, json.loads(json.dumps(dict(facts)))))


def _last_whole(folder: Path, facts: Mapping[str, Any]) -> Path | None:
    found = _by_step(folder)
    if foreign := [path for path in found if not _is_ours(path)]:
        raise InputError(
            f"{foreign[0]}: is no checkpoint of boostershot's; expected an output folder without any such (nothing was "
            "deleted)"
        )
    for path in reversed(found):
        if not (path / MARK).exists():
            _remove(path)
            continue
        try:
            record = unsealed(json.loads((path / MARK).read_text(encoding="utf-8")))
            damage = difference(path, record["files"])
        except ValueError:
            record, damage = {}, "its mark is unreadable"
        if damage:
            warnings.warn(f"{path}: is damaged ({damage}); not used, the training goes on from before it", stacklevel=2)
            _remove(path)
            continue
        if further := sorted(checksums(path).keys() - record["files"].keys() - {MARK}):
            raise InputError(
                f"{path}: holds {further[0]}, which was not written with it and might be loaded; expected nothing else "
                "in a checkpoint (delete the file, or the checkpoint)"
            )
        check_same(path, record["training"], facts)
        return path
    return None


def _by_step(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the earliest first."""
    found = [path for path in folder.glob("checkpoint-*") if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _is_ours(path: Path) -> bool:
    """Did a training of ours begin it? An empty one may be anybody's, and holds nothing to lose."""
    return (path / BEGUN).exists() or (path / MARK).exists() or not any(path.iterdir())


def _remove(path: Path) -> None:
    (path / MARK).unlink(missing_ok=True)  # first: a stop in between leaves no marked half
    for child in path.iterdir():  # and what says that it is ours last
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != BEGUN:
            child.unlink()
    shutil.rmtree(path)


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn where a training goes on under other versions or with other processes.

    Args:
        path: what it goes on from.
        then: the facts of the training that wrote it, as JSON gives them back.
        now: those of the present one, likewise.

    Raises:
        InputError: it is another training.
    """
    changed = [key for key in now if not (_alike if key == _FROZEN else operator.eq)(then.get(key), now[key])]
    refused = [key for key in changed if key not in _MAY_CHANGE]
    if refused:
        raise InputError(
            f"{path}: is of another training (other {', '.join(refused)}); expected the same one, or another output "
            f"folder (or delete {path.parent})"
        )
    for key in changed:
        warnings.warn(
            f"{path}: was written with {key} {then.get(key)}, and goes on with {now[key]}: the weights may differ in "
            "their last bits from those of a training without a stop",
            stacklevel=3,
        )


def _alike(then: Sequence[Sequence[float]] | None, now: Sequence[Sequence[float]]) -> bool:
    """Are these samples of the same weights, but for the rounding of an adapter that was merged into them?"""
    if then is None or [len(some) for some in then] != [len(some) for some in now]:
        return False
    return all(
        math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-7)
        for some, others in zip(then, now, strict=True)
        for a, b in zip(some, others, strict=True)
    )


def save_kept(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write what a defence's term keeps between steps into a checkpoint."""
    (folder / "kept.json").write_text(json.dumps(state), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "kept.safetensors")


def load_kept(folder: Path, device: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_kept` wrote."""
    state = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    return state, load_file(folder / "kept.safetensors", device=str(device))
