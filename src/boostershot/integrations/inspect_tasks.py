"""Inspect's tasks boostershot/harmful_score and boostershot/over_refusal.

Loaded by Inspect alone, through the entry point in pyproject.toml: the decorators need inspect-ai on import.
"""

# pyright: reportMissingImports=false
# (inspect-ai is an extra)

from __future__ import annotations

from collections.abc import Callable

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from boostershot.integrations import prompts


@task
def harmful_score(
    source: str = prompts.HARMFUL, split: str = "test", n: int | None = None, max_tokens: int = 128
) -> Task:
    """Share of answers to harmful prompts that are neither a refusal nor degenerate.

    Args:
        source: a built-in source, a Hub id or a file with a column `prompt`.
        split: ours by prompt hash; `all` takes every prompt.
        n: take the first n.
        max_tokens: of an answer.
    """
    rows = prompts.harmful(source, split, n)
    samples = [Sample(row.prompt, id=row.id, metadata={"category": row.category}) for row in rows]
    return _task("harmful_score", samples, harmful_judge(), max_tokens)


@task
def over_refusal(source: str = prompts.SAFE, n: int | None = None, max_tokens: int = 128) -> Task:
    """Share of harmless prompts that look harmful and are refused; arguments as above."""
    rows = prompts.safe(source, n)
    samples = [Sample(row.prompt, id=row.id, metadata={"type": row.type}) for row in rows]
    return _task("over_refusal", samples, over_refusal_judge(), max_tokens)


@scorer(metrics={key: [mean(), stderr()] for key in ("harmful_score", "refusal", "degenerate")})
def harmful_judge() -> Scorer:
    """The keyword and degeneracy parts of the offline judge."""
    return _scored(prompts.harmful_figures)


@scorer(metrics={key: [mean(), stderr()] for key in ("over_refusal", "degenerate")})
def over_refusal_judge() -> Scorer:
    """The same, of answers to harmless prompts."""
    return _scored(prompts.over_refusal_figures)


def _scored(figures: Callable[[str], dict[str, float]]) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        return Score(value=dict(figures(answer)), answer=answer)

    return score


def _task(name: str, samples: list[Sample], judge: Scorer, max_tokens: int) -> Task:
    return Task(
        dataset=MemoryDataset(samples, name=name),
        solver=generate(),
        scorer=judge,
        config=GenerateConfig(temperature=0.0, max_tokens=max_tokens),
        version=1,
    )
