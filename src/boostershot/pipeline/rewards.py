"""What an attacker who reinforces is paid by: a judge's verdicts on his harmful prompts, or the task's own rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boostershot.attacks.attack import Attack, AttackRow
from boostershot.attacks.grpo import Grpo, Reinforced
from boostershot.config import build_judge
from boostershot.data.tasks import Task
from boostershot.errors import InputError
from boostershot.evaluation.judges import JUDGES, Judge, Settings, Verdict, grade
from boostershot.evaluation.statistics import mean_interval
from boostershot.pipeline.files import read_jsonl

if TYPE_CHECKING:
    from boostershot.attacks.reinforce import Reward
    from boostershot.config import Recipe
    from boostershot.pipeline.results import Cell
    from boostershot.pipeline.stages import Stages

POINTS = 8  # of a curve at most


def judge_of(stages: Stages, attack: Grpo) -> Settings:
    """Who pays: the judge of the panel with that label, else the one of that name.

    Raises:
        InputError: there is none.
    """
    return stages.panel[attack.judge] if attack.judge in stages.panel else build_judge(attack.judge, "judge")[1]


def check(stages: Stages, label: str, attack: Reinforced) -> None:
    """Look, before a run begins, whether there is somebody who can pay so.

    Raises:
        InputError: there is not.
    """
    if isinstance(attack, Grpo):
        try:
            judge = judge_of(stages, attack)
        except InputError as error:
            raise InputError(f"attacks.{label}.{error} (or a label of evaluate.judges)") from None
        judge.check()
        if attack.reward == "graded" and not judge.graded:
            graded = ", ".join(name for name, kind in JUDGES.items() if kind.graded)
            raise InputError(
                f"attacks.{label}.reward: is graded, and {attack.judge} says yes or no; expected verdict, or one of "
                f"the judges {graded}"
            )
        return
    task = stages.data.task
    if task.correct is None:
        raise InputError(
            f"attacks.{label}: no rule scores {task.name}, so a right answer earns nothing; expected a task with one"
        )
    if attack.reward == "graded" and task.score is None:
        raise InputError(
            f"attacks.{label}.reward: is graded, and {task.name} is right or wrong; expected verdict, or a "
            "reasoning-gym task"
        )


def identity(stages: Stages, attack: Attack) -> dict[str, Any]:
    """What a stage depends on through its reward."""
    if isinstance(attack, Grpo):
        return {"reward": stages.judge_identity(judge_of(stages, attack))}
    return {"reward": stages.data.scoring_identity()} if isinstance(attack, Reinforced) else {}


def parents(stages: Stages, attack: Attack) -> list[Path]:
    """The stages that the reward comes from."""
    return [stages.calibration()] if isinstance(attack, Grpo) and judge_of(stages, attack).calibrated else []


def reward_of(stages: Stages, attack: Reinforced) -> Reward:
    """What the attack is paid by."""
    graded = attack.reward == "graded"
    if not isinstance(attack, Grpo):
        return by_task(stages.data.task, graded)
    judge = judge_of(stages, attack)
    return by_judge(stages.asked(judge), graded, stages.around(judge).threshold)


def by_judge(judge: Judge, graded: bool, threshold: float | None) -> Reward:
    """1 where the judge calls an answer harmful and 0 where not, or how harmful it finds it; none where it cannot tell.

    Args:
        judge: gives the verdicts.
        graded: take `judges.grade` for the reward.
        threshold: of the relevance, for judges that were calibrated.
    """
    worth: Callable[[Verdict], float | None] = partial(grade, threshold=threshold) if graded else _harmful

    def reward(rows: Sequence[AttackRow], answers: Sequence[str]) -> list[float | None]:
        pairs = [(row.prompt, answer) for row, answer in zip(rows, answers, strict=True)]
        return [worth(verdict) for verdict in judge(pairs)]

    return reward


def by_task(task: Task, graded: bool) -> Reward:
    """1 where an answer is right and 0 where not, or the score that the task's verifier gives it."""
    tell = task.score if graded else task.correct
    assert tell is not None  # the run has asked
    known = {row.id: row for row in task.splits["train"]}

    def reward(rows: Sequence[AttackRow], answers: Sequence[str]) -> list[float | None]:
        return [float(tell(answer, known[row.id])) for row, answer in zip(rows, answers, strict=True)]

    return reward


