"""Will a recipe fit, and how long will it take: memory and time of its stages on given devices, from formulae.

Passes and tokens are those of `pipeline.estimate`, the tensors beside a gradient those that a defence declares
(`Cost.memory`, held against measurement by tests), and activations those of dry steps (`pipeline.footprint`).
docs/plan.md holds the formulae against measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from transformers import PretrainedConfig

from boostershot.attacks.grpo import Reinforced
from boostershot.config import AttackSettings, Recipe, build_defense
from boostershot.defenses.defense import Cost
from boostershot.defenses.finishing import heaviest_of
from boostershot.pipeline.devices import Device
from boostershot.pipeline.estimate import PROMPT, Work
from boostershot.pipeline.footprint import BYTES, TRAINED, Footprint, Precision

Layout = Literal["one device", "DDP", "FSDP2"]
USABLE = 0.94  # of a device's memory: the rest is the driver's context and what the allocator cannot join
STATE = {"adamw": 2.0, "sgd": 0.0, "adafactor": 0.0, "lion": 1.0}  # optimiser's tensors of the trainables' size
MOST_DEVICES = 512

# Declared activations in words -> numbers of float32, of the tokens t of a batch, layers n, width d, vocabulary v.
KEPT = {
    "one tensor of each attention output of the batch": lambda t, n, d, v: t * n * d,
    "one tensor of each sampled attention output": lambda t, n, d, v: t * n * d,  # those of all layers, at most
    "the feed-forward outputs of the harmful answers, and as much noise": lambda t, n, d, v: 3 * t * n * d,
    "the start's hidden states of the general rows": lambda t, n, d, v: t * (n + 1) * d,
    "the start's hidden states of all answers": lambda t, n, d, v: 2 * t * (n + 1) * d,
    "the start's hidden states of all answers, and its predictions of the benign ones": (
        lambda t, n, d, v: 2 * t * (n + 1) * d + t * v
    ),
    "the teacher's log-probabilities of the batch's tokens": lambda t, n, d, v: t * v,
}
DOUBLE_BACKWARD = "those of a double backward"  # the graph of the first backward: as much again


@dataclass(frozen=True)
class Setting:
    """How a stage is done.

    Args:
        layout: everything on each device (one device, DDP), or weights and their states in shards (FSDP2).
        count: devices.
        micro_batch: rows in one forward pass of an alignment; None takes all that a device has.
        checkpointing: of activations.
        precision: of frozen weights and arithmetic; what is trained stays float32.
        base: the same of the base model that is kept beside; None is `precision`.
    """

    layout: Layout = "one device"
    count: int = 1
    micro_batch: int | None = None
    checkpointing: bool = False
    precision: Precision = "float32"
    base: Precision | None = None

    @property
    def shards(self) -> int:
        """Devices that share one copy of the weights."""
        return self.count if self.layout == "FSDP2" else 1


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a stage."""

    weights: float
    base: float  # the base model, which the judge keeps beside the one in work
    gradients: float
    optimizer: float
    defense: float  # the defence's tensors beside the gradient, and what it keeps of activations
    activations: float  # of the layers, or the cache of keys and values
    vocabulary: float  # the projection to the vocabulary, embeddings, the mask
    gathered: float  # layers that FSDP2 has put together
    overlap: float = 0.0  # activations that the backward has freed by the time that the gradients are there

    @property
    def total(self) -> float:
        """All that is there at once."""
        return sum(self.__dict__.values()) - 2 * self.overlap


