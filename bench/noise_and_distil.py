"""noise_and_distil against its own teacher at the student's distance from the base, on the built-in model.

    python bench/noise_and_distil.py [SEED ...] [KEY=VALUE ...]   seed 1 by default; writes docs/noise-and-distil.md

All weights are trained, as the method wants. The teacher, SFT, is prolonged to |W - W_base| of each student: LoX with
all singular parts, factor |W_student - W_base| / |W_teacher - W_base| - 1. Runs are in runs/noise-and-distil-SEED and
resume. A KEY=VALUE changes the recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import interval

import boostershot as bs
from boostershot.config import Recipe, parse_recipe
from boostershot.config.reading import apply_overrides, read_recipe
from boostershot.errors import InputError, StageFailed
from boostershot.models import Layer, load_chain
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store

HERE = Path(__file__).parent
STUDENTS = {  # the published shrinkage, and one that so short a distillation can make up for
    "lightly distilled": {"method": "noise_and_distil", "shrink": 0.1, "steps": 96, "lr": 2e-4},
    "distilled": {"method": "noise_and_distil", "shrink": 0.6, "steps": 96, "lr": 9e-4},
}
FIGURES = {  # column -> figure, and its digits
    "HS": ("harmful_score", 0),
    "FA": ("finetune_accuracy", 0),
    "degenerate": ("degenerate_share", 0),
    "harmful loss": ("harmful_loss", 2),
}


def recipe(seed: int, defenses: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """bench/defenses.yaml with all weights aligned, and a fresh adapter attacked."""
    data = read_recipe(HERE / "defenses.yaml")
    lora = data["immunize"]["lora"]
    ((_, attack),) = data["attacks"].items()
    data |= {"name": f"noise-and-distil-{seed}", "seeds": [seed], "defenses": {"sft": {"method": "sft"}, **defenses}}
    data["immunize"] |= {"lora": None, "lr": 5e-5}
    data["attacks"] = {"harmful-mix/fresh": {**attack, "adapter": "fresh", "lora": lora}}
    apply_overrides(data, overrides)
    return parse_recipe(data, "bench/noise_and_distil.py")


def distances(of: Recipe, labels: Iterable[str]) -> dict[str, float]:
    """Defence -> |W - W_base| after its alignment, which is done where it is missing."""
    store = Store(Path("runs") / of.name)
    with store.claimed(of.name):
        stages = Stages(of.scaled(), store, Reporter())  # as the run that follows
        folders = {label: stages.immunized(label, of.seeds[0]) for label in labels}
    base = {name: param.detach() for name, param in bs.load_base(of.model.id)[0].named_parameters()}
    found = {}
    for label, folder in folders.items():
        model, _ = load_chain(of.model.id, [Layer(folder / "model", merge=False)], trainable=True)
        found[label] = bs.distance_from_base(model, base)
    return found


def compared(seed: int, overrides: Sequence[str]) -> list[str]:
    """The table's lines of one seed."""
    first = recipe(seed, STUDENTS, overrides)
    far = distances(first, first.defenses)
    prolonged = {
        f"SFT as far as {student}": {"method": "lox", "rank": None, "factor": far[student] / far["sft"] - 1}
        for student in STUDENTS
    }
    whole = recipe(seed, {**STUDENTS, **prolonged}, overrides)
    far |= distances(whole, prolonged)
    results = bs.run(whole, reporter=Reporter())
    lines = []
    for label in whole.defenses:
        before, after = (one for one in results.summary if one["defense"] == label)
        cells = [
            f"{interval(before[figure], digits)} → {interval(after[figure], digits)}"
            for figure, digits in FIGURES.values()
        ]
        lines.append(f"| {seed} | {label} | {far[label]:.2f} | {' | '.join(cells)} |")
    return lines


def page(seeds: Sequence[int], overrides: Sequence[str]) -> str:
    """docs/noise-and-distil.md."""
    of = recipe(seeds[0], STUDENTS, overrides)
    (attack,) = of.to_dict()["attacks"].values()
    students = "; ".join(
        f"{label}: shrink {one['shrink']:g}, {one['steps']} steps at lr {one['lr']:g}"
        for label, one in of.to_dict()["defenses"].items()
        if label in STUDENTS
    )
    lines = [
        "# noise_and_distil at equal distance from the base",
        "",
        f"`python bench/noise_and_distil.py {' '.join(map(str, [*seeds, *overrides]))}`: the built-in model, all "
        f"weights aligned for {of.immunize.steps} steps at lr {of.immunize.lr:g}, then distilled ({students}); a fresh "
        f"adapter attacked for {attack['steps']} steps at lr {attack['lr']:g} with {attack['p']:.0%} harmful rows; "
        f"test split, {of.evaluate.n_harmful} prompts and {of.evaluate.n_task} task rows. Nothing was searched for. "
        "Before → after the attack, 95% intervals over prompts of one seed; distance is |W - W_base| over all weights.",
        "",
        f"| seed | model | distance | {' | '.join(FIGURES)} |",
        "|---" * (3 + len(FIGURES)) + "|",
        *(line for seed in seeds for line in compared(seed, overrides)),
    ]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str]) -> int:
    """2 where the arguments are wrong, 1 where a stage failed."""
    overrides = [argument for argument in arguments if "=" in argument]
    try:
        seeds = [int(argument) for argument in arguments if "=" not in argument] or [1]
        text = page(seeds, overrides)
    except (InputError, StageFailed, ValueError) as error:
        print(f"bench/noise_and_distil.py: {error}", file=sys.stderr)
        return 1 if isinstance(error, StageFailed) else 2
    (HERE.parent / "docs" / "noise-and-distil.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
