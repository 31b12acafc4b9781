"""results.json: the rows of a run, what they say together, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from boostershot.config import Recipe
from boostershot.evaluation.statistics import bootstrap_interval
from boostershot.pipeline.agreement import agreement
from boostershot.pipeline.comparisons import Read, Verdicts, comparisons
from boostershot.pipeline.files import read_json
from boostershot.pipeline.rewards import earned
from boostershot.pipeline.store import result
from boostershot.pipeline.summary import observations, read_verdicts, relative_costs, summarise

SCHEMA = 1
FIGURES = (
    "harmful_score",
    "harmful_score_ci",
    "harmful_score_bounds",
    "finetune_accuracy",
    "finetune_accuracy_ci",
    "task_log_likelihood",
    "task_log_likelihood_ci",
    "win_rate",
    "win_rate_ci",
    "n_compared",
    "harmful_loss",
    "harmful_loss_ci",
    "n_harmful",
    "n_unknown",
    "n_truncated",
    "n_task",
    "refusal_share",
    "refusal_share_ci",
    "degenerate_share",
    "degenerate_share_ci",
    "off_topic_share",
    "off_topic_share_ci",
)


@dataclass(frozen=True)
class Results:
    """A finished run: its folder and the content of its results.json."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One for each defence, attack, recorded step, seed and judge."""
        return self.content["rows"]

    @property
    def summary(self) -> Sequence[Mapping[str, Any]]:
        """The rows aggregated over seeds, with differences to SFT."""
        return self.content["summary"]

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """Rows whose stage failed."""
        return [row for row in self.rows if row["status"] == "failed"]


@dataclass(frozen=True)
class Cell:
    """One defence under one attack, asked in one way, with one seed; stage folders as far as they were reached."""

    defense: str
    attack: str
    asked: str  # a name of the attack's askings
    seed: int
    immunized: Path | None = None
    attacked: Path | None = None
    evaluated: Mapping[tuple[int, str], Path] | None = None  # (step, judge's label) -> evaluation
    judge_errors: Mapping[str, str] | None = None  # judge's label -> why it did not judge all
    error: str | None = None
    apart: bool = False  # asked in another way than the attacker's own

    @property
    def label(self) -> str:
        """The attack's label, with the way of asking where it is not the attacker's own."""
        return f"{self.attack} ({self.asked})" if self.apart else self.attack


def assemble(
    recipe: Recipe,
    identity: str,
    folder: Path,
    cells: Sequence[Cell],
    baseline: Mapping[str, Path],
    baseline_errors: Mapping[str, str],
    judges: Sequence[Mapping[str, Any]],
    preference: Mapping[str, Any] | None = None,
) -> Results:
    """Everything that results.json holds, from the stages of a run.

    Args:
        recipe: what was run.
        identity: of the recipe before it was scaled (`report.reading.recipe_hash`), so that no report shows the results
            beside another's values.
        folder: of the run.
        cells: with their stages.
        baseline: judge's label -> the evaluation of the base model.
        baseline_errors: judge's label -> why there is none.
        judges: what there is to say about each.
        preference: what there is to say about who compares answers with references.
    """
    methods = {label: str(defense["method"]) for label, defense in recipe.defenses.items()}
    rows = [row for cell in cells for row in _rows(recipe, cell)]
    read = _each_once(partial(read_verdicts, folder / "stages"))
    base = {"defense": None, "attack": None, "asked": None, "template": None}
    base |= {"adapter": None, "seed": None, "attack_step": 0, "p": None}
    # A row for each judge, scored or not: readers take the first one's for the headline.
    baseline_rows = [_row(recipe, base, baseline.get(j), j, baseline_errors.get(j)) for j in _labels(recipe)]
    content = {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "identity": identity,
        "baseline": baseline_rows,
        "rows": rows,
        "summary": summarise(rows, methods, read),
        "comparisons": comparisons(rows, read),
        "costs": relative_costs(list(_costs(cells)), methods),
        "judges": list(judges),
        "preference": preference,
        "agreement": agreement([*baseline_rows, *rows], _labels(recipe), read),
        "observations": observations(rows, methods),
        "rewards": earned(recipe, cells, baseline),
    }
    return Results(folder, json.loads(json.dumps(content)))  # as a reader of the file sees it


def _each_once(read: Read) -> Read:
    """The same, but a stage's files are read once."""
    known: dict[str | None, Verdicts | None] = {}

    def remembered(row: Mapping[str, Any]) -> Verdicts | None:
        if row["stage"] not in known:
            known[row["stage"]] = read(row)
        return known[row["stage"]]

    return remembered


def _rows(recipe: Recipe, cell: Cell) -> Iterator[dict[str, Any]]:
    settings = recipe.attacks[cell.attack]
    losses = read_json(cell.attacked / "losses.json") if cell.attacked else {}
    for step in settings.eval_steps:
        known = {
            "defense": cell.defense,
            "attack": cell.label,
            "asked": cell.asked,
            "template": settings.template,
            "adapter": settings.adapter if settings.attack.trains else None,
            "seed": cell.seed,
            "attack_step": step,
            "p": settings.attack.p if settings.attack.trains else None,
        }
        measured = losses.get(str(step), {})
        own, held_out = measured.get("own"), measured.get("held_out")
        control = step > 0 and not settings.judged  # its losses are followed, whoever would judge its answers
        for judge in _labels(recipe)[: 1 if control else None]:
            evaluation = (cell.evaluated or {}).get((step, judge))
            row = _row(recipe, known, evaluation, judge, (cell.judge_errors or {}).get(judge, cell.error))
            row["harmful_loss_own"] = sum(own) / len(own) if own else None
            if evaluation is None and held_out and control:
                row["harmful_loss"] = sum(held_out) / len(held_out)
                row["harmful_loss_ci"] = list(bootstrap_interval(held_out)) if len(held_out) > 1 else None
                row["status"], row["error"] = "done", None
            yield row


def _labels(recipe: Recipe) -> list[str]:
    """The judges' labels; the first gives the headline harmful score."""
    return [judge["label"] for judge in recipe.evaluate.judges]


def _row(
    recipe: Recipe, known: Mapping[str, Any], evaluation: Path | None, judge: str, error: str | None = None
) -> dict[str, Any]:
    figures: Mapping[str, Any] = result(evaluation) if evaluation else {}
    return {
        "model": recipe.model.id,
        **known,
        "split": recipe.evaluate.split,
        **{figure: figures.get(figure) for figure in FIGURES},
        "harmful_loss_own": None,
        "judge": judge,
        "task": recipe.data.task.source,
        "status": "done" if evaluation else "failed",
        "error": None if evaluation else error,
        "stage": evaluation.name if evaluation else None,
    }


def _costs(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    seen = set()
    for cell in cells:
        if cell.immunized is not None and (cell.defense, cell.seed) not in seen:
            seen.add((cell.defense, cell.seed))
            yield {"defense": cell.defense, "seed": cell.seed, **result(cell.immunized)}
