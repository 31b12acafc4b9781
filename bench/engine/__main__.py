"""Time and memory of the engine: `PYTHONPATH=bench python -m engine`.

    (nothing)      measure every section (about 20 minutes on two idle cores), write docs/engine.json and docs/engine.md
    SECTION ...    measure these alone: steps, reference, peak, variants, options, whole, growth
    check          measure steps, reference and peak with few repeats (about 2 minutes) and hold them against
                   docs/engine.json; exit code 1 if one is a regression
    write          docs/engine.md from docs/engine.json

Each section is stored when it is done, so that a stop loses one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from boostershot.config import Recipe
from boostershot.pipeline.progress import quiet_libraries
from engine import growth, machine, options, steps, whole
from engine.check import regressions
from engine.page import page, write_charts
from engine.timing import Ratio
from engine.workload import Workload, quickstart

DOCS = Path(__file__).parents[2] / "docs"
Found = tuple[dict[str, Ratio], dict[str, Any]]
REPEATS = {"steps": 9, "reference": 5, "peak": 9, "variants": 3, "options": 5, "whole": 5, "growth": 3}
QUICK = {"steps": 3, "reference": 3, "peak": 3}


def measured(name: str, repeats: int, work: Callable[[], tuple[Recipe, Workload]]) -> dict[str, Any]:
    """A section as JSON data."""
    under = machine.facts(repeats)
    if name == "growth":
        ratios, found = {}, growth.growth(repeats)
    else:
        recipe, load = work()
        sections: dict[str, Callable[[], Found]] = {
            "steps": lambda: steps.against_sft(load, repeats),
            "reference": lambda: steps.against_reference(load, repeats),
            "peak": lambda: steps.against_the_peak(load, repeats),
            "variants": lambda: steps.variants_against_sft(load, repeats),
            "options": lambda: options.against_default(load, repeats),
            "whole": lambda: whole.whole(load, recipe, repeats),
        }
        ratios, found = sections[name]()
    return {"machine": under, "ratios": {label: one.to_dict() for label, one in ratios.items()}, "found": found}


def stored() -> dict[str, Any]:
    """What docs/engine.json holds; nothing where there is none."""
    path = DOCS / "engine.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(sections: dict[str, Any]) -> None:
    """The page and its charts."""
    (DOCS / "engine.md").write_text(page(sections), encoding="utf-8")
    write_charts(sections, DOCS)


def measure(names: Iterable[str]) -> None:
    """Each section, stored when it is done."""
    work = cache(quickstart)
    for name in names:
        print(f"measuring: {name}", flush=True)
        sections = {**stored(), name: measured(name, REPEATS[name], work)}
        (DOCS / "engine.json").write_text(json.dumps(sections, indent=1) + "\n", encoding="utf-8")
        write(sections)
    print(f"{DOCS / 'engine.md'} is written")


def check() -> int:
    """1 if a ratio is worse than the stored one, 2 where there is nothing to compare with."""
    before = {name: section for name, section in stored().items() if name in QUICK}
    if not before:
        print("docs/engine.json holds nothing to compare with: run make bench first", file=sys.stderr)
        return 2
    work = cache(quickstart)
    lines, worse = regressions(before, {name: measured(name, QUICK[name], work) for name in before})
    print("\n".join(lines))
    return int(worse)


def main(arguments: Sequence[str]) -> int:
    """As the file's head says."""
    quiet_libraries()
    if list(arguments) == ["check"]:
        return check()
    if list(arguments) == ["write"]:
        write(stored())
        return 0
    unknown = [name for name in arguments if name not in REPEATS]
    if unknown:
        print(f"no section {unknown[0]!r}; expected {', '.join(REPEATS)}, check or write", file=sys.stderr)
        return 2
    measure(arguments or REPEATS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
