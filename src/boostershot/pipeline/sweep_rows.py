"""The rows that the trials of a sweep can have, which may be fewer than its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from boostershot.attacks import Attack
from boostershot.config import AttackSettings
from boostershot.config.sweep import Attacker, tuned_attack
from boostershot.pipeline.orders import Map, Task
from boostershot.pipeline.property_stages import varied
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import result


@dataclass(frozen=True)
class Rows:
    """How many rows there are to attack with."""

    harmful: int
    benign: int

    def suffice(self, attack: Attack) -> bool:
        """Are there as many as the attack wants?"""
        return attack.n_harmful <= self.harmful and attack.n_benign <= self.benign

    def cut(self, settings: AttackSettings) -> AttackSettings:
        """The attack, with the most of its n rows that there are; its harmful share stays."""
        attack = settings.attack
        if self.suffice(attack) or not any(field.name == "n" for field in fields(attack)):  # pyright: ignore[reportArgumentType]
            return settings
        fewer = (replace(attack, n=n) for n in range(attack.n - 1, 0, -1))  # pyright: ignore[reportCallIssue, reportArgumentType]
        return next((settings.doing(one) for one in fewer if self.suffice(one)), settings)


def rows_there(whole: Stages, changes: Mapping[str, Any], do: Map) -> Rows:
    """The rows of the recipe with these sections that can be attacked with.

    Harmful ones are prompts with an answer, which the base model may have to write first, and may refuse to.
    """
    stages = varied(whole, changes)
    (answered,) = do([Task(_harmful_rows, (changes,))])
    # Where they failed, so do the trials, and say why.
    harmful = result(answered)["rows"] if isinstance(answered, Path) else len(stages.data.splits["attack"])
    return Rows(harmful, benign_rows(stages))


def _harmful_rows(run: Stages, changes: Mapping[str, Any]) -> Path:
    return varied(run, changes).harmful_rows("attack", None, None)


def tell_of_rows(stages: Stages, base: AttackSettings, attacker: Attacker, have: Rows) -> None:
    """Say in a line that trials want more rows than there are, if some do."""
    most = {"n": attacker.budgeted["n"].extremes()[-1]} if "n" in attacker.budgeted else {}
    for values in attacker.budgeted.samples():
        attack = tuned_attack(base, values | most, attacker).attack
        if not have.suffice(attack):
            share = "" if attack.p is None else f" at p {attack.p:g}"
            stages.reporter.line(
                f"sweep.attacker: {attack.n} rows of {attack.name}{share} are {attack.n_harmful} harmful "
                f"and {attack.n_benign} benign ones, and there are {have.harmful} and {have.benign}; such trials have "
                "fewer rows"
            )
            return


def benign_rows(stages: Stages) -> int:
    """Rows of the benign task that leave room for an answer."""
    _, _, form = stages.base
    return len(form.fitting(stages.data.task.splits["train"], stages.recipe.data.max_length))