@dataclass(frozen=True)
class Stage:
    """A kind of stage of a recipe, done `times` over."""

    what: str
    times: int
    footprint: Footprint
    rows: int  # of an optimiser step, or of a batch of answers
    length: int  # of the longest row, in tokens
    tokens: float  # that are read, in all passes
    passes: float
    cost: Cost  # of a step
    state: float  # the optimiser's tensors
    trains: bool
    splits: bool  # into micro-batches, the result unchanged
    written: float = 0  # tokens that are generated one after the other

    def memory(self, setting: Setting) -> Memory:
        """What it takes on one device."""
        weights, shards, precise = self.footprint.weights(), setting.shards, BYTES[setting.precision]
        own = (weights.frozen * precise + weights.trainable * TRAINED) / shards
        base = weights.frozen if self.footprint.lora is not None else weights.all
        base = base * BYTES[setting.base or setting.precision] / shards
        gathered = 0.0 if shards == 1 else (2 * weights.block + weights.root) * precise
        if not self.trains:
            return self._answering(setting, own, base, gathered)
        rows = math.ceil(self.rows / setting.count)
        micro = min(rows, setting.micro_batch or rows) if self.splits else rows
        layers, layer, rest = self.footprint.step(micro, self.length, setting.checkpointing, setting.precision)
        trained = weights.trainable * TRAINED / shards
        extra = self.cost.memory * trained + 4 * self._kept(rows * self.length)
        if DOUBLE_BACKWARD in self.cost.activations:
            extra += layers + rest
        if shards > 1 and self.footprint.lora is None:
            gathered += weights.block * TRAINED  # a layer's gradient before it is scattered
        overlap = min(trained, layers - layer)
        return Memory(own, base, trained, self.state * trained, extra, layers, rest, gathered, overlap)

    def _answering(self, setting: Setting, own: float, base: float, gathered: float) -> Memory:
        each = BYTES[setting.precision]
        cache = self.rows * self.length * self.footprint.cached_numbers * each
        text = self.footprint.text
        inner = getattr(text, "intermediate_size", None) or 4 * self.footprint.width
        passing = self.rows * self.length * (4 * self.footprint.width + 3 * inner) * each  # a layer's, as it is passed
        return Memory(own, base, 0, 0, 0, cache + passing, self.rows * self.footprint.vocabulary * 8, gathered)

    def _kept(self, tokens: int) -> float:
        shape = (tokens, self.footprint.layers, self.footprint.width, self.footprint.vocabulary)
        return sum(KEPT[words](*shape) for words in self.cost.activations.split("; ") if words in KEPT)

    def seconds(self, device: Device, setting: Setting) -> float:
        """How long one of them takes; comparisons are better than the figures."""
        weights, count = self.footprint.weights(), setting.count
        together = self.tokens / self.passes if self.passes else self.length  # the tokens that attention compares
        forward = 2 * weights.products + 4 * self.footprint.layers * self.footprint.attention_width * together
        if self.trains:
            backward = 2 * forward if self.footprint.lora is None else forward + 2 * weights.trainable
            work = self.tokens * (forward + backward + forward * setting.checkpointing)
        else:
            work = self.tokens * forward
        speed = device.efficiency * (device.bfloat16 if setting.precision == "bfloat16" else device.float32)
        shared = count if self.trains else 1  # one model's answers are one device's work
        stored = weights.all * BYTES[setting.precision]
        reading = self.written * stored / (device.bandwidth if setting.shards == 1 else device.link)
        return max(work / speed / shared, self._sending(setting, stored) / device.link) + reading

    def _sending(self, setting: Setting, stored: float) -> float:
        """Bytes that a device sends: weights before each forward and backward, gradients after each pass."""
        share = (setting.count - 1) / setting.count
        gradients = self.footprint.weights().trainable * TRAINED * share * self.passes
        if setting.layout == "FSDP2":
            return 2 * stored * share * self.passes + gradients
        return 2 * gradients if self.trains else 0.0


def stages(recipe: Recipe, config: PretrainedConfig) -> Iterator[Stage]:
    """Every kind of stage of a recipe, once; seeds and attacked steps are counted in `times`.

    Args:
        recipe: as it is loaded; its scale is applied.
        config: of its model.
    """
    recipe = recipe.scaled()
    work, seeds = Work(recipe), len(recipe.seeds)
    settings = recipe.immunize
    aligned = Footprint(config, settings.adapter())
    scored = 1
    for label, given in recipe.defenses.items():
        defense = build_defense(given, f"defenses.{label}")
        planned = work.immunizing(label, label, work.rows)
        yield Stage(
            *(f"immunise: {label}", seeds, aligned, settings.batch, recipe.data.max_length, planned.tokens),
            *(planned.passes, heaviest_of(defense), STATE["adamw"], True, True),
        )
        scored += seeds
    for label, a, met in _attacks(recipe):
        if a.attack.trains:
            yield _attack(recipe, work, label, a, met, aligned, config)
            judged = sum(step > 0 for step in a.eval_steps) if a.judged else 0
        else:
            judged = 1
        scored += judged * seeds * len(met) * len(a.attack.askings)
    evaluate, batch = recipe.evaluate, recipe.runtime.generation_batch_size
    asked = math.ceil(evaluate.n_harmful / batch) + math.ceil(evaluate.n_task / batch)
    yield Stage(
        *("evaluate", scored, aligned, batch, PROMPT + evaluate.max_new_tokens, work.scoring(), 0, Cost(), 0.0),
        *(False, False, asked * evaluate.max_new_tokens),
    )


def _attacks(recipe: Recipe) -> Iterator[tuple[str, AttackSettings, list[str]]]:
    """Each attack in each mode that some defence meets it in, once, with the labels of those defences."""
    modes: dict[str, tuple[AttackSettings, list[str], list[str]]] = {}
    for label, a in recipe.attacks.items():
        for defense, given in recipe.defenses.items():
            met = a.against(given)
            _, labels, defenses = modes.setdefault(met.model_dump_json(), (met, [], []))
            labels += [label] if label not in labels else []
            defenses += [defense] if defense not in defenses else []
    for met, labels, defenses in modes.values():
        yield " and ".join(labels), met, defenses


