"""What the YAML tasks beside this file call; lm-eval loads it by its path."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from boostershot.integrations.prompts import HARMFUL, SAFE, harmful, harmful_figures, over_refusal_figures, safe


def harmful_dataset(
    harmful_source: str = HARMFUL, harmful_split: str = "test", harmful_n: int | None = None, **_: Any
) -> dict[str, Dataset]:
    """The prompts; `lm_eval --metadata '{"harmful_source": "FILE"}'` names others. Other metadata are not for us."""
    rows = harmful(harmful_source, harmful_split, harmful_n)
    return {"test": Dataset.from_list([{"id": row.id, "prompt": row.prompt, "category": row.category} for row in rows])}


def safe_dataset(safe_source: str = SAFE, safe_n: int | None = None, **_: Any) -> dict[str, Dataset]:
    """As above, for over-refusal."""
    rows = safe(safe_source, safe_n)
    return {"test": Dataset.from_list([{"id": row.id, "prompt": row.prompt, "category": row.type} for row in rows])}


def harmful_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The metrics of one answer."""
    return harmful_figures(results[0])


def safe_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The metrics of one answer."""
    return over_refusal_figures(results[0])
