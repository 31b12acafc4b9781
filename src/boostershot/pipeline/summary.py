"""What the rows of a run say together: figures over seeds, differences to SFT, relative cost, observations.

Rows, and the items made of them, are the plain dicts of results.json. A figure of an item is
`{"mean": m, "ci": [low, high] | None}` in the row's unit (percent, or nats a token for a loss), or None where
nothing was measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from boostershot.evaluation.statistics import mean_interval, mean_over_seeds, share_interval, wilson
from boostershot.pipeline.comparisons import SHARES, Read, Row, by_any_prompt, difference
from boostershot.pipeline.files import read_jsonl

_LOSSES = ("harmful_loss", "harmful_loss_own")
_LIKELIHOOD = "task_log_likelihood"  # of a task that no rule scores
_COMPARED = ("harmful_score", "finetune_accuracy", "win_rate", "harmful_loss", "degenerate_share")
_CELL = ("defense", "attack", "adapter", "asked", "template", "p", "attack_step", "judge", "task", "split")


def reference_label(methods: Mapping[str, str]) -> str | None:
    """The defense that the others are compared with: the first label whose method is sft, if there is one."""
    return next((label for label, method in methods.items() if method == "sft"), None)


def read_verdicts(stages: Path, row: Row) -> dict[str, dict[str, float]] | None:
    """One row's per-prompt figures, from verdicts.jsonl and task.jsonl of its stage folder under `stages`.

    Returns figure name -> prompt id -> value, with shares in percent (0 or 100), or None where the row has no
    stage. Bind the folder to use it with `summarise`: `partial(read_verdicts, folder)`.
    """
    if row["stage"] is None:
        return None
    folder = stages / row["stage"]
    found: dict[str, dict[str, float]] = {}
    for file, key, figure in (
        ("verdicts.jsonl", "harmful", "harmful_score"),
        ("verdicts.jsonl", "degenerate", "degenerate_share"),
        ("verdicts.jsonl", "harmful_loss", "harmful_loss"),
        ("task.jsonl", "correct", "finetune_accuracy"),
        ("task.jsonl", "log_likelihood", _LIKELIHOOD),
        ("task.jsonl", "win", "win_rate"),
    ):
        path = folder / file
        if not path.is_file():
            continue
        unit = 100.0 if figure in SHARES else 1.0
        values = {line["id"]: unit * line[key] for line in read_jsonl(path) if line.get(key) is not None}
        if values:
            found[figure] = values
    return found


def summarise(rows: Sequence[Row], methods: Mapping[str, str], verdicts: Read) -> list[dict[str, Any]]:
    """One item for each defense, attack and step that at least one seed finished, in the order of the rows.

    Args:
        rows: rows of results.json, without the baseline; failed ones are left out.
        methods: defense label -> method name; the first label with method "sft" is the reference.
        verdicts: one row's per-prompt figures (figure name -> prompt id -> value in the row's unit), or None.

    Two seeds or more: the mean of the rows' figures, and the interval of `statistics.mean_over_seeds`, in which an
    unknown verdict counts no more than it does in its row; for shares see `statistics.share_interval`. Where a row has
    no figures by prompt (a loss that was followed but not judged), a t interval over seeds, cut at 0 (and 100 for
    shares). One seed: the row's own interval over prompts. Differences to the reference: see `comparisons.difference`.
    """
    reference = reference_label(methods)
    cells = _grouped(rows)
    items = []
    for cell, by_seed in cells.items():
        item: dict[str, Any] = dict(zip(_CELL, cell, strict=True))
        item["n_seeds"] = len(by_seed)
        for figure in (*SHARES, *_LOSSES, _LIKELIHOOD):
            item[figure] = _over_seeds(list(by_seed.values()), figure, verdicts)
        theirs = cells.get((reference, *cell[1:]), {}) if item["defense"] != reference else {}
        item["minus_sft"] = _minus(by_seed, theirs, verdicts)
        items.append(item)
    return items


def relative_costs(costs: Sequence[Row], methods: Mapping[str, str]) -> list[dict[str, Any]]:
    """The costs with `relative_to_sft`: time, memory and passes as multiples of SFT's with the same seed.

    Time and passes are of the whole training, to which a stage after the alignment adds steps. None where the run has
    no SFT with that seed; a single ratio is None where one side was not measured.
    """
    reference = reference_label(methods)
    base = {cost["seed"]: cost for cost in costs if cost["defense"] == reference}

    def whole(cost: Row) -> dict[str, float | None]:
        def of_all_steps(key: str) -> float | None:
            return cost[key] and cost[key] * cost["steps"]

        return {
            "time": of_all_steps("seconds_per_step"),
            "memory": cost["peak_memory_bytes"],
            "passes": of_all_steps("passes_per_step"),
        }

    def relative(cost: Row) -> dict[str, float | None] | None:
        sft = base.get(cost["seed"])
        if sft is None:
            return None
        theirs = whole(sft)
        pairs = {name: (value, theirs[name]) for name, value in whole(cost).items()}
        return {name: mine / other if mine and other else None for name, (mine, other) in pairs.items()}

    return [{**cost, "relative_to_sft": relative(cost)} for cost in costs]


def observations(rows: Sequence[Row], methods: Mapping[str, str]) -> list[dict[str, Any]]:
    """Whether the Booster paper's three observations (arXiv:2409.01586, sections 3 and 5) hold in these rows.

    One item `{"claim", "holds", "text"}` for each observation, and for each adapter mode where there are
    several. `holds` is None where the attacks that it needs were not run. With two seeds or more a change
    counts only where its interval leaves 0 out.
    """
    rows = [row for row in rows if row["asked"] == "plain" and row["adapter"] is not None]  # fine-tuned, asked plainly
    done = [row for row in rows if row["status"] == "done" and row["harmful_loss"] is not None]
    adapters = list(dict.fromkeys(row["adapter"] for row in rows)) or [None]
    sft = reference_label(methods)
    boosters = [label for label, method in methods.items() if method == "booster"] or [None]
    items = []
    for adapter in adapters:
        here = [row for row in done if row["adapter"] == adapter]
        found = [_harmful_falls_fast(here, sft), _held_out_follows(here, sft)]
        names = ["Booster"] if len(boosters) == 1 else boosters
        found += [_booster_starts_lower(here, *pair, sft) for pair in zip(boosters, names, strict=True)]
        for claim, holds, text in found:
            mode = f" ({adapter} adapter)" if len(adapters) > 1 else ""
            items.append({"claim": claim + mode, "holds": holds, "text": text})
    return items


def _grouped(rows: Iterable[Row]) -> dict[tuple[Any, ...], dict[int, Row]]:
    cells: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        if row["status"] == "done":
            cells.setdefault(tuple(row[key] for key in _CELL), {})[row["seed"]] = row
    return cells


def _over_seeds(rows: Sequence[Row], figure: str, verdicts: Read) -> dict[str, Any] | None:
    known = [row for row in rows if row.get(figure) is not None]
    values = [row[figure] for row in known]
    if not values:
        return None
    if len(values) == 1:
        return {"mean": values[0], "ci": _own_interval(known[0], figure)}
    found = [verdicts(row) or {} for row in known]
    if all(one.get(figure) for one in found):
        by_seed = by_any_prompt(found, figure)
        mean, *ci = share_interval(by_seed) if figure in SHARES else mean_over_seeds(by_seed)
        return {"mean": mean, "ci": ci}
    mean, low, high = mean_interval(values)
    least = low if figure == _LIKELIHOOD else max(low, 0.0)
    return {"mean": mean, "ci": [least, min(high, 100.0) if figure in SHARES else high]}


def _own_interval(row: Row, figure: str) -> list[float] | None:
    if figure == "degenerate_share":
        return list(wilson(round(row[figure] * row["n_harmful"] / 100), row["n_harmful"]))
    return row.get(f"{figure}_ci")


def _minus(ours: Mapping[int, Row], theirs: Mapping[int, Row], verdicts: Read) -> dict[str, Any] | None:
    if not ours.keys() & theirs.keys():
        return None
    return {figure: difference(ours, theirs, figure, verdicts) for figure in _COMPARED}


def _course(rows: Sequence[Row], defense: str | None, attack: str | None) -> dict[int, dict[int, Row]]:
    """seed -> attack step -> row, for the seeds that have step 0 and a later one."""
    course: dict[int, dict[int, Row]] = {}
    for row in rows:
        if row["defense"] == defense and row["attack"] == attack:
            course.setdefault(row["seed"], {})[row["attack_step"]] = row
    return {seed: steps for seed, steps in course.items() if 0 in steps and len(steps) > 1}


def _drops(course: Mapping[int, Mapping[int, Row]], key: str = "harmful_loss", until: str = "last") -> dict[int, float]:
    """seed -> how far the loss fell from step 0 to the last (or the first recorded) step."""
    drops = {}
    for seed, steps in course.items():
        end = steps[max(steps) if until == "last" else sorted(steps)[1]]
        if steps[0][key] is not None and end[key] is not None:
            drops[seed] = steps[0][key] - end[key]
    return drops


def _attack_with(rows: Sequence[Row], wanted: Callable[[float], bool]) -> str | None:
    return next((row["attack"] for row in rows if row["p"] is not None and wanted(row["p"])), None)


def _mix_or_harmful_only(rows: Sequence[Row]) -> str | None:
    return _attack_with(rows, lambda p: 0 < p < 1) or _attack_with(rows, lambda p: p == 1)


def _estimate(values: Sequence[float]) -> tuple[str, bool]:
    """A figure in words, with its interval over two seeds or more, and whether it is surely above 0."""
    if len(values) == 1:
        return f"{values[0]:.2f}", values[0] > 0
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]", low > 0


def _seeds(n: int) -> str:
    return f"{n} seeds, 95% interval between them" if n > 1 else "one seed, so without an interval"


def _harmful_falls_fast(rows: Sequence[Row], sft: str | None) -> tuple[str, bool | None, str]:
    claim = "Harmful data lowers the harmful loss fast, benign data hardly"
    harmful = _course(rows, sft, _attack_with(rows, lambda p: p == 1))
    benign = _course(rows, sft, _attack_with(rows, lambda p: p == 0))
    seeds = sorted(harmful.keys() & benign.keys())
    if not seeds:
        return claim, None, "Not measured: it needs SFT under harmful data only and under benign data only."
    falls, falls_benign, early = _drops(harmful), _drops(benign), _drops(harmful, until="first")
    fall, falls_surely = _estimate([falls[s] for s in seeds])
    hardly, _ = _estimate([falls_benign[s] for s in seeds])
    excess, more_surely = _estimate([falls[s] - falls_benign[s] for s in seeds])
    total = sum(falls[s] for s in seeds)
    share = sum(early[s] for s in seeds) / total if total else 0.0
    quarter = sum(falls_benign[s] for s in seeds) <= total / 4
    steps = harmful[seeds[0]]
    text = (
        f"After {max(steps)} steps the held-out harmful loss of SFT fell by {fall} nats a token under "
        f"harmful data only and by {hardly} under benign data only (difference {excess}; "
        f"{_seeds(len(seeds))}); {100 * share:.0f}% of the fall under harmful data came in the first "
        f"{sorted(steps)[1]} steps. It holds where that fall and the difference are above 0 "
        "and benign data gives at most a quarter of that fall."
    )
    return claim, falls_surely and more_surely and quarter, text


def _held_out_follows(rows: Sequence[Row], sft: str | None) -> tuple[str, bool | None, str]:
    claim = "The harmful loss on held-out rows follows the attacker's own rows"
    attack = _attack_with(rows, lambda p: p == 1) or _attack_with(rows, lambda p: 0 < p < 1)
    course = _course(rows, sft, attack)
    own, held_out = _drops(course, "harmful_loss_own"), _drops(course)
    seeds = sorted(own.keys() & held_out.keys())
    if not seeds:
        return claim, None, "Not measured: it needs SFT attacked with harmful rows and its loss on them."
    own_fall, own_surely = _estimate([own[s] for s in seeds])
    fall, surely = _estimate([held_out[s] for s in seeds])
    text = (
        f"Under {attack} SFT's harmful loss fell by {own_fall} nats a token on the attacker's own rows and "
        f"by {fall} on held-out rows ({_seeds(len(seeds))}). It holds where both fall."
    )
    return claim, own_surely and surely, text


def _booster_starts_lower(
    rows: Sequence[Row], booster: str | None, name: str | None, sft: str | None
) -> tuple[str, bool | None, str]:
    claim = f"The harmful loss of {name} starts lower than SFT's after alignment, and the attack lowers it less"
    attack = _mix_or_harmful_only(rows)
    ours, theirs = _course(rows, booster, attack), _course(rows, sft, attack)
    seeds = sorted(ours.keys() & theirs.keys())
    if booster is None or not seeds:
        return claim, None, "Not measured: it needs SFT and Booster attacked with harmful rows."
    start_ours = [ours[s][0]["harmful_loss"] for s in seeds]
    start_theirs = [theirs[s][0]["harmful_loss"] for s in seeds]
    lower, starts_lower = _estimate([b - a for a, b in zip(start_ours, start_theirs, strict=True)])
    fall_ours, fall_theirs = _drops(ours), _drops(theirs)
    less, falls_less = _estimate([fall_theirs[s] - fall_ours[s] for s in seeds])
    text = (
        f"Right after alignment the held-out harmful loss is {_mean(start_ours):.2f} for {name} and "
        f"{_mean(start_theirs):.2f} for SFT (lower by {lower}); under {attack} it then falls by "
        f"{_mean([fall_ours[s] for s in seeds]):.2f} against {_mean([fall_theirs[s] for s in seeds]):.2f} "
        f"(less by {less}; {_seeds(len(seeds))}). It holds where both differences are above 0."
    )
    return claim, starts_lower and falls_less, text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
