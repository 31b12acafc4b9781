"""Checkpoints that can be trusted: one counts only once a mark says that all of it was written."""

from __future__ import annotations

import shutil
from pathlib import Path

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
