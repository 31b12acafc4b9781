"""Alignment steps against each other and against the machine's matrix products."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import reference

import boostershot as bs
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.booster import Booster
from boostershot.defenses.defense import Defense
from engine.machine import Product, step_flops
from engine.timing import Ratio, interleaved, ratio
from engine.workload import Workload


@dataclass(frozen=True)
class Variant:
    """A defence whose cost is told beside Booster's.

    Args:
        defense: what is timed, which reads no other roles than align and harmful.
        period: steps after which its work repeats; a mean over so many is timed.
    """

    defense: Defense
    period: int = 1


def variants(booster: Defense) -> dict[str, Variant]:
    """What a step may be exchanged for, by label: dearer and more exact, or cheaper."""
    assert isinstance(booster, Booster)
    return {
        "`order: exact`": Variant(replace(booster, order="exact")),
        "three simulated steps": Variant(replace(booster, steps=3)),
        "`every: 3`": Variant(replace(booster, every=3), 3),
        "`harmful_share: 0.375`": Variant(replace(booster, harmful_share=0.375)),  # three rows of eight
        "`reuse: 4`": Variant(replace(booster, reuse=4), 4),
    }


class PassClock(Oracle):
    """An oracle that adds up the seconds of its gradients."""

    inside = 0.0

    def gradient(self, *args: Any, **kwargs: Any) -> Step:
        """As the oracle's own."""
        started = time.perf_counter()
        found = super().gradient(*args, **kwargs)
        self.inside += time.perf_counter() - started
        return found


def against_sft(work: Workload, repeats: int) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """Booster's step over SFT's on the same tokens, and the share of it that is no pass."""
    outside: list[float] = []

    def booster(number: int) -> None:
        align = work.align[number % len(work.align)]
        oracle, started = PassClock(work.model, step=number), time.perf_counter()
        work.booster.step(oracle, Batch(align=align, harmful=align))
        outside.append(1 - oracle.inside / (time.perf_counter() - started))

    sides = {"sft": partial(work.step, bs.SFT()), "booster": booster}
    seconds = interleaved(sides, repeats)
    found = {"Booster's step / SFT's": ratio(seconds["booster"], seconds["sft"], target=3.05)}
    return found, {"seconds": seconds, "outside": median(outside[1:])}


def variants_against_sft(
    work: Workload, repeats: int, chosen: Mapping[str, Variant] | None = None
) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """The step of each variant over SFT's on the same tokens."""
    chosen = variants(work.booster) if chosen is None else chosen

    def several(variant: Variant, number: int) -> None:
        state: dict[str, Any] = {}
        tensors: dict[str, Any] = {}
        for step in range(variant.period):
            align = work.align[number % len(work.align)]
            oracle = Oracle(work.model, step=step, state=state, tensors=tensors)
            variant.defense.step(oracle, Batch(align=align, harmful=align, parts=variant.defense.reads()))

    sides = {label: partial(several, variant) for label, variant in chosen.items()}
    seconds = interleaved({"sft": partial(work.step, bs.SFT()), **sides}, repeats)
    found = {}
    for label, variant in chosen.items():
        each = [one / variant.period for one in seconds[label]]
        found[f"{label} / SFT's step"] = ratio(each, seconds["sft"])
    return found, {"seconds": seconds}


def against_reference(work: Workload, repeats: int) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """The reference trainer's Booster step over ours, on the quickstart's rows."""
    assert isinstance(work.booster, Booster)
    lam, alpha = work.booster.lam, alpha_of(work)

    def plain(number: int) -> None:
        rows = [padded_batch(some[number % len(some)]) for some in (work.align, work.harmful)]
        reference.booster_step(work.model, *rows, lam, alpha)

    seconds = interleaved({"ours": partial(work.step, work.booster), "reference": plain}, repeats)
    work.model.zero_grad()
    found = {"the reference trainer's Booster step / ours": ratio(seconds["reference"], seconds["ours"], "higher", 2.5)}
    return found, {"seconds": seconds, "arithmetic": reference_arithmetic(work, repeats)}


def reference_arithmetic(work: Workload, repeats: int) -> float:
    """The floating-point operations of the reference's Booster steps over those of ours."""

    def total(plain: bool) -> float:
        passes = [(work.align, 1), (work.harmful, 2)]
        return sum(
            times * step_flops(work.model, rows[number % len(rows)], plain=plain)
            for rows, times in passes
            for number in range(repeats)
        )

    return total(True) / total(False)


def against_the_peak(work: Workload, repeats: int, size: int = 2048) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """The arithmetic of a step's distinct tokens in a second, over that of a large matrix product."""
    product = Product(size)
    seconds = interleaved({"product": product, "sft": partial(work.step, bs.SFT())}, repeats)
    flops = [step_flops(work.model, work.align[number % len(work.align)]) for number in range(repeats)]
    speeds = [count / took for count, took in zip(flops, seconds["sft"], strict=True)]
    peaks = [product.flops / took for took in seconds["product"]]
    found = {"SFT's step, of the machine's matrix products": ratio(speeds, peaks, "higher", 0.7)}
    return found, {"seconds": seconds, "size": size, "peak_gflops": median(peaks) / 1e9, "step_gflop": flops[0] / 1e9}


def alpha_of(work: Workload) -> float:
    """The length of the simulated step."""
    assert isinstance(work.booster, Booster)
    if work.booster.alpha is not None:
        return work.booster.alpha
    assert work.booster.alpha_per_weight is not None
    return work.booster.alpha_per_weight * Oracle(work.model).trainable_weights ** 0.5


def padded_batch(rows: Rows) -> dict[str, Any]:
    """As a plain trainer takes them: padded to the longest row."""
    return {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask.long(), "labels": rows.labels}
