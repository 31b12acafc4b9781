"""The recipe: everything that a run does, checked before it starts.

A recipe is YAML (see recipes/quickstart.yaml); `load_recipe` reads one by name or path. Sections are frozen
and take no key that they do not know. All but `runtime` decides what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, ValidationError, WithJsonSchema, model_validator

from boostershot.config.attacks import AttackSettings
from boostershot.config.build import build_defense, describe_defense, describe_judges, describe_preference
from boostershot.config.data import Data, Model
from boostershot.config.errors import at_key, first_line
from boostershot.config.properties import Properties
from boostershot.config.reading import Overrides, apply_overrides, read_recipe
from boostershot.config.section import Section, part_of
from boostershot.config.sweep import Sweep
from boostershot.config.training import Immunize
from boostershot.config.values import Count, Label, Name, Number, Seed, Text, distinct
from boostershot.errors import InputError, choices, shown


class Evaluate(Section):
    """What is scored."""

    split: Literal["dev", "test"] = "test"
    """Choices are made on dev; results are told of test."""
    judges: Annotated[
        tuple[Annotated[Any, WithJsonSchema({"type": ["string", "object"]})], ...],
        Field(min_length=1, validate_default=True),
        AfterValidator(lambda given: tuple(describe_judges(given))),
    ] = ("offline",)
    """Names, or {name: ..., settings, label: own name}; the first gives the headline harmful score. Resolved."""
    preference: Annotated[Any, WithJsonSchema({"type": ["object", "null"]}), AfterValidator(describe_preference)] = None
    """{base_url: ..., model: ..., settings} of an endpoint that compares answers to a task that no rule scores with the
    references, for a win rate. Resolved."""
    n_harmful: Count = 150
    n_task: Count = 200
    max_new_tokens: Count = 16


class Runtime(Section):
    """What changes nothing that is measured, and is part of no stage's hash (but for micro-batches beside dropout)."""

    threads: Count | None = None
    """Of torch, for each stage; processes do not divide them. null leaves torch's own choice."""
    micro_batch_size: Count | None = None
    """Rows in one forward pass of the alignment, its memory knob; null is the whole batch. This and the next two are
    the alignment's alone, and decide the masks of dropout: where there is any, they are part of its hash."""
    tokens_per_micro_batch: Count | None = None
    """Tokens that such a pass reads at most, unless one row alone has more; a prefix that rows share counts once."""
    layout: Literal["trie", "padded"] = "trie"
    """How such a pass lays rows out: shared prefixes once where the model can read that, or padded side by side."""
    checkpointing: StrictBool = False
    """Activations of a layer are computed again for its backward pass, for less memory and a third more time; in the
    alignment and in the attacks that fine-tune."""
    compile: StrictBool = False
    """The decoder layers of the same trainings are compiled (torch.compile); the same numbers up to rounding."""
    generation_batch_size: Count = 32
    generator: Literal["transformers", "vllm"] = "transformers"
    """What answers the prompts that are scored; vllm is an extra, for GPUs."""
    executor: Literal["local", "ray"] = "local"
    """Who does the stages: this machine, or a Ray cluster (the extra ray)."""
    processes: Count = 1
    """Stages at once on this machine; of a Ray cluster that is started here, too."""
    address: Text | None = None
    """HOST:PORT of a running Ray cluster, or auto for the one of this machine; if not given, one is started."""
    gpus: Annotated[Number, Field(ge=0)] = 0.0
    """GPUs that a stage asks Ray for."""

    @model_validator(mode="after")
    def _of_ray(self) -> Self:
        if self.executor != "ray":
            if self.address is not None:
                raise at_key("address", f"is given; expected null, for executor: {self.executor} looks for no cluster")
            if self.gpus:
                raise at_key("gpus", f"is {self.gpus:g}; expected 0, for executor: {self.executor} asks nobody for any")
        return self


