"""The recipe: everything that a run does, checked before it starts.

A recipe is YAML (see recipes/quickstart.yaml); `load_recipe` reads one by name or path. Sections are frozen
and take no key that they do not know. All but `runtime` decides what is measured.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from boostershot.config_errors import at_key, choices, first_line, nearest, shown
from boostershot.config_values import (
    Count,
    Label,
    ModuleNames,
    Name,
    Number,
    Options,
    Percent,
    Positive,
    Seed,
    Share,
    Text,
    Whole,
    distinct,
    number,
    whole,
)
from boostershot.config_yaml import Overrides, apply_overrides, read_recipe
from boostershot.data.files import read_records
from boostershot.data.tasks.own import OwnTask
from boostershot.errors import InputError

if TYPE_CHECKING:  # torch comes with it, and a misspelt key must not wait for torch
    from boostershot.defenses import Defense
    from boostershot.evaluation.judges import Settings as JudgeSettings


class Section(BaseModel):
    """A frozen mapping that refuses keys it does not know, with the nearest one that it does."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise at_key(key, f"unknown key; {choices(key, cls.model_fields)}")
        return data


class Model(Section):
    """The base model."""

    id: Text = "smollm2-135m-instruct"
    """A Hub id, a local folder, or the built-in smollm2-135m-instruct."""
    template: Literal["auto", "chat", "alpaca"] = "auto"
    """How a prompt is written; auto is the tokenizer's chat template if it has one, else alpaca."""


class Source(Section):
    """Where rows come from."""

    source: Text
    """A built-in name, a Hub id (owner/name:configuration, or hf://datasets/owner/name/file for one of its files) or
    a local .jsonl, .json, .csv, .tsv or .parquet file."""
    split: Text | None = None
    """The split of a Hub data set; train if not given."""


class AlignSource(Source):
    """Alignment rows: harmful prompts with a safe and a harmful answer."""

    n: Count | None = None
    """How many rows to align on; all of the split if not given."""
    columns: dict[Literal["prompt", "chosen", "rejected", "category"], Text] | None = None
    """Our column name -> the source's, where they differ; BeaverTails needs none."""
    categories: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)] | None = None
    """The harm categories to use, of those that the source has; all if not given. A row of others, too, is left out."""
    repeats: StrictBool = False
    """true: alignment and attack take all rows of a prompt, not one of them; what is scored has each prompt once."""
    test: Source | None = None
    """Where the prompts of the test split are, if kept apart; the share that is else for testing is aligned on."""


class GeneralSource(Source):
    """Benign text that some defences read: questions with their answers."""

    source: Text
    """As for the others, or reasoning-gym:NAME, of which the training rows are taken."""
    n: Count | None = None
    """How many rows to use; all if not given."""
    columns: dict[Literal["prompt", "completion"], Text] | None = None
    """Our column name -> the source's, where they differ."""
    options: Options | None = None
    """Of a reasoning-gym task."""


class HarmfulSource(Source):
    """Harmful rows that are not paired with safe answers."""

    n: Count | None = None
    """How many rows to use; all if not given."""
    columns: dict[Literal["prompt", "completion"], Text] | None = None
    """Our column name -> the source's, where they differ."""


class TaskSource(Source):
    """The benign task that the attacker's data is hidden in."""

    columns: dict[Literal["prompt", "answer", "sentence", "text", "label"], Text] | None = None
    """Our column name -> the source's, where they differ."""
    kind: Literal["auto", "sst2", "ag_news", "gsm8k", "alpaca_eval", "alpaca", "dolly", "exact"] = "auto"
    """How rows are read and answers scored; auto knows the kind by the source's name or columns, else it is exact."""
    variant: Literal["sane", "published"] = "sane"
    """The prompt's wording and the rule of what is right: as a careful person has them, or as published."""
    options: Options | None = None
    """Of a reasoning-gym task, such as {max_terms: 2}."""
    test: Source | None = None
    """Where the test rows are, if kept apart; a fifth of the rows by default."""
    prompt: Text | None = None
    """A template with {column} names: makes it a task of your own, with the keys that follow, not kind and columns."""
    answer: Text | None = None
    """The column of the reference answer."""
    score: Literal["exact", "choice", "number", "regex", "python"] | None = None
    """How an answer is compared with the reference."""
    choices: tuple[Text, ...] | None = None
    """Of score: choice."""
    pattern: Text | None = None
    """Of score: regex; its one group, or all that it matches, is compared."""
    entry_point: Text | None = None
    """Of score: python; module:function, called with (answer: str, row: Mapping), says true or false."""

    @property
    def own(self) -> OwnTask | None:
        """The task that the template and the keys after it describe."""
        if self.prompt is None or self.answer is None or self.score is None:
            return None
        return OwnTask(self.prompt, self.answer, self.score, self.choices, self.pattern, self.entry_point)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What can be known of a task of the user's own before its rows are read, and the columns of a local file."""
        keys = ("answer", "score", "choices", "pattern", "entry_point")
        if self.prompt is None:
            for key in keys:
                if getattr(self, key) is not None:
                    raise at_key(key, "is given without prompt; expected a template with {column} names beside it")
            return self
        for key in ("answer", "score"):
            if getattr(self, key) is None:
                raise at_key(key, "is missing; a task with a prompt template needs it")
        for key, default in (("kind", "auto"), ("variant", "sane"), ("columns", None), ("options", None)):
            if getattr(self, key) != default:
                raise at_key(key, f"is given; expected {default or 'null'} beside a prompt template")
        if self.source.startswith("reasoning-gym:"):
            raise at_key("prompt", f"is given; expected null, for {self.source} has questions of its own")
        if self.own and Path(self.source).is_file():
            for record in read_records(self.source)[:1]:
                self.own.check_columns(record, self.source)
        return self


