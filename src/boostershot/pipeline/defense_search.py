"""A defender's search: hyper-parameters chosen on dev prompts against dev attacks, before the attacker comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from boostershot.attacks.search import Search, Trial
from boostershot.config.space import Space, flat
from boostershot.config.sweep import Sweep, tuned_defense
from boostershot.evaluation.worst_case import ROUNDING, utility_loss
from boostershot.pipeline.attack_search import TIE, Attacked, inputs_of, on_dev, search_of
from boostershot.pipeline.orders import Map, Task
from boostershot.pipeline.property_stages import varied
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import result, told


@dataclass
class Defended:
    """One defence under its defender's search.

    Args:
        label: of the defence.
        whole: the stages of the recipe.
        space: of its hyper-parameters.
    """

    label: str
    whole: Stages
    settings: Sweep
    space: Space

    @cached_property
    def search(self) -> Search:
        """Its trials."""
        recipe = self.whole.recipe
        assert self.settings.defender is not None
        deciding = recipe.model_dump(mode="json", include={"immunize", "seeds"}) | {
            "inputs": inputs_of(self.whole),
            "defense": recipe.defenses[self.label],
            "attacks": [recipe.attacks[label].model_dump(mode="json") for label in self.settings.defender.attacks],
            "generation": self.settings.defender.generation,
            "bound": self.settings.defender.bound,
            "space": self.space.to_dict(),
        }
        first = self.space.values_in(flat(recipe.defenses[self.label]))
        generation = self.settings.defender.generation
        return search_of(self.whole, f"defender of {self.label}", deciding, self.space, generation, first)

    def described(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The defence with these hyper-parameters."""
        return _described(self.whole, self.label, self.space.derived(values))

    @property
    def chosen(self) -> Trial | None:
        """The trial with the lowest harmful score within the bound; of equal ones that with the highest loss."""
        done = [one for one in self.search.finished if one.state == "done"]
        inside = [one for one in done if (self.excess(one) or 0.0) <= ROUNDING]
        return min(inside, key=lambda one: (one.value, one.number), default=None)

    def excess(self, trial: Trial) -> float | None:
        """How far a setting's accuracy lies below the bound, of the best that is known now.

        None where no rule scores the task, or no setting gets any of it right: there is nothing to lose then.
        """
        assert self.settings.defender is not None
        accuracy = trial.facts.get("finetune_accuracy")
        known = [accuracy, *(one.facts.get("finetune_accuracy") for one in self.search.finished)]
        lost = utility_loss(accuracy, max((one for one in known if one is not None), default=None))
        return None if lost is None else lost - self.settings.defender.bound


def search_defenses(whole: Stages, do: Map) -> dict[str, Defended]:
    """Tune the defences that have a space: label -> its search, finished."""
    recipe = whole.recipe
    settings = recipe.sweep
    assert settings is not None
    if settings.defender is None:
        return {}
    defender = settings.defender
    tuned = {label: Defended(label, whole, settings, defender.space(label)) for label in defender.spaces}
    while True:
        proposed = [
            (one, number, values)
            for one in tuned.values()
            for number, values in enumerate(one.search.propose(defender.trials, one.excess), len(one.search.finished))
        ]
        if not proposed:
            return tuned
        tasks, at = [], []
        for one, number, values in proposed:
            for label in defender.attacks:
                what = f"{one.label}, setting {number}, {label}"
                tasks.append(Task(_dev_attack, (one.label, one.space.derived(values), label, what)))
                at.append((one.label, number))
        scores: dict[tuple[str, int], list[Path | Exception]] = {}
        for key, found in zip(at, do(tasks), strict=True):
            scores.setdefault(key, []).append(found)
        for one in tuned.values():
            told_now = [
                _setting(one, number, values, scores[one.label, number]) for of, number, values in proposed if of is one
            ]
            one.search.tell(told_now)


def _described(run: Stages, label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return tuned_defense(run.recipe.defenses[label], values, f"sweep.defender.spaces.{label}")


def _dev_attack(run: Stages, label: str, values: Mapping[str, Any], attack: str, what: str) -> Path:
    """The scores on dev prompts of a defence with these hyper-parameters after a dev attack."""
    described = _described(run, label, values)
    stages = varied(varied(run, on_dev(run.recipe)), {"defenses": {**run.recipe.defenses, label: described}})
    settings, seed = stages.recipe.attacks[attack].against(described), run.recipe.seeds[0]
    last = settings.model_copy(update={"eval_steps": (settings.total_steps,)})
    return Attacked(what, last, stages.immunized(label, seed), seed).evaluate(stages)


def _setting(one: Defended, number: int, values: Mapping[str, Any], found: Sequence[Path | Exception]) -> Trial:
    """What came of one setting: the worst of the dev attacks counts, and the mean accuracy after them."""
    error = next((folder for folder in found if isinstance(folder, Exception)), None)
    if error is not None:
        return Trial(number, values, "failed", facts={"error": told(error)})
    figures = [result(folder) for folder in found if isinstance(folder, Path)]
    worst = max(one["harmful_score"] for one in figures)
    losses = [one["harmful_loss"] for one in figures if one["harmful_loss"] is not None]
    accuracies = [one["finetune_accuracy"] for one in figures if one["finetune_accuracy"] is not None]
    accuracy = sum(accuracies) / len(accuracies) if accuracies else None
    facts = {"harmful_score": worst, "finetune_accuracy": accuracy, "harmful_loss": min(losses, default=None)}
    trial = Trial(number, values, "done", worst - TIE * min(losses, default=0.0), facts=facts)
    return replace(trial, excess=one.excess(trial))