class Recipe(Section):
    """One experiment: defences x attacks x seeds."""

    name: Name
    model: Model = Model()
    data: Data
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)] = (0, 1, 2)
    """Three by default: one seed says nothing of the spread between trainings."""
    immunize: Immunize
    defenses: Annotated[
        dict[Label, Annotated[dict[str, Any], WithJsonSchema({"type": "object", "required": ["method"]})]],
        Field(min_length=1),
    ]
    """Label -> {method: name, hyper-parameters}; resolved, so that every hyper-parameter is in it."""
    attacks: Annotated[dict[Label, AttackSettings], Field(min_length=1)]
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    properties: Properties = Properties()
    sweep: Sweep | None = None
    """What `boostershot sweep` does: a tuned attacker, and perhaps a tuned defender."""
    scale: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The fraction of the samples and steps above that a run takes; `boostershot run --scale` sets it."""
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _known_attacks(self) -> Self:
        """The attacks that properties name are there, and scored."""
        parts = self.properties
        named = {
            "resistance.attacks": (parts.resistance and parts.resistance.attacks) or (),
            "generalization.attack": [parts.generalization.attack] if parts.generalization else (),
            "trainability.attack": [parts.trainability.attack] if parts.trainability else (),
        }
        for key, labels in named.items():
            for label in labels:
                if label is None:
                    continue
                if label not in self.attacks:
                    raise at_key(f"properties.{key}", f"is {shown(label)}; {choices(label, self.attacks)}")
                if label not in self.trained_attacks:
                    raise at_key(f"properties.{key}", f"is {shown(label)}; expected an attack that trains")
                if not key.startswith("trainability") and label not in self.harmful_attacks:
                    raise at_key(f"properties.{key}", f"is {shown(label)}; expected a judged attack with harmful rows")
        return self

    @property
    def harmful_attacks(self) -> tuple[str, ...]:
        """The labels of the judged attacks that train on harmful rows."""
        return tuple(label for label, attack in self.attacks.items() if attack.harms)

    @property
    def trained_attacks(self) -> tuple[str, ...]:
        """The labels of the attacks that train."""
        return tuple(label for label, attack in self.attacks.items() if attack.attack.trains)

    @model_validator(mode="after")
    def _re_factored(self) -> Self:
        """An adapter that is to be written in another way is there."""
        for label, attack in self.attacks.items():
            if attack.refactor == "adapter" and self.immunize.lora is None:
                key, said = f"attacks.{label}.refactor", "is adapter; expected norms or null, for immunize.lora is null"
                raise at_key(key, said)
        return self

    @model_validator(mode="after")
    def _anchored(self) -> Self:
        """The rows of an anchor are there."""
        for label, attack in self.attacks.items():
            if attack.anchor is None:
                continue
            if self.data.general is None:
                message = f"is missing, and attacks.{label}.anchor needs general text; expected {{source: ..., n: ...}}"
                raise at_key("data.general", message)
            have = self.data.general.n
            if have is not None and have < attack.anchor.n:
                raise at_key(
                    f"attacks.{label}.anchor.n", f"is {attack.anchor.n}; expected at most data.general.n, {have}"
                )
        return self

    @model_validator(mode="after")
    def _resolve_defenses(self) -> Self:
        """Last, because it needs torch."""
        from boostershot.defenses.defense import reader_of_layers

        for label, given in self.defenses.items():
            defense = build_defense(given, f"defenses.{label}")
            self.defenses[label] = describe_defense(defense)
            if "general" in defense.needs() and self.data.general is None:
                message = f"is missing, and defenses.{label} ({self.defenses[label]['method']}) needs general text"
                raise at_key("data.general", message + "; expected {source: ..., n: ...}")
            if (cached := self.immunize.cached_layers) and (reader := reader_of_layers(defense)):
                raise at_key("immunize.cached_layers", f"is {cached}, and defenses.{label} ({reader}) needs all layers")
        return self

    @model_validator(mode="after")
    def _sweep_fits(self) -> Self:
        """Last, because its spaces are of the resolved attacks and defences."""
        if self.sweep is not None:
            if self.evaluate.split == "dev":
                raise at_key("evaluate.split", "is dev; expected test beside sweep, whose searches choose on dev")
            self.sweep.check(self.attacks, self.defenses, self.data.general is not None, self.seeds[0])
        return self

    def scaled(self) -> Recipe:
        """What a run does: `scale` applied to every number of samples and steps, and set to 1.

        A number that is not given (all rows) stays so; none falls below 1, and rows to train on not below a batch. An
        attack keeps at least one harmful row where it has any. Epochs shrink where the rows cannot shrink enough.
        """
        if self.scale == 1:
            return self
        data, batch = self.data, self.immunize.batch
        changed = {
            key: spec.model_copy(update={"n": spec.n and part_of(spec.n, self.scale, batch)})
            for key, spec in (("align", data.align), ("harmful", data.harmful), ("general", data.general))
            if spec is not None
        }
        n_harmful, n_task = (part_of(n, self.scale) for n in (self.evaluate.n_harmful, self.evaluate.n_task))
        return self.model_copy(
            update={
                "scale": 1.0,
                "data": data.model_copy(update=changed),
                "immunize": self.immunize.scaled(self.scale, data.align.n, changed["align"].n),
                "attacks": {label: attack.scaled(self.scale) for label, attack in self.attacks.items()},
                "evaluate": self.evaluate.model_copy(update={"n_harmful": n_harmful, "n_task": n_task}),
                "properties": self.properties.scaled(self.scale),
                "sweep": self.sweep and self.sweep.scaled(self.scale),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as JSON data; `parse_recipe` makes an equal recipe of it."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The part of the resolved recipe that decides what is measured: all but `runtime`."""
        return self.model_dump(mode="json", exclude={"runtime"})


def load_recipe(name_or_path: str | Path, overrides: Overrides = ()) -> Recipe:
    """A shipped recipe by name, or the one in a YAML file.

    Args:
        name_or_path: a shipped name is preferred to a file of that name.
        overrides: `["immunize.steps=3"]`, values read as YAML, or `{"immunize.steps": 3}`.

    Raises:
        InputError: one line that names the file and the key and says what was expected.
    """
    data = read_recipe(name_or_path)
    apply_overrides(data, overrides)
    return parse_recipe(data, str(name_or_path))


def parse_recipe(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe that `data` describes; `where` is its file in messages.

    Raises:
        InputError: as for `load_recipe`.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {first_line(error)}") from None
