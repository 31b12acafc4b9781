"""After the alignment: the stages that follow it, each resumed where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from boostershot.checksums import checksum, sealed, unsealed
from boostershot.core.oracle import START, Oracle
from boostershot.core.sharded import like, local, whole
from boostershot.defenses.finishing import Finishing
from boostershot.training.arguments import ImmunizeArguments
from boostershot.training.checkpoints import check_same
from boostershot.training.data import RolesDataset
from boostershot.training.metrics import MetricsFile
from boostershot.training.processes import decided_by_the_first
from boostershot.training.trainer import train


@dataclass(frozen=True)
class Kept:
    """The trainable weights before the alignment (`start`), after it (0) and after each stage (1, 2, ...), in files.

    Beside each lies a sealed record of its checksum and of the training.
    """

    folder: Path
    model: nn.Module
    args: ImmunizeArguments
    facts: Mapping[str, Any]

    def save(self, name: str | int) -> None:
        """Write the present weights, after their record; a file is there whole or not at all."""
        weights = {n: whole(param).contiguous() for n, param in self._trainable().items()}
        if self.args.should_save:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / "partial.safetensors"
            save_file(weights, partial)
            record = sealed({"sha256": checksum(partial), "training": self.facts})
            self._record(name).write_text(json.dumps(record), encoding="utf-8")
            os.replace(partial, self._path(name))

    def has(self, name: str | int) -> bool:
        """Were these weights written, and are they still what was? What the first process finds counts for all.

        Raises:
            InputError: they are of another training.
        """
        return decided_by_the_first(lambda: self._has(name))

    def _has(self, name: str | int) -> bool:
        path = self._path(name)
        try:
            record = unsealed(json.loads(self._record(name).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return False
        if not path.exists() or record["sha256"] != checksum(path):
            return False
        check_same(path, record["training"], self.facts)
        return True

    def load(self, name: str | int) -> dict[str, Tensor]:
        """The weights, by parameter name, on the device of the training."""
        return load_file(self._path(name), device=str(self.args.device))

    def bring_back(self, name: str | int) -> None:
        """Give the model these weights."""
        self.model.to(self.args.device)
        weights = self.load(name)
        with torch.no_grad():
            for key, param in self._trainable().items():
                local(param.detach()).copy_(local(like(weights[key], param)))

    def _path(self, name: str | int) -> Path:
        return self.folder / f"weights-{name}.safetensors"

    def _record(self, name: str | int) -> Path:
        return self._path(name).with_suffix(".json")

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: param for name, param in self.model.named_parameters() if param.requires_grad}


def align_and_finish(
    model: nn.Module,
    align: Callable[[], object],
    stages: Sequence[Finishing],
    args: ImmunizeArguments,
    rows: Callable[[Mapping[str, int]], RolesDataset],
    tokenizer: Any,
    facts: Mapping[str, Any],
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Align the model in place, and run the stages that follow. What was finished before a stop is not done again.

    Weights between the stages lie in `finish/` of the output folder, and so do each stage's own checkpoints and
    `metrics.jsonl`.

    Args:
        model: with the weights before the alignment.
        align: aligns it, in place.
        stages: those that follow, in order.
        args: of the alignment.
        rows: the rows of the roles that a training reads.
        tokenizer: the model's.
        facts: of the alignment and all stages together.
        callbacks: of the stages' own trainings.

    Raises:
        InputError: what lies there is of another training.
    """
    kept = Kept(Path(str(args.output_dir)) / "finish", model, args, json.loads(json.dumps(dict(facts))))
    if not kept.has("start"):
        kept.save("start")
    done = max((i for i in range(len(stages)) if kept.has(i)), default=None)
    if done is None:
        align()
        done = 0
        kept.save(done)
    else:
        kept.bring_back(done)
    for number, stage in enumerate(stages[done:], done + 1):
        _finish(model, stage, kept, args, rows, tokenizer, kept.folder / str(number), callbacks)
        if number < len(stages):
            kept.save(number)


def _finish(
    model: nn.Module,
    stage: Finishing,
    kept: Kept,
    args: ImmunizeArguments,
    rows: Callable[[Mapping[str, int]], RolesDataset],
    tokenizer: Any,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """One stage: its change of the weights, and its training if it has one."""
    further = stage.finish(
        Oracle(model, seed=args.seed, tensors={START + name: weights for name, weights in kept.load("start").items()})
    )
    if further is None:
        return
    own = replace(args, output_dir=str(folder), max_steps=further.steps, learning_rate=further.lr)
    folder.mkdir(parents=True, exist_ok=True)
    callbacks = [*callbacks, MetricsFile(folder / "metrics.jsonl")]
    train(model, further.objective, own, rows(further.objective.reads()), tokenizer, callbacks)