class Data(Section):
    """The rows of a run."""

    align: AlignSource
    harmful: HarmfulSource | None = None
    general: GeneralSource | None = None
    task: TaskSource
    max_length: Annotated[Whole, Field(ge=2)] = 256
    """Tokens of a training row; longer answers are cut."""
    answer_tokens: Count = 20
    """Length of the harmful answers that the base model writes where the source has none."""


class Lora(Section):
    """A fresh LoRA adapter."""

    rank: Count = 16
    alpha: Positive = 16.0
    """The adapter's scale is alpha / rank."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    targets: ModuleNames = "all-linear"
    """all-linear or a list of module names."""


class Training(Section):
    """What both kinds of training have."""

    lr: Positive
    steps: Count | None = None
    epochs: Count | None = None
    """In place of steps."""
    batch: Count = 8
    """Rows in one optimiser step."""
    lora: Lora | None = None
    weight_decay: Annotated[Number, Field(ge=0)] = 0.1
    max_grad_norm: Positive = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[Whole, Field(ge=0)] = 0

    def steps_over(self, rows: int) -> int:
        """How many optimiser steps a training on so many rows takes."""
        return self.steps if self.steps is not None else (self.epochs or 0) * math.ceil(rows / self.batch)

    def _scaled_length(self, scale: float, rows: int | None, fewer: int | None) -> dict[str, int]:
        """Fewer steps, or as many epochs over fewer rows as come nearest to that."""
        warmup = {"warmup_steps": round(self.warmup_steps * scale)}
        if self.steps is not None:
            return {"steps": _part(self.steps, scale), **warmup}
        if rows is None or fewer is None:
            return warmup  # all rows of a source: who knows how many
        return {"epochs": max(1, round(scale * self.steps_over(rows) / math.ceil(fewer / self.batch))), **warmup}

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            given = "is given beside epochs" if self.steps else "is missing, and so is epochs"
            raise at_key("steps", f"{given}; expected one of the two, and null for the other")
        return self


class Immunize(Training):
    """The alignment stage; the same for every defence."""

    lora: Lora | None = Lora()
    """null trains all weights."""

    def scaled(self, scale: float, rows: int | None, fewer: int | None) -> Immunize:
        """The same with that fraction of the steps, on `fewer` of the rows."""
        return self.model_copy(update=self._scaled_length(scale, rows, fewer))


class Attack(Training):
    """The user fine-tuning stage."""

    method: Literal["harmful-mix"]
    """The names of boostershot.attacks.ATTACKS."""
    adapter: Literal["continue", "fresh", "full", "published"]
    """continue trains what was immunised; fresh (a new adapter) and full (all weights) merge it first; published is
    what the tables of the Booster paper compare: continue for booster, fresh for every other method."""
    p: Share
    """The harmful share of the attacker's rows."""
    n: Count
    """How many rows the attacker has."""
    eval_steps: tuple[Annotated[Whole, Field(ge=0)], ...] = (0,)
    """Steps after which the model is scored, in order; the last step is added."""
    judged: StrictBool = True
    """false: follow the harmful losses only, answer nothing after step 0 (a control, and cheap)."""

    @property
    def total_steps(self) -> int:
        """How many optimiser steps the attack takes."""
        return self.steps_over(self.n)

    def against(self, defense: Mapping[str, Any]) -> Attack:
        """The attack as this defence meets it: adapter: published becomes one of the others."""
        if self.adapter != "published":
            return self
        own = defense["method"] == "booster"
        return self.model_copy(update={"adapter": "continue", "lora": None} if own else {"adapter": "fresh"})

    def scaled(self, scale: float) -> Attack:
        """The same with that fraction of the rows and steps; a batch of rows and a harmful one stay."""
        rows = _part(self.n, scale, max(self.batch, math.ceil(1 / self.p) if self.p else 1))
        shorter = self.model_copy(update={"n": rows, **self._scaled_length(scale, self.n, rows)})
        steps = {min(_part(step, scale, 0), shorter.total_steps) for step in self.eval_steps}
        return shorter.model_copy(update={"eval_steps": tuple(sorted(steps | {shorter.total_steps}))})

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        if list(self.eval_steps) != sorted(set(self.eval_steps)):
            raise at_key("eval_steps", f"is {shown(self.eval_steps)}; expected rising steps, each once")
        if self.eval_steps and self.eval_steps[-1] > self.total_steps:
            raise at_key("eval_steps", f"is {shown(self.eval_steps)}; expected steps from 0 to {self.total_steps}")
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
    n_harmful: Count = 150
    n_task: Count = 200
    max_new_tokens: Count = 16


