"""Compare all defences on the built-in model: search each one's hyper-parameters on dev, then measure on test.

    python bench/defenses.py search [METHOD ...] [KEY=VALUE ...]   bench/search.yaml, one seed
    python bench/defenses.py table  [LABEL ...] [KEY=VALUE ...]    the chosen settings, three seeds

Without names, all that docs/defenses-search.json or docs/defenses.json does not hold yet, so that both go on where they
were stopped; with names, these anew. The first writes bench/chosen.yaml and docs/defenses-search.md too, the second
docs/defenses.md. A KEY=VALUE changes the recipe (`immunize.steps=96` for more of it).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from comparison import FIGURES, Record, choose, search_page, table_page

import boostershot as bs
from boostershot.config import Recipe, parse_recipe
from boostershot.config.reading import apply_overrides, read_recipe
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.files import read_json
from boostershot.pipeline.progress import Reporter
from boostershot.report import recipe_hash

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
SFT = {"sft": {"method": "sft"}}
# A trial is scored after the attack alone and on fewer answers: a hundred trials must fit in a few hours.
TRIAL = ("attacks.harmful-mix/continue.eval_steps=[10]", "evaluate.n_harmful=30", "evaluate.n_task=30")
# What stands in the table at the setting that Booster's own search chose, and is not searched for.
LIKE_BOOSTER = {
    "booster-exact": {"order": "exact"},
    "booster-3-steps": {"steps": 3},
    "booster-every-3": {"every": 3},
    "booster-quarter": {"harmful_share": 0.25},
}
# Does LoX's direction add to its length? The chosen rank may be all, and LoX then its own control.
LOW_RANK = {"method": "lox", "factor": 0.3, "rank": 3}
FRESH = (1, 2, 3)  # seeds of the table: the search's own would flatter what it chose
AT_ONCE = 2  # methods of the table in one run: three seeds of one alone leave the second of two processes idle


def recipe(
    name: str, split: str, seeds: Sequence[int], defenses: Mapping[str, Any], overrides: Sequence[str]
) -> Recipe:
    """bench/defenses.yaml with these defences beside SFT."""
    data = read_recipe(HERE / "defenses.yaml")
    data |= {"name": name, "seeds": list(seeds), "defenses": {**SFT, **defenses}}
    data["evaluate"]["split"] = split
    apply_overrides(data, overrides)
    return parse_recipe(data, "bench/defenses.yaml")


def settings_of(of: Recipe) -> dict[str, Any]:
    """What all methods of a record must share."""
    return of.model_dump(mode="json", include={"model", "data", "seeds", "immunize", "attacks", "evaluate"})


def measured(of: Recipe) -> bs.Results:
    """The run's results; cells that failed stand in them as failed."""
    folder = Path("runs") / of.name
    try:
        return bs.run(of, folder, reporter=Reporter())
    except StageFailed as error:
        print(error, file=sys.stderr)
        found = read_json(folder / "results.json") if (folder / "results.json").exists() else {}
        if found.get("identity") != recipe_hash(of.to_dict()):  # an earlier method's: this run came to none
            raise
        return bs.Results(folder, found)


# --- the search ---------------------------------------------------------------------------------------------------


def trials() -> dict[str, list[dict[str, Any]]]:
    """Method -> the settings to try."""
    found = yaml.safe_load((HERE / "search.yaml").read_text(encoding="utf-8"))
    return {label: [{"method": label, **values} for values in settings] for label, settings in found.items()}


def search(names: Sequence[str], overrides: Sequence[str]) -> None:
    """Try each method's settings, and choose."""

    def of(defenses: Mapping[str, Any]) -> Recipe:
        return recipe("search-defenses", "dev", [0], defenses, [*TRIAL, *overrides])

    tried = trials()
    record = Record(DOCS / "defenses-search.json", settings_of(of({})))
    for label in _asked_for(names, tried, record):
        results = measured(of({f"{label}-{i}": values for i, values in enumerate(tried[label])}))
        figures = {row["defense"]: _figures(row) for row in results.rows}
        if figures["sft"] is None:
            raise StageFailed("SFT failed, and no trial can be held against it; the same command tries again")
        found = [figures[f"{label}-{i}"] for i in range(len(tried[label]))]
        if None in found:
            print(f"{label}: a trial failed; `search {label}` tries again", file=sys.stderr)
        record.add(label, {"of": tried[label], "figures": found, "sft": figures["sft"]})
        (HERE / "chosen.yaml").write_text(
            "# Written by `make search-defenses`: the best of bench/search.yaml on dev (docs/defenses-search.md).\n"
            + yaml.safe_dump(_chosen(record, tried), sort_keys=False, width=110),
            encoding="utf-8",
        )
        (DOCS / "defenses-search.md").write_text(search_page(record, tried), encoding="utf-8")


