"""The recipe's sections on training."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, model_validator

from boostershot.config.errors import at_key
from boostershot.config.section import Section, part_of
from boostershot.config.values import Count, ModuleNames, Number, Positive, Whole


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
    """Optimiser steps."""
    epochs: Count | None = None
    """In place of steps."""
    batch: Count = 8
    """Rows in one optimiser step."""
    lora: Lora | None = None
    """Rank, alpha, dropout and target modules of an adapter that is attached."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.1
    """Of the optimiser; biases and gains have none."""
    max_grad_norm: Positive = 1.0
    """Gradients longer than that are cut to it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate, after its warm-up."""
    warmup_steps: Annotated[Whole, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""

    def steps_over(self, rows: int) -> int:
        """How many optimiser steps a training on so many rows takes."""
        return self.steps if self.steps is not None else (self.epochs or 0) * math.ceil(rows / self.batch)

    def _scaled_length(self, scale: float, rows: int | None, fewer: int | None) -> dict[str, int]:
        """Fewer steps, or as many epochs over fewer rows as come nearest to that."""
        warmup = {"warmup_steps": round(self.warmup_steps * scale)}
        if self.steps is not None:
            return {"steps": part_of(self.steps, scale), **warmup}
        if rows is None or fewer is None:
            return warmup  # all rows of a source: who knows how many
        return {"epochs": max(1, round(scale * self.steps_over(rows) / math.ceil(fewer / self.batch))), **warmup}

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        return self._one_length()

    def _one_length(self) -> Self:
        """One of steps and epochs is given.

        Raises:
            PydanticCustomError: none or both are.
        """
        if (self.steps is None) == (self.epochs is None):
            given = "is given beside epochs" if self.steps else "is missing, and so is epochs"
            raise at_key("steps", f"{given}; expected one of the two, and null for the other")
        return self


class Immunize(Training):
    """The alignment stage; the same for every defence."""

    lora: Lora | None = Lora()
    """null trains all weights."""
    bf16: StrictBool = False
    """Arithmetic in bfloat16 (autocast), and with LoRA the frozen weights too; what is trained stays float32."""
    cached_layers: Annotated[Whole, Field(ge=0)] = 0
    """So many of the lowest decoder layers get no adapter; what they give for a row is computed once, kept on disk."""

    def adapter(self) -> dict[str, Any] | None:
        """What is attached, as `attach_lora` takes it."""
        return {**self.lora.model_dump(), "first_layer": self.cached_layers} if self.lora else None

    @model_validator(mode="after")
    def _caches_below_an_adapter(self) -> Self:
        if self.cached_layers and self.lora is None:
            raise at_key("cached_layers", f"is {self.cached_layers}; expected 0, for lora: null trains all layers")
        return self

    def scaled(self, scale: float, rows: int | None, fewer: int | None) -> Immunize:
        """The same with that fraction of the steps, on `fewer` of the rows."""
        return self.model_copy(update=self._scaled_length(scale, rows, fewer))
