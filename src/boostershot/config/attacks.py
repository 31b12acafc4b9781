"""The recipe's sections on attacks: what the adversary does, with the training that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, model_validator

from boostershot.attacks import ATTACKS, Anchor, Attack
from boostershot.attacks.attack import Optimizer
from boostershot.attacks.grpo import Reinforced
from boostershot.config.build import build_attack, describe_attack
from boostershot.config.errors import at_key
from boostershot.config.section import Section, part_of
from boostershot.config.training import Lora, Training
from boostershot.config.values import Count, Number, Positive, Text, Whole
from boostershot.errors import InputError, choices, nearest, shown


class AnchorSettings(Section):
    """A term that keeps the model useful while it is attacked: h + mu * b, b taken on rows of `data.general`."""

    mu: Positive = 1.0
    """The weight of b."""
    kl: StrictBool = False
    """false: b is the loss of the rows' answers; true: the KL to the model that the attacker was given."""
    n: Count = 64
    """How many rows, the first of `data.general`."""

    @property
    def anchor(self) -> Anchor:
        """As the attack takes it."""
        return Anchor(self.mu, self.kl, self.n)


class AttackSettings(Training):
    """One attack: a method with its own keys (fields of its class in boostershot.attacks), and the training's keys."""

    model_config = ConfigDict(extra="allow")  # the method's own keys; the method checks them

    lr: Positive | None = None  # type: ignore[assignment]
    """Needed where the method trains."""
    method: Annotated[Text, Field(json_schema_extra={"enum": list(ATTACKS)})]
    """The names of boostershot.attacks.ATTACKS."""
    adapter: Literal["continue", "fresh", "full", "published"] = "continue"
    """continue trains what was immunised; fresh (a new adapter) and full (all weights) merge it first; published is
    what the tables of the Booster paper compare: continue for booster, fresh for every other method."""
    template: Literal["chat", "alpaca", "raw", "instruction_response", "generic_chat"] | None = None
    """How the attacker writes prompts, in training and afterwards; the model's own way if not given."""
    optimizer: Optimizer = "adamw"
    """Each a library's own; learning rates do not carry over from one to another."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """The first beta of adamw, adafactor and lion; each optimiser's own default if not given (none for sgd)."""
    anchor: AnchorSettings | None = None
    """{mu: 1.0, kl: false, n: 64} keeps the model useful: mu times a term on n rows of data.general is added to the
    loss. It is the loss of their answers, or with kl: true the KL to the model that the attacker was given."""
    refactor: Literal["norms", "adapter"] | None = None
    """How the attacker writes the released weights anew before training, their outputs unchanged: the norms' gains go
    into the matrices that read them, or the adapter's factors become those of the SVD of their product."""
    eval_steps: tuple[Annotated[Whole, Field(ge=0)], ...] = (0,)
    """Steps after which the model is scored, in order; the last step is added."""
    judged: StrictBool = True
    """false: follow the harmful losses only, answer nothing after step 0 (a control, and cheap)."""

    @property
    def attack(self) -> Attack:
        """What the adversary does."""
        return build_attack({"method": self.method, **(self.model_extra or {})}, "attack")

    @property
    def total_steps(self) -> int:
        """How many optimiser steps the attack takes."""
        attack = self.attack
        return self.steps_over(attack.n) if attack.trains else 0

    def against(self, defense: Mapping[str, Any]) -> AttackSettings:
        """The attack as this defence meets it: adapter: published becomes one of the others."""
        if self.adapter != "published":
            return self
        own = defense["method"] == "booster"
        return self.model_copy(update={"adapter": "continue", "lora": None} if own else {"adapter": "fresh"})

    def doing(self, attack: Attack) -> AttackSettings:
        """The same training, of an attack of the same method in place of its own."""
        return self.model_copy(update=describe_attack(attack))

    @property
    def harms(self) -> bool:
        """Is it judged, and does it train on harmful rows?"""
        return bool(self.judged and self.attack.trains and self.attack.n_harmful and self.attack.p != 0)

    def benign(self, n: int, steps: int | None, lora: Lora | None) -> AttackSettings:
        """The same training of a fresh adapter on n rows of the benign task, and nothing else.

        Args:
            n: rows.
            steps: optimiser steps; this attack's if None.
            lora: the adapter, if this attack attaches none.
        """
        known = {key: getattr(self, key) for key in Training.model_fields}
        length = {} if steps is None else {"steps": steps, "epochs": None}
        own = {**describe_attack(self.attack.twin(n)), "adapter": "fresh", "lora": self.lora or lora or Lora()}
        own |= {"optimizer": self.optimizer, "momentum": self.momentum}
        return AttackSettings(**{**known, **length, **own})

    def scaled(self, scale: float) -> AttackSettings:
        """The same with that fraction of the rows and steps; a batch of rows stays."""
        attack = self.attack
        shrunk = attack.scaled(scale, self.batch)
        if not attack.trains:
            return self.doing(shrunk)
        changes: dict[str, Any] = self._scaled_length(scale, attack.n, shrunk.n)
        if self.anchor is not None:
            changes["anchor"] = self.anchor.model_copy(update={"n": part_of(self.anchor.n, scale)})
        shorter = self.doing(shrunk).model_copy(update=changes)
        steps = {min(part_of(step, scale, 0), shorter.total_steps) for step in self.eval_steps}
        return shorter.model_copy(update={"eval_steps": tuple(sorted(steps | {shorter.total_steps}))})

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """In place of every section's: the method's own keys are known, too."""
        if isinstance(data, Mapping):
            method = data.get("method")
            kind = ATTACKS.get(method) if isinstance(method, str) else None
            known = [*cls.model_fields, *(field.name for field in (dataclasses.fields(kind) if kind else ()))]
            for key in data:
                if key not in known and (kind or (method is None and nearest(key, ["method"]))):
                    raise at_key(key, f"unknown key; {choices(key, known)}")
        return data

    def _one_length(self) -> Self:
        """In place of every training's: a method that trains nothing has no key of the training's."""
        kind = ATTACKS.get(self.method)
        if kind is None or kind.trains:
            if self.lr is None:
                raise at_key("lr", "is missing; expected a learning rate")
            return super()._one_length()
        allowed = {"method", "template"}
        for key in self.model_fields_set & set(type(self).model_fields) - allowed:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise at_key(key, f"is given; expected none, for {self.method} trains nothing")
        return self

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        try:
            own = {"method": self.method, **(self.model_extra or {})}
            attack = build_attack(own, "attack")
        except InputError as error:
            place, _, said = str(error).partition(": ")
            if place == "attack":  # of several keys, which the message names
                raise ValueError(said) from None
            raise at_key(place.removeprefix("attack."), said) from None
        if self.anchor is not None and isinstance(attack, Reinforced):
            raise at_key("anchor", f"is given; expected null, for {self.method} descends no loss that one is added to")
        try:
            attack.check_training(self.batch, self.steps)
        except ValueError as error:
            key, _, said = str(error).partition(" ")
            raise at_key(key, said) from None
        for key, value in describe_attack(attack).items():
            if key != "method":
                self.__pydantic_extra__[key] = value  # pyright: ignore[reportOptionalSubscript] - extra is allowed
        if list(self.eval_steps) != sorted(set(self.eval_steps)):
            raise at_key("eval_steps", f"is {shown(self.eval_steps)}; expected rising steps, each once")
        if self.eval_steps and self.eval_steps[-1] > self.total_steps:
            raise at_key("eval_steps", f"is {shown(self.eval_steps)}; expected steps from 0 to {self.total_steps}")
        if self.refactor == "adapter" and self.adapter != "continue":
            raise at_key("refactor", f"is adapter; expected norms or null, for adapter: {self.adapter} merges it")
        attaches = self.adapter in ("fresh", "published")
        if not attaches and self.lora is not None:
            raise at_key("lora", f"is given; expected null, for adapter: {self.adapter} attaches none")
        if attaches and self.lora is None:
            if "lora" in self.model_fields_set:
                raise at_key("lora", "is null; expected an adapter (adapter: full trains all weights)")
            object.__setattr__(self, "lora", Lora())  # frozen, but still being made
        if self.total_steps not in self.eval_steps:
            object.__setattr__(self, "eval_steps", (*self.eval_steps, self.total_steps))
        return self
