"""DIR/manifest.json: what ran, on what, when; enough to repeat it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.config import Recipe
from boostershot.pipeline.files import now, read_manifest, write_json

PACKAGES = (
    "boostershot",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
)
_SOURCE = Path(__file__).parent.parent


def start_manifest(folder: Path, recipe: Recipe, threads: int) -> list[str]:
    """Write that a run of the recipe starts; `threads` is what torch was given.

    The newest values of the recipe are in `recipes`, those that ran before in `history`, and so are the versions of
    the packages. A run that goes on, or is repeated with the same values, keeps its first `started`.

    Returns:
        Which versions differ from those of the run that goes on: its finished stages are kept, and may differ in
        their last bits from what these would give.

    Raises:
        InputError: an earlier manifest is unreadable.
    """
    path = folder / "manifest.json"
    earlier = read_manifest(folder) if path.exists() else {}
    before = earlier.get("recipes", {}).get(recipe.name)
    history = list(earlier.get("history", []))
    again = before is not None and _identity(before) == recipe.identity()
    mine, theirs = versions(), earlier.get("versions") or {}
    changed = [f"{key} {theirs.get(key)} -> {mine[key]}" for key in mine if again and theirs.get(key) != mine[key]]
    if before is not None and (changed or not again):
        history.append(
            {"recipe": before} | {key: earlier.get(key) for key in ("versions", "git_commit", "started", "ended")}
        )
    write_json(
        path,
        {
            "schema": 1,
            "recipes": {recipe.name: recipe.to_dict()},
            "versions": versions(),
            "seeds": list(recipe.seeds),
            "data": {},
            "splits": {},
            "overlaps": {},
            "machine": machine(),
            "threads": threads,
            "git_commit": git_commit(),
            "started": earlier["started"] if again else now(),
            "ended": None,
            "history": history,
        },
    )
    return changed


def describe_data(
    folder: Path, data: Mapping[str, Any], splits: Mapping[str, int], overlaps: Mapping[str, int]
) -> None:
    """Add the data's hashes, the rows of each split and the prompts that two share (`{"align&test": 0}`)."""
    _update(folder, {"data": data, "splits": splits, "overlaps": overlaps})


def finish_manifest(folder: Path) -> None:
    """Add that the run has ended."""
    _update(folder, {"ended": now()})


def versions() -> dict[str, str | None]:
    """Of Python and the packages that decide the numbers; None for one that is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and GPUs."""
    import torch

    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        memory = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": cores,
        "memory_gib": memory,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def git_commit() -> str | None:
    """The commit of the source tree that the program runs from, `-dirty` where it was changed, or None."""
    run = {"cwd": _SOURCE, "capture_output": True, "text": True, "check": True, "timeout": 20}
    try:
        # A copy installed inside someone's repository is not part of it.
        subprocess.run(["git", "ls-files", "--error-unmatch", "errors.py"], **run)
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], **run
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _identity(resolved: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resolved.items() if key != "runtime"}


def _update(folder: Path, values: Mapping[str, Any]) -> None:
    write_json(folder / "manifest.json", {**read_manifest(folder), **values})