class Resistance(Section):
    """How long an attack needs: of the recipe's own attacks, at their recorded steps."""

    threshold: Percent = 50.0
    """The harmful score in percent from which a model counts as broken."""
    attacks: Annotated[tuple[Label, ...], Field(min_length=1), AfterValidator(distinct)] | None = None
    """Labels of judged attacks; all that have harmful rows if not given."""


class SafeSource(Source):
    """Safe prompts that look harmful, such as XSTest's."""

    source: Text = "built-in:looks-harmful"
    """built-in:looks-harmful, a Hub id or a local file."""
    columns: dict[Literal["prompt", "type", "label"], Text] | None = None
    """Our column name -> the source's, where they differ."""


class TextSource(Source):
    """Neutral text."""

    source: Text = "built-in:neutral"
    """built-in:neutral, reasoning-gym:NAME, a Hub id or a local file."""
    columns: dict[Literal["text", "prompt", "completion"], Text] | None = None
    """Our column name -> the source's, where they differ."""
    options: Options | None = None
    """Of a reasoning-gym task."""


class Stability(Section):
    """What immunisation costs before any attack."""

    safe: SafeSource = SafeSource()
    """Safe prompts that look harmful, such as XSTest's: refusing them is over-refusal."""
    n_safe: Count | None = None
    """How many of them; all if not given."""
    texts: TextSource = TextSource()
    """Neutral text, for the perplexity; it is measured after attacks, too, as the utility that they cost."""
    n_texts: Count | None = None
    """How many of them; all if not given."""
    lm_eval: Annotated[tuple[Text, ...], AfterValidator(distinct)] = ()
    """Tasks of the lm-evaluation-harness (the extra lm-eval), by its names."""
    lm_eval_path: Text | None = None
    """A folder with lm-eval tasks of your own, beside its own tasks."""
    lm_eval_limit: Count | None = None
    """Rows of each lm-eval task; all if not given."""


class SecondSource(Source):
    """Harmful prompts of a source that alignment never sees."""

    columns: dict[Literal["prompt", "chosen", "rejected", "category"], Text] | None = None
    """Our column name -> the source's, where they differ."""


class Generalization(Section):
    """Immunise on some harm categories, attack with others; as many alignments a defence as there are groups."""

    groups: (
        Annotated[
            dict[Label, Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)]], Field(min_length=2)
        ]
        | None
    ) = None
    """Name -> categories of the alignment source. If not given, three groups: by falling size each category joins the
    group that has the fewest rows so far."""
    attack: Label | None = None
    """The attack; the first judged one with harmful rows if not given. Scored at its last step."""
    n: Count | None = None
    """Harmful prompts scored a group; evaluate.n_harmful if not given."""
    second: SecondSource | None = None
    """A second prompt source, never aligned on, that the model immunised on the whole first one is attacked with."""

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        seen: dict[str, str] = {}
        for name, categories in (self.groups or {}).items():
            for category in categories:
                if category in seen:
                    raise at_key("groups", f"has {shown(category)} in {seen[category]} and in {name}; expected one")
                seen[category] = name
        return self


