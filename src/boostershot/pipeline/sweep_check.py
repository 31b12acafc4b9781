"""What is wrong with a sweep's data is told before anything is done."""

from __future__ import annotations

from boostershot.config import build_defense
from boostershot.config.sweep import tuned_defense
from boostershot.errors import InputError
from boostershot.pipeline.attack_search import on_dev
from boostershot.pipeline.property_stages import second_data, varied
from boostershot.pipeline.stages import Stages


def check_sweep(stages: Stages) -> None:
    """Can the sweep do what it is to do with the recipe's data?

    Raises:
        InputError: no.
    """
    recipe = stages.recipe
    assert recipe.sweep is not None
    attacker = recipe.sweep.attacker
    defender = recipe.sweep.defender
    for label in defender.spaces if defender else ():
        for values in defender.space(label).samples() if defender else ():
            described = tuned_defense(recipe.defenses[label], values, f"sweep.defender.spaces.{label}")
            if "dev" in build_defense(described, f"defenses.{label}").needs():
                _ = varied(stages, on_dev(recipe)).data.steering
    if attacker.second is not None:
        base = recipe.sweep.base(recipe.attacks)
        wanted = recipe.attacks[base].attack.n_harmful
        have = len(varied(stages, {"data": second_data(recipe.data, attacker.second)}).data.splits["attack"])
        if wanted > have:
            raise InputError(f"attacks.{base}: needs {wanted} harmful rows; sweep.attacker.second has {have}")
    if not stages.data.task.splits["dev"]:
        source = recipe.data.task.source
        raise InputError(f"data.task.source: {source}: its dev split is empty; expected rows to choose by")
    if attacker.utility == "accuracy" and stages.data.task.correct is None:
        raise InputError("sweep.attacker.utility: is accuracy, and no rule scores the task; expected perplexity")
    if attacker.utility == "perplexity" and recipe.properties.stability is None:
        raise InputError("sweep.attacker.utility: is perplexity; expected the texts of properties.stability beside it")
