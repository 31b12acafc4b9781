"""What the sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from boostershot.config.errors import at_key
from boostershot.errors import choices


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


def part_of(n: int, scale: float, least: int = 1) -> int:
    """That fraction of n, but at least `least`, and never more than n."""
    return min(n, max(least, round(n * scale)))