class Trainability(Section):
    """Can the immunised model still learn a benign task? A fresh adapter, no harmful rows."""

    attack: Label | None = None
    """The attack whose rows, rate and batch the clean fine-tuning has; the first if not given."""
    n: Count | None = None
    """Benign rows; as many as that attack's rows if not given."""
    steps: Count | None = None
    """Optimiser steps; as many as that attack takes if not given."""
    points: Count = 4
    """At how many steps, evenly spaced, the accuracy is measured; before the first besides."""
    share: Annotated[Number, Field(gt=0, lt=100)] = 95.0
    """Percent of the un-immunised model's final accuracy that has to be reached."""


class Properties(Section):
    """The four immunisation properties, measured by --properties; null leaves one out."""

    resistance: Resistance | None = Resistance()
    stability: Stability | None = Stability()
    generalization: Generalization | None = Generalization()
    trainability: Trainability | None = Trainability()

    def scaled(self, scale: float) -> Properties:
        """The same with that fraction of the samples and steps; all of a source stays all."""
        fewer = {
            name: part.model_copy(update={key: n and _part(n, scale) for key, n in part if key in _SAMPLES})
            for name, part in self
            if part is not None
        }
        return self.model_copy(update=fewer)


_SAMPLES = ("n", "n_safe", "n_texts", "lm_eval_limit", "steps")  # what `scale` shortens in a property's section


