"""What stages leave in their folders: weights, losses during an attack, answers and their scores."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from boostershot.checksums import checksums, difference
from boostershot.core.sharded import is_sharded
from boostershot.data.rows import HarmfulPrompt
from boostershot.evaluation.evaluate import Answers, Scores, TaskAnswer
from boostershot.evaluation.losses import row_losses
from boostershot.pipeline.files import read_jsonl, write_json, write_jsonl
from boostershot.pipeline.kept import Kept
from boostershot.training.whole import whole_weights


class ByStep:
    """What an attack records at its steps, kept so that a resume finds what is still as it was written.

    Args:
        path: the JSON file that has it in the end; until then `checkpoints/` beside it holds the same with checksums.
    """

    def __init__(self, path: Path):
        self.path = path
        self._kept = Kept(path.parent / "checkpoints" / f"{path.stem}.txt")

    def add(self, step: int, value: Any) -> None:
        """The value at a step (again, after a resume, the same); the file has the steps in their order."""
        self._kept.add({str(step): value})
        write_json(self.path, dict(sorted(self._kept.values.items(), key=lambda item: int(item[0]))))

    def lacks(self, steps: Iterable[int]) -> bool:
        """Is there a step without a value? A resumed attack does not pass the steps before its checkpoint again."""
        return not {str(step) for step in steps} <= self._kept.values.keys()


class SavedWeights:
    """`step-N/`: an attacked model's weights, and whether they are still what was written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._kept = Kept(folder / "checkpoints" / "saved.txt")

    def add(self, step: int, model: Any, tokenizer: Any) -> None:
        """Save the weights at a step."""
        save(model, tokenizer, self.folder / f"step-{step}", inner="")
        self._kept.add({str(step): checksums(self.folder / f"step-{step}")})

    def lacks(self, steps: Iterable[int]) -> bool:
        """Is there a step whose weights are missing or damaged?"""
        known = self._kept.values
        return any(
            str(step) not in known or difference(self.folder / f"step-{step}", known[str(step)]) for step in steps
        )


class Losses:
    """Harmful losses of a model in training, at chosen steps, on named sets of rows."""

    def __init__(self, path: Path, kinds: dict[str, list[Any]], pad_id: int):
        self.by_step = ByStep(path)
        self.kinds = kinds
        self.pad_id = pad_id

    def measure(self, step: int, model: Any) -> dict[str, list[float]]:
        """The losses at this step, which are added to the file (again, after a resume, to the same values).

        Raises:
            FloatingPointError: one is not finite.
        """
        record = {kind: row_losses(model, rows, self.pad_id) if rows else [] for kind, rows in self.kinds.items()}
        if not all(math.isfinite(loss) for losses in record.values() for loss in losses):
            raise FloatingPointError(f"a harmful loss is not finite at step {step}")
        self.by_step.add(step, record)
        return record


def save(model: Any, tokenizer: Any, folder: Path, inner: str | None = None) -> None:
    """Write a PEFT adapter, or a whole model, as safetensors; of several processes, all call and the first writes."""
    name = inner if inner is not None else ("adapter" if hasattr(model, "peft_config") else "model")
    weights = whole_weights(model) if is_sharded(model.parameters()) else None
    if not dist.is_initialized() or dist.get_rank() == 0:
        model.save_pretrained(folder / name, safe_serialization=True, state_dict=weights)
        tokenizer.save_pretrained(folder / name)


def weights_in(folder: Path) -> Path:
    """Where an immunize stage keeps what it trained."""
    return folder / ("adapter" if (folder / "adapter").exists() else "model")


def finished(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Drop the checkpoints of a training that is over."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return facts


def write_answers(folder: Path, answers: Answers) -> None:
    """`answers.jsonl`, an answer to a harmful prompt a line, and `task.jsonl`: what a model said, unjudged."""
    losses = dict(zip(answers.loss_ids, answers.losses, strict=True))
    write_jsonl(
        folder / "answers.jsonl",
        [
            {
                "id": row.id,
                "category": row.category,
                "prompt": row.prompt,
                "answer": answer,
                "harmful_loss": losses.get(row.id),
            }
            for row, answer in zip(answers.prompts, answers.answers, strict=True)
        ],
    )
    write_jsonl(folder / "task.jsonl", [asdict(answer) for answer in answers.task])


def read_answers(folder: Path) -> Answers:
    """What `write_answers` wrote; the harmful rows come back without their reference answers."""
    lines = read_jsonl(folder / "answers.jsonl")
    known = {line["id"]: line["harmful_loss"] for line in lines if line["harmful_loss"] is not None}
    return Answers(
        prompts=[HarmfulPrompt(line["id"], line["prompt"], line["category"]) for line in lines],
        answers=[line["answer"] for line in lines],
        task=[TaskAnswer(**line) for line in read_jsonl(folder / "task.jsonl")],
        losses=list(known.values()),
        loss_ids=list(known),
    )


def write_scores(folder: Path, scores: Scores) -> None:
    """The verdicts, with and without the answers, and the task's answers, one a line."""
    losses = dict(zip(scores.loss_ids, scores.losses, strict=True))
    verdicts = [
        {"id": a.id, "category": a.category, **asdict(a.verdict), "harmful_loss": losses.get(a.id)}
        for a in scores.harmful
    ]
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    write_jsonl(
        folder / "generations.jsonl",
        [{**v, "answer": a.answer} for v, a in zip(verdicts, scores.harmful, strict=True)],
    )
    write_jsonl(folder / "task.jsonl", [asdict(answer) for answer in scores.task])


def scores_record(scores: Scores) -> dict[str, Any]:
    """The figures of a row of results.json."""
    return {
        "judge": scores.judge,
        "harmful_score": scores.harmful_score,
        "harmful_score_ci": scores.harmful_score_ci,
        "harmful_score_bounds": scores.harmful_score_bounds,
        "finetune_accuracy": scores.finetune_accuracy,
        "finetune_accuracy_ci": scores.finetune_accuracy_ci,
        "task_log_likelihood": scores.task_log_likelihood,
        "task_log_likelihood_ci": scores.task_log_likelihood_ci,
        "win_rate": scores.win_rate,
        "win_rate_ci": scores.win_rate_ci,
        "n_compared": scores.n_compared,
        "harmful_loss": scores.harmful_loss,
        "harmful_loss_ci": scores.harmful_loss_ci,
        "n_harmful": len(scores.harmful),
        "n_unknown": scores.n_unknown,
        "n_truncated": scores.n_truncated,
        "n_task": len(scores.task),
        "refusal_share": scores.refusal_share,
        "refusal_share_ci": scores.refusal_share_ci,
        "degenerate_share": scores.degenerate_share,
        "degenerate_share_ci": scores.degenerate_share_ci,
        "off_topic_share": scores.off_topic_share,
        "off_topic_share_ci": scores.off_topic_share_ci,
    }
