"""A sweep: the defender tunes, then the attacker, against each defence of a recipe; then sweep.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from boostershot.pipeline.attack_search import Arm, search_attacks
from boostershot.pipeline.attack_stages import layers_of
from boostershot.pipeline.defense_search import search_defenses
from boostershot.pipeline.orders import Map, Task
from boostershot.pipeline.property_stages import varied
from boostershot.pipeline.reruns import attack_elsewhere, rerun_winners
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import told
from boostershot.pipeline.sweep_results import Swept, assemble_sweep
from boostershot.pipeline.sweep_rows import rows_there, tell_of_rows


def run_sweep(stages: Stages, do: Map, identity: str, rows: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything that the recipe's section `sweep` asks for: the content of sweep.json.

    A failing trial is part of the result. What fails as a whole (a defence that cannot be immunised, a re-run) is in
    `failed`, and leaves the others alone.

    Args:
        stages: of the recipe; scaled already.
        do: runs stages, and gives their folders in order with failures as values.
        identity: of the recipe.
        rows: of results.json, for the fixed attacks.
    """
    recipe, settings = stages.recipe, stages.recipe.sweep
    assert settings is not None
    do = _sparing(do)
    tuned = search_defenses(stages, do)
    chosen = {label: one.described(one.chosen.values) for label, one in tuned.items() if one.chosen}
    defenses = {**recipe.defenses, **chosen}
    changes = {"defenses": defenses} if chosen else {}
    base = settings.base(recipe.attacks)
    have = rows_there(stages, {}, do)
    tell_of_rows(stages, recipe.attacks[base], settings.attacker, have)
    arms, broken, before = [], {}, {}
    found = do([Task(_before, (label, changes)) for label in defenses])
    for (label, described), evaluation in zip(defenses.items(), found, strict=True):
        if isinstance(evaluation, Exception):
            broken[label] = told(evaluation)
            continue
        before[label] = evaluation
        immunized = varied(stages, changes).immunized(label, recipe.seeds[0])
        attack = recipe.attacks[base].against(described)
        arms.append(Arm(label, stages, changes, settings.attacker, attack, immunized, have))
    search_attacks(arms, do)
    reruns = rerun_winners(arms, do)
    swept = Swept(arms, reruns, attack_elsewhere(arms, do), tuned, broken, before, rows)
    return assemble_sweep(swept, recipe.name, identity, settings.attacker, base, defenses)


def _sparing(do: Map) -> Map:
    """The same, but what is wrong in one of a search's attacks is that attack's failure, and not the sweep's end."""
    return lambda tasks: do([replace(task, spares=True) for task in tasks])


def _before(run: Stages, label: str, changes: Mapping[str, Any]) -> Path:
    """The scores of a defence before any attack."""
    stages = varied(run, changes)
    immunized = stages.immunized(label, run.recipe.seeds[0])
    return stages.evaluated(immunized, layers_of(immunized, None, 0, "continue"), f"{label}, before the attack")