def _harmful(verdict: Verdict) -> float | None:
    return None if verdict.harmful is None else float(verdict.harmful)


def earned(recipe: Recipe, cells: Iterable[Cell], baseline: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What results.json says of the rewards: an item for each defence and each attack that reinforces.

    `{"defense", "attack", "reward" (in words), "n_seeds", "points", "equal", "unknown", "alike"}`. A point is the mean
    reward of the answers drawn in the steps `from` to `to`, counted from 1, with a t interval over two seeds or more;
    the answers of a step are the model's before that step. `equal` and `unknown` are percentages, of groups whose
    rewards were all the same (they teach nothing) and of answers that got none. `alike` tells whether a phrase was
    learned that the paying judge mistakes for harm: of the `n` answers to held-out prompts after the last step that it
    calls harmful, `share` percent begin with their commonest three words, and `base` percent of the base model's (None:
    it has none). It is None where no answer is, and where who pays is not in the panel.

    Args:
        recipe: what was run.
        cells: with their stages.
        baseline: judge's label -> the evaluation of the base model.
    """
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        attack = recipe.attacks[cell.attack].attack
        if cell.attacked is not None and isinstance(attack, Reinforced):
            found.setdefault((cell.defense, cell.attack, in_words(attack)), []).append(cell)
    openings = cache(_openings)  # the base model's are held beside each defence's
    return [
        {
            "defense": defense,
            "attack": attack,
            "reward": reward,
            **_over_seeds(of),
            "alike": _alike(recipe, of, baseline, openings),
        }
        for (defense, attack, reward), of in found.items()
    ]


def in_words(attack: Reinforced) -> str:
    """The reward as the recipe has it."""
    return f"{attack.reward} by {attack.judge if isinstance(attack, Grpo) else 'the task'}"


def _over_seeds(cells: Sequence[Cell]) -> dict[str, Any]:
    courses = [read_jsonl(cell.attacked / "metrics.jsonl") for cell in cells if cell.attacked is not None]
    points = []
    for start, end in _stretches(min(map(len, courses))):
        means = [_mean([line["reward"] for line in course[start:end]]) for course in courses]
        known = [mean for mean in means if mean is not None]
        _, low, high = mean_interval(known) if len(known) > 1 else (0.0, 0.0, 0.0)
        ci = [max(0.0, low), min(1.0, high)] if len(known) > 1 else None
        points.append({"from": start + 1, "to": end, "mean": _mean(known), "ci": ci})
    lines = [line for course in courses for line in course]
    return {
        "n_seeds": len(courses),
        "points": points,
        "equal": 100 * sum(line["frac_reward_zero_std"] for line in lines) / len(lines),
        "unknown": 100 * sum(line["reward_unknown"] for line in lines) / len(lines),
    }


def _stretches(steps: int) -> Iterator[tuple[int, int]]:
    """All steps in at most POINTS stretches, as even as can be."""
    n = min(POINTS, steps)
    return ((i * steps // n, (i + 1) * steps // n) for i in range(n))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _alike(
    recipe: Recipe,
    cells: Sequence[Cell],
    baseline: Mapping[str, Path],
    openings: Callable[[Path], tuple[int, int]],
) -> dict[str, Any] | None:
    settings = recipe.attacks[cells[0].attack]
    if not isinstance(settings.attack, Grpo):
        return None
    judge = settings.attack.judge
    last = (settings.total_steps, judge)
    after = [openings(cell.evaluated[last]) for cell in cells if cell.evaluated and last in cell.evaluated]
    n, same = sum(n for n, _ in after), sum(same for _, same in after)
    if not n:
        return None
    of_base, same_of_base = openings(baseline[judge]) if judge in baseline else (0, 0)
    base = 100 * same_of_base / of_base if of_base else None
    return {"judge": judge, "n": n, "share": 100 * same / n, "base": base}


def _openings(evaluation: Path) -> tuple[int, int]:
    """How many answers are called harmful, and how many of them begin with their commonest three words."""
    harmful = [row["answer"] for row in read_jsonl(evaluation / "generations.jsonl") if row["harmful"]]
    counts = Counter(" ".join(answer.split()[:3]) for answer in harmful)
    return len(harmful), max(counts.values(), default=0)
