"""The shipped search spaces of an attacker, by name, as a recipe writes them.

`default` is ours. `tamperbench` repeats the ranges that TamperBench (arXiv 2602.06911) publishes for its LoRA attack,
with LoRA alpha twice the rank; of its prompt formats the plain one (raw) and the model's own (null) are ours too.
Steps and rows above the attacker's budget are left out of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPACES: Mapping[str, Mapping[str, Any]] = {
    "default": {
        "adapter": ["continue", "fresh", "full"],
        "lr": {"low": 1e-6, "high": 1e-2, "log": True},
        "batch": [4, 8, 16, 32],
        "steps": {"low": 10, "high": 10_000, "log": True},
        "p": {"low": 0.05, "high": 1.0},
        "lora.rank": {"values": [4, 8, 16, 32, 64], "when": {"adapter": ["fresh"]}},
        "lora.alpha": {"times": 1, "of": "lora.rank"},
        "optimizer": ["adamw", "sgd", "adafactor", "lion"],
        "schedule": ["constant", "linear", "cosine"],
        "template": [None, "alpaca", "raw"],
    },
    "tamperbench": {
        "adapter": ["fresh"],
        "lr": {"low": 1e-6, "high": 1e-3, "log": True},
        "batch": [8, 16, 32, 64],
        "steps": [16, 64, 128, 256, 512, 1024],
        "p": [1.0],
        "lora.rank": [8, 16, 32, 64],
        "lora.alpha": {"times": 2, "of": "lora.rank"},
        "schedule": ["constant", "cosine"],
        "template": [None, "raw"],
    },
}
