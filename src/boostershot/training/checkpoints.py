"""Checkpoints that can be trusted: one counts only once a mark says that all of it was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

MARK = "whole"


class MarkWhole(TrainerCallback):
    """Writes the mark after the trainer has written everything else."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """No checkpoint after the last step: a trainer that goes on from it takes one step too many."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Mark the checkpoint of this step."""
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / MARK).touch()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The latest marked checkpoint in `folder`; unmarked ones (a kill or a full disk) are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / MARK).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def save_kept(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write what a defence's term keeps between steps into a checkpoint."""
    (folder / "kept.json").write_text(json.dumps(state), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "kept.safetensors")


def load_kept(folder: Path, device: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_kept` wrote."""
    state = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    return state, load_file(folder / "kept.safetensors", device=str(device))
