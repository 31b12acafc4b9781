"""Recipes: read from YAML, checked before anything starts, and what their mappings describe."""

from boostershot.config.attacks import AttackSettings
from boostershot.config.build import (
    build_attack,
    build_defense,
    build_judge,
    build_preference,
    describe_attack,
    describe_defense,
)
from boostershot.config.data import AlignSource, Source, TaskSource
from boostershot.config.properties import Generalization, Stability, Trainability
from boostershot.config.recipe import Recipe, Runtime, load_recipe, parse_recipe
from boostershot.config.training import Immunize, Lora, Training

__all__ = [
    "AlignSource",
    "AttackSettings",
    "Generalization",
    "Immunize",
    "Lora",
    "Recipe",
    "Runtime",
    "Source",
    "Stability",
    "TaskSource",
    "Trainability",
    "Training",
    "build_attack",
    "build_defense",
    "build_judge",
    "build_preference",
    "describe_attack",
    "describe_defense",
    "load_recipe",
    "parse_recipe",
]