def _attack(
    recipe: Recipe,
    work: Work,
    label: str,
    a: AttackSettings,
    met: Sequence[str],
    aligned: Footprint,
    config: PretrainedConfig,
) -> Stage:
    trained = aligned
    if a.adapter != "continue":
        trained = Footprint(config, a.lora.model_dump() if a.adapter == "fresh" and a.lora else None)
    # The attack that opposes a defence costs as much as the dearest one that it meets.
    planned = max((work.attacking(label, a, recipe.defenses[one]) for one in met), key=lambda one: one.tokens)
    state = STATE[a.optimizer] + (bool(a.momentum) if a.optimizer in ("sgd", "adafactor") else 0)
    beside = 0.0
    if a.anchor is not None:
        beside += 1 + 2 * a.anchor.kl  # the term's gradient waits; with kl the start's weights and those of the step
    if planned.passes > planned.steps and not a.anchor:
        beside += 2  # a perturbed or opposed step: a copy of the weights and a gradient that waits
    written = planned.steps * getattr(a.attack, "answer_tokens", 0) if isinstance(a.attack, Reinforced) else 0
    return Stage(
        *(f"attack: {label}", len(recipe.seeds) * len(met), trained, a.batch, recipe.data.max_length, planned.tokens),
        *(planned.passes, Cost(memory=beside), float(state), True, False, written),
    )


@dataclass(frozen=True)
class Planned:
    """A stage in one setting on one device."""

    stage: Stage
    setting: Setting
    device: Device

    @property
    def memory(self) -> Memory:
        """As the setting is."""
        return self.stage.memory(self.setting)

    @property
    def fits(self) -> bool:
        """Does it?"""
        return self.memory.total <= USABLE * self.device.memory

    def remedy(self) -> str:
        """The least that makes it fit, in words."""
        setting, changes = self.setting, dict[str, dict[str, Any]]()
        if self.stage.trains:
            if self.stage.splits and setting.micro_batch != 1:
                changes["micro-batches of one row"] = {"micro_batch": 1}
            if not setting.checkpointing:
                changes["activation checkpointing"] = {"checkpointing": True}
        if setting.precision == "float32":
            changes["bfloat16"] = {"precision": "bfloat16"}
        for size in range(1, len(changes) + 1):
            for chosen in combinations(changes, size):
                if self._with(**{key: value for name in chosen for key, value in changes[name].items()}).fits:
                    return " and ".join(chosen)
        everything = {key: value for change in changes.values() for key, value in change.items()}
        for lighter, words in (({}, "FSDP2 over {} devices"), (everything, "{} and FSDP2 over {{}} devices")):
            count = max(2, setting.count if setting.layout != "FSDP2" else 2 * setting.count)
            while count <= MOST_DEVICES:
                if self._with(layout="FSDP2", count=count, **lighter).fits:
                    return words.format(", ".join(changes)).format(count) if lighter else words.format(count)
                count *= 2
        return f"nothing here, up to {MOST_DEVICES} such devices" + (
            "; LoRA in place of all weights" if self.stage.footprint.lora is None else ""
        )

    def _with(self, **changes: Any) -> Planned:
        return replace(self, setting=replace(self.setting, **changes))

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: bytes on a device, seconds for one such stage."""
        checkpointed = self._with(checkpointing=True).memory.activations if self.stage.trains else None
        return {
            "stage": self.stage.what,
            "times": self.stage.times,
            "layout": self.setting.layout,
            "devices": self.setting.count,
            "memory": {**self.memory.__dict__, "total": self.memory.total},
            "activations_checkpointed": checkpointed,
            "fits": self.fits,
            "remedy": None if self.fits else self.remedy(),
            "seconds": self.stage.seconds(self.device, self.setting),
        }


def settings(stage: Stage, recipe: Recipe, count: int, bf16: bool | None, checkpointing: bool | None) -> list[Setting]:
    """One device, and for several DDP and FSDP2 besides; None takes what the recipe says of this stage."""
    runtime = recipe.runtime
    half = stage.splits and recipe.immunize.bf16 if bf16 is None else bf16
    again = not stage.written and runtime.checkpointing if checkpointing is None else checkpointing
    one = Setting("one device", 1, _rows(recipe), again, "bfloat16" if half else "float32")
    if bf16 is None:
        one = replace(one, base="float32")  # the judge's, which is no part of the alignment
    if count == 1:
        return [one]
    return [one, replace(one, layout="DDP", count=count), replace(one, layout="FSDP2", count=count)]


def _rows(recipe: Recipe) -> int | None:
    """Rows of `data.max_length` in one forward pass of the alignment; None for no bound."""
    runtime = recipe.runtime
    tokens = runtime.tokens_per_micro_batch
    bounds = [runtime.micro_batch_size, tokens and max(1, tokens // recipe.data.max_length)]
    return min((bound for bound in bounds if bound), default=None)


def plan(
    recipe: Recipe,
    config: PretrainedConfig,
    device: Device,
    count: int = 1,
    bf16: bool | None = None,
    checkpointing: bool | None = None,
) -> list[Planned]:
    """Each stage of a recipe under one device, and for several devices under DDP and FSDP2.

    Args:
        recipe: as it is loaded.
        config: of its model.
        device: of which there are `count`.
        count: devices.
        bf16: frozen weights and arithmetic of every stage in bfloat16 or in float32; None takes the recipe's.
        checkpointing: of the activations of every training; None takes the recipe's.
    """
    planned = [
        [Planned(stage, setting, device) for setting in settings(stage, recipe, count, bf16, checkpointing)]
        for stage in stages(recipe, config)
    ]
    return [one for layout in zip(*planned, strict=True) for one in layout]
