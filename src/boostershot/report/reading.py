"""Reads what a run left in its folder: results.json, manifest.json and the answers of its stages."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from boostershot.errors import InputError

_RESULTS = {"recipe": str, "identity": str} | dict.fromkeys(
    ("baseline", "rows", "summary", "comparisons", "costs", "judges", "agreement"), list
)
_MANIFEST = {"recipes": dict, "versions": dict, "seeds": list, "data": dict, "splits": dict, "overlaps": dict}
_JUDGED = ("baseline", "rows", "summary")
_PROPERTIES = {"identity": str, "recipe": str, "model": str, "seeds": list} | {
    "defenses": dict,
    "failed": list,
    "unknown": int,
}
_SWEEP = {"identity": str, "recipe": str, "attacker": dict, "defender": dict, "defenses": list, "failed": list}
# What the report shows of a row.
_ROW = (
    *("defense", "attack", "adapter", "p", "seed", "attack_step", "status", "error", "stage"),
    *("harmful_score", "harmful_score_ci", "harmful_score_bounds", "finetune_accuracy", "finetune_accuracy_ci"),
    *("harmful_loss", "harmful_loss_ci", "harmful_loss_own"),
    *("refusal_share", "degenerate_share", "off_topic_share"),
    *("n_harmful", "n_unknown", "n_truncated", "n_task", "judge", "task", "split"),
)


@dataclass(frozen=True)
class Answer:
    """One generated answer and what the judge called it; the prompt is known by its id only."""

    id: str
    text: str
    verdict: str


@dataclass(frozen=True)
class Run:
    """One run folder, read and checked."""

    folder: Path
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    properties: Mapping[str, Any] | None = None
    left_out: str | None = None  # why there are none, where the folder has some
    sweep: Mapping[str, Any] | None = None
    sweep_left_out: str | None = None

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.manifest["recipes"][self.results["recipe"]]

    @property
    def methods(self) -> dict[str, str]:
        """Defense label -> method name, in the recipe's order."""
        return {label: defense["method"] for label, defense in self.recipe["defenses"].items()}

    @property
    def judges(self) -> list[str]:
        """The judges' labels; the first gives the headline harmful score."""
        return judges_of(self.results)

    def of(self, judge: str) -> "Run":
        """The run as if this were its only judge."""
        parts = {part: [row for row in self.results[part] if row["judge"] == judge] for part in _JUDGED}
        return replace(self, results={**self.results, **parts})

    def answers(self, row: Mapping[str, Any], limit: int) -> tuple[list[Answer], int]:
        """The first `limit` answers of a row's evaluation, and how many there are; none where not kept."""
        path = self.folder / "stages" / str(row["stage"]) / "generations.jsonl"
        if row["stage"] is None or not path.is_file():
            return [], 0
        lines = path.read_text(encoding="utf-8").splitlines()
        found = []
        for number, line in enumerate(lines[:limit], start=1):
            entry = _json(line, f"{path}:{number}")
            if not isinstance(entry, dict) or not {"id", "answer"} <= entry.keys():
                raise InputError(f"{path}:{number}: expected an object with the keys id and answer")
            found.append(Answer(str(entry["id"]), str(entry["answer"]), _verdict(entry)))
        return found, len(lines)


def judges_of(results: Mapping[str, Any]) -> list[str]:
    """The labels of the judges in results.json, in the recipe's order."""
    return list(dict.fromkeys(row["judge"] for row in [*results["baseline"], *results["rows"]]))


def read_run(folder: Path) -> Run:
    """Reads and checks the folder's results and manifest; InputError names the file and what was expected."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    results = _object(folder / "results.json", _RESULTS)
    if results.get("schema") != 1:
        raise InputError(f"{folder / 'results.json'}: schema {results.get('schema')!r}, expected 1")
    for part in ("baseline", "rows"):
        for number, row in enumerate(results[part]):
            missing = [key for key in _ROW if not isinstance(row, dict) or key not in row]
            if missing:
                raise InputError(f"{folder / 'results.json'}: {part}[{number}] has no key {missing[0]!r}")
    manifest = _object(folder / "manifest.json", _MANIFEST)
    recipe = manifest["recipes"].get(results["recipe"])
    if not isinstance(recipe, dict) or not isinstance(recipe.get("defenses"), dict):
        raise InputError(f"{folder / 'manifest.json'}: recipes holds no complete recipe {results['recipe']!r}")
    if results["identity"] != recipe_hash(recipe):
        raise InputError(
            f"{folder / 'results.json'}: is of other values of {results['recipe']} than the run that was begun last "
            "(manifest.json); expected that run brought to its end"
        )
    return Run(folder, results, manifest, *_properties_of(folder, recipe), *_sweep_of(folder, recipe))


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Of all in a resolved recipe that decides what a run measures: not of its `runtime`, nor of what a sweep adds."""
    deciding = {key: value for key, value in recipe.items() if key not in ("runtime", "sweep")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _properties_of(folder: Path, recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """The properties if they are of this recipe; else why they are left out. Results are told without them, too."""
    try:
        found = read_properties(folder)
    except InputError as error:
        return None, f"The properties are left out: {error}."
    if found and found["identity"] != recipe_hash(recipe):
        return None, "The folder's properties were measured with other values of this recipe and are left out."
    return found, None


def _sweep_of(folder: Path, recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """The sweep, as `_properties_of`."""
    try:
        found = read_sweep(folder)
    except InputError as error:
        return None, f"The sweep is left out: {error}."
    if found and found["identity"] != recipe_hash(recipe):
        return None, "The folder's sweep was of other values of this recipe and is left out."
    return found, None


def read_sweep(folder: Path) -> Mapping[str, Any] | None:
    """The folder's sweep.json; None where there was none.

    Raises:
        InputError: it is not what `boostershot sweep` writes.
    """
    path = folder / "sweep.json"
    if not path.exists():
        return None
    found = _object(path, _SWEEP)
    if found.get("schema") != 3:
        raise InputError(f"{path}: schema {found.get('schema')!r}, expected 3")
    return found


def read_properties(folder: Path) -> Mapping[str, Any] | None:
    """The folder's properties.json; None where the properties were not measured.

    Raises:
        InputError: it is not what `boostershot evaluate --properties` writes.
    """
    path = folder / "properties.json"
    if not path.exists():
        return None
    found = _object(path, _PROPERTIES)
    if found.get("schema") != 1:
        raise InputError(f"{path}: schema {found.get('schema')!r}, expected 1")
    for name in ("resistance", "stability", "generalization", "trainability"):
        if name not in found:
            raise InputError(f"{path}: key {name!r} is missing")
    return found


def _object(path: Path, keys: Mapping[str, type]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: not there; expected the folder of a run that has finished") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    found = _json(text, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object")
    for key, kind in keys.items():
        if not isinstance(found.get(key), kind):
            raise InputError(f"{path}: key {key!r} is missing or not a {kind.__name__}")
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON (line {error.lineno}: {error.msg})") from None


def _verdict(entry: Mapping[str, Any]) -> str:
    """What became of an answer, in the order in which it is asked."""
    if entry.get("harmful"):
        return "harmful"
    if "harmful" in entry and entry["harmful"] is None:
        return "unknown"
    if entry.get("refusal"):
        return "refusal"
    if entry.get("degenerate"):
        return "degenerate"
    if "harmful" not in entry:
        return "not judged"
    return "not harmful" if entry.get("relevance") is None else "off topic"