class Runtime(Section):
    """What changes nothing that is measured, and is part of no stage's hash."""

    threads: Count | None = None
    """null leaves torch's own choice."""
    micro_batch_size: Count | None = None
    """Rows in one forward pass of training, the memory knob; null is the whole batch."""
    generation_batch_size: Count = 32
    generator: Literal["transformers", "vllm"] = "transformers"
    """What answers the prompts that are scored; vllm is an extra, for GPUs."""
    executor: Literal["local"] = "local"


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
    attacks: Annotated[dict[Label, Attack], Field(min_length=1)]
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    properties: Properties = Properties()
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
                if not key.startswith("trainability") and label not in self.harmful_attacks:
                    raise at_key(f"properties.{key}", f"is {shown(label)}; expected a judged attack with harmful rows")
        return self

    @property
    def harmful_attacks(self) -> tuple[str, ...]:
        """The labels of the judged attacks with harmful rows."""
        return tuple(label for label, attack in self.attacks.items() if attack.judged and attack.p > 0)

    @model_validator(mode="after")
    def _resolve_defenses(self) -> Self:
        """Last, because it needs torch."""
        for label, given in self.defenses.items():
            defense = build_defense(given, f"defenses.{label}")
            self.defenses[label] = describe_defense(defense)
            if "general" in defense.needs() and self.data.general is None:
                message = f"is missing, and defenses.{label} ({self.defenses[label]['method']}) needs general text"
                raise at_key("data.general", message + "; expected {source: ..., n: ...}")
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
            key: spec.model_copy(update={"n": spec.n and _part(spec.n, self.scale, batch)})
            for key, spec in (("align", data.align), ("harmful", data.harmful), ("general", data.general))
            if spec is not None
        }
        n_harmful, n_task = (_part(n, self.scale) for n in (self.evaluate.n_harmful, self.evaluate.n_task))
        return self.model_copy(
            update={
                "scale": 1.0,
                "data": data.model_copy(update=changed),
                "immunize": self.immunize.scaled(self.scale, data.align.n, changed["align"].n),
                "attacks": {label: attack.scaled(self.scale) for label, attack in self.attacks.items()},
                "evaluate": self.evaluate.model_copy(update={"n_harmful": n_harmful, "n_task": n_task}),
                "properties": self.properties.scaled(self.scale),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as JSON data; `parse_recipe` makes an equal recipe of it."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The part of the resolved recipe that decides what is measured: all but `runtime`."""
        return self.model_dump(mode="json", exclude={"runtime"})


def _part(n: int, scale: float, least: int = 1) -> int:
    """That fraction of n, but at least `least`, and never more than n."""
    return min(n, max(least, round(n * scale)))


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


def build_defense(mapping: object, where: str) -> Defense:
    """The defence that `{method: name, hyper-parameters}` describes; `align: {method: ...}` nests.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    from boostershot.defenses import DEFENSES
    from boostershot.defenses.finishing import stages_of

    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: is {shown(mapping)}; expected {{method: name, ...}}")
    if "method" not in mapping:
        for key in mapping:
            if nearest(key, ["method"]):
                raise InputError(f'{where}.{key}: unknown key; expected method (did you mean "method"?)')
        raise InputError(f"{where}.method: is missing; expected one of {', '.join(DEFENSES)}")
    method = mapping["method"]
    if not isinstance(method, str) or method not in DEFENSES:
        raise InputError(f"{where}.method: is {shown(method)}; {choices(method, DEFENSES)}")
    defense = _from_mapping(DEFENSES[method], mapping, where, method, ["method"])
    try:
        stages_of(defense)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return defense


def _from_mapping(kind: Any, mapping: Mapping[Any, Any], where: str, name: str, beside: Sequence[str] = ()) -> Any:
    """The dataclass `kind` with its fields from a mapping, which may have the keys `beside` too."""
    types_ = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in mapping:
        if key not in (*beside, *fields):
            raise InputError(f"{where}.{key}: unknown hyper-parameter of {name}; {choices(key, [*beside, *fields])}")
    values = {key: _hyper_parameter(mapping[key], types_[key], f"{where}.{key}") for key in fields if key in mapping}
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{key}: is missing; {name} has no default for it")
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def build_judge(given: object, where: str) -> tuple[str, JudgeSettings]:
    """The label and the settings of the judge that `NAME` or `{name: NAME, settings, label: own name}` describes.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    from boostershot.evaluation.judges import JUDGES

    mapping = {"name": given} if isinstance(given, str) else given
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: is {shown(given)}; expected a name or {{name: ..., ...}}")
    if "name" not in mapping:
        raise InputError(f"{where}.name: is missing; expected one of {', '.join(JUDGES)}")
    name = mapping["name"]
    if not isinstance(name, str) or name not in JUDGES:
        place = where if isinstance(given, str) else f"{where}.name"
        raise InputError(f"{place}: is {shown(name)}; {choices(name, JUDGES)}")
    label = mapping.get("label", name)
    if not isinstance(label, str) or not label.strip():
        raise InputError(f"{where}.label: is {shown(label)}; expected text")
    return label, _from_mapping(JUDGES[name], mapping, where, name, ["name", "label"])


def describe_judges(given: Sequence[object]) -> Iterator[dict[str, Any]]:
    """The mappings that `build_judge` makes the same judges of, with every setting.

    Raises:
        InputError: a judge is wrong, or two have the same label.
    """
    labels: set[str] = set()
    for position, one in enumerate(given):
        where = f"evaluate.judges[{position}]"
        label, settings = build_judge(one, where)
        if label in labels:
            raise InputError(f"{where}.label: {label!r} is there twice; expected a label of its own (label: ...)")
        labels.add(label)
        name = one if isinstance(one, str) else one["name"]  # pyright: ignore - a mapping, as build_judge saw
        yield {"name": name, "label": label, **dataclasses.asdict(settings)}


def describe_defense(defense: Defense) -> dict[str, Any]:
    """The mapping that `build_defense` makes the same defence of, with every hyper-parameter."""
    from boostershot.defenses import DEFENSES

    names = {kind: name for name, kind in DEFENSES.items()}
    described: dict[str, Any] = {"method": names[type(defense)]}
    for field in dataclasses.fields(defense):  # type: ignore[arg-type]
        if field.init:
            described[field.name] = _described(getattr(defense, field.name))
    return described


def _described(value: Any) -> Any:
    """A hyper-parameter as JSON data."""
    from boostershot.defenses import Defense

    if isinstance(value, Defense):
        return describe_defense(value)
    if isinstance(value, Mapping):
        return {key: _described(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_described(one) for one in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _hyper_parameter(value: Any, kind: Any, where: str) -> Any:
    """The value as a dataclass field of type `kind` takes it."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and types.NoneType in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    if kind in (float, int, str) or get_origin(kind) is Literal:
        return _plain_value(value, kind, where)
    from boostershot.defenses import Defense

    if kind is Defense:
        return build_defense(value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {shown(value)}; expected a mapping")
        return _from_mapping(kind, value, where, where.rpartition(".")[2])
    if get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {shown(value)}; expected a mapping")
        return {str(key): _hyper_parameter(one, get_args(kind)[1], f"{where}.{key}") for key, one in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: is {shown(value)}; expected a list")
        return tuple(_hyper_parameter(one, get_args(kind)[0], f"{where}[{i}]") for i, one in enumerate(value))
    if not isinstance(value, kind):
        raise InputError(f"{where}: is {shown(value)}; expected {kind.__name__}")
    return value


def _plain_value(value: Any, kind: Any, where: str) -> Any:
    """A number, a text, or one of a few; without torch."""
    try:
        if kind is float:
            return number(value)
        if kind is int:
            return whole(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise InputError(f"{where}: is {shown(value)}; {choices(value, map(str, get_args(kind)))}")
    if not isinstance(value, str):
        raise InputError(f"{where}: is {shown(value)}; expected text")
    return value