def _figures(row: Mapping[str, Any]) -> dict[str, float] | None:
    return {key: row[key] for key in FIGURES} if row["status"] == "done" else None


def _chosen(record: Record, labels: Iterable[str]) -> dict[str, Any]:
    """Label -> setting, of the methods that have one; SDD has nothing to search."""
    found = {label: choose(record.entries[label]) for label in labels if label in record.entries}
    return {"sdd": {"method": "sdd"}, **{label: values for label, values in found.items() if values}}


# --- the table ----------------------------------------------------------------------------------------------------


def table(names: Sequence[str], overrides: Sequence[str]) -> None:
    """Measure the chosen settings on test."""

    def of(defenses: Mapping[str, Any]) -> Recipe:
        return recipe("bench-defenses", "test", FRESH, defenses, overrides)

    chosen = _read_chosen()
    compared = {**SFT, **with_variants(chosen)}
    record = Record(DOCS / "defenses.json", settings_of(of({})))
    asked = _asked_for(names, compared, record)
    for start in range(0, len(asked), AT_ONCE):
        labels = asked[start : start + AT_ONCE]
        results = measured(of({label: compared[label] for label in labels}))
        for label in labels:
            entry = _entry(results, label)
            if (entry["after"] or {"n_seeds": 0})["n_seeds"] < len(FRESH):
                print(f"{label}: a seed failed; `table {label}` tries again", file=sys.stderr)
            record.add(label, {"of": compared[label], **entry})
        page = table_page(record, compared, _without_setting(chosen))
        (DOCS / "defenses.md").write_text(page, encoding="utf-8")


def _without_setting(chosen: Mapping[str, Any]) -> dict[str, str]:
    """Why a method has no setting to be measured at: label -> reason."""
    file = DOCS / "defenses-search.json"
    searched = read_json(file)["methods"] if file.exists() else {}
    missing = [label for label in trials() if label not in chosen]
    return {label: "no trial keeps ability" if label in searched else "not searched" for label in missing}


def _read_chosen() -> dict[str, Any]:
    file = HERE / "chosen.yaml"
    if not file.exists():
        raise InputError("bench/chosen.yaml: is missing; make search-defenses writes it")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def with_variants(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen settings, what stands at Booster's, and LoX of a low rank beside its control."""
    found = dict(chosen)
    if "booster" in chosen:
        found |= {label: {**chosen["booster"], **change} for label, change in LIKE_BOOSTER.items()}
    if "lox" in chosen:
        found |= {"lox-low-rank": LOW_RANK, "lox-control": {**LOW_RANK, "control": True}}
    return found


def _entry(results: bs.Results, label: str) -> dict[str, Any]:
    """The figures over seeds before and after the attack, None where no seed got there; the cost relative to SFT."""
    items = {item["attack_step"]: item for item in results.summary if item["defense"] == label}
    costs = [one["relative_to_sft"] or {} for one in results.content["costs"] if one["defense"] == label]
    last = max(items, default=0)

    def figures(item: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if item is None else {"n_seeds": item["n_seeds"], **{key: item[key] for key in FIGURES}}

    return {
        "before": figures(items.get(0)),
        "after": figures(items.get(last) if last else None),
        "minus_sft": {key: (items[last]["minus_sft"] or {}).get(key) for key in FIGURES} if last else None,
        **{key: [one.get(key) for one in costs] for key in ("time", "memory")},
    }


# --- both ---------------------------------------------------------------------------------------------------------


def _asked_for(names: Sequence[str], known: Mapping[str, Any], record: Record) -> list[str]:
    """What to measure now: the named, or what the record lacks or holds of another setting.

    Raises:
        InputError: a name that is none.
    """
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{unknown[0]!r} is none of the compared; expected some of {', '.join(known)}")
    return [label for label, of in known.items() if label in names or (not names and not record.holds(label, of))]


def main(arguments: Sequence[str]) -> int:
    """2 where the arguments or files are wrong, 1 where SFT failed."""
    commands = {"search": search, "table": table}
    if not arguments or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    names = [argument for argument in arguments[1:] if "=" not in argument]
    try:
        commands[arguments[0]](names, [argument for argument in arguments[1:] if "=" in argument])
    except (InputError, StageFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
