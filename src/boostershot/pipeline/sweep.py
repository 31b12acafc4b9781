"""A sweep: the defender tunes, then the attacker, against each defence of a recipe; then sweep.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boostershot.pipeline.attack_search import Arm, Map, check_rows, one_after_another, rerun_winners, search_attacks
from boostershot.pipeline.attack_stages import layers_of
from boostershot.pipeline.defense_search import Defended, search_defenses
from boostershot.pipeline.property_stages import PartStages
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import told
from boostershot.pipeline.sweep_results import Swept, assemble_sweep

__all__ = ["check_rows", "one_after_another", "run_sweep"]


def run_sweep(stages: Stages, do: Map, identity: str) -> dict[str, Any]:
    """Everything that the recipe's section `sweep` asks for: the content of sweep.json.

    A failing trial is part of the result. What fails as a whole (a defence that cannot be immunised, a re-run) is in
    `failed`, and leaves the others alone.

    Args:
        stages: of the recipe; scaled already.
        do: runs stages, and gives their folders in order with failures as values.
        identity: of the recipe.
    """
    recipe, settings = stages.recipe, stages.recipe.sweep
    assert settings is not None
    tuned = search_defenses(stages, do)
    stages = _with_choices(stages, tuned)
    base = str(settings.base(recipe.harmful_attacks))
    arms, broken, before = [], {}, {}
    for label, described in stages.recipe.defenses.items():
        try:
            immunized = stages.immunized(label, recipe.seeds[0])
            layers = layers_of(immunized, None, 0, "continue")
            before[label] = stages.evaluated(immunized, layers, f"{label}, before the attack")
        except Exception as error:
            broken[label] = told(error)
            continue
        arms.append(Arm(label, stages, settings.attacker, recipe.attacks[base].against(described), immunized))
    search_attacks(arms, do)
    reruns = rerun_winners(arms, do)
    swept = Swept(arms, reruns, tuned, broken, before)
    return assemble_sweep(swept, recipe.name, identity, settings.attacker, base, stages.recipe.defenses)


def _with_choices(stages: Stages, tuned: Mapping[str, Defended]) -> Stages:
    """The stages of the recipe with what its defender chose; where nothing was within his bound, with what it has."""
    chosen = {label: one.described(one.chosen.values) for label, one in tuned.items() if one.chosen}
    if not chosen:
        return stages
    recipe = stages.recipe.model_copy(update={"defenses": {**stages.recipe.defenses, **chosen}})
    return PartStages(recipe, stages.store, stages.reporter, stages)
