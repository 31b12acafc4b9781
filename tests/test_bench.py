"""The comparison of defences: what is searched, what is kept of it, what is chosen, and what the pages say."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import boostershot as bs
from boostershot.config import build_defense, describe_defense
from boostershot.defenses import DEFENSES
from boostershot.errors import InputError

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import comparison  # noqa: E402

# By its path: tests have a folder of that name.
_spec = importlib.util.spec_from_file_location("bench_defenses", BENCH / "defenses.py")
assert _spec is not None and _spec.loader is not None
defenses = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(defenses)


def test_every_method_that_has_something_to_search_gets_six_distinct_trials_and_lox_twelve():
    searched = defenses.trials()
    for label, settings in searched.items():
        built = [describe_defense(build_defense(values, label)) for values in settings]
        assert len({str(one) for one in built}) == (12 if label == "lox" else 6), label
    methods = {values["method"] for settings in searched.values() for values in settings}
    assert methods == set(DEFENSES) - {"sft", "sdd", "sum", "noise_and_distil"}


def test_the_recipe_takes_the_trials():
    labelled = {f"{label}-{i}": v for label, tried in defenses.trials().items() for i, v in enumerate(tried)}
    overrides = [*defenses.TRIAL, "immunize.steps=3"]
    recipe = defenses.recipe("search-defenses", "dev", [0], labelled, overrides)
    assert recipe.evaluate.split == "dev"
    assert recipe.immunize.steps == 3
    assert recipe.defenses.keys() == {"sft", *labelled}
    (attack,) = recipe.attacks.values()
    assert list(attack.eval_steps) == [attack.total_steps]


def test_variants_stand_at_boosters_own_setting():
    chosen = {"booster": {"method": "booster", "lam": 5, "alpha": 1.0}, "sdd": {"method": "sdd"}}
    compared = defenses.with_variants(chosen)
    recipe = defenses.recipe("bench-defenses", "test", [0], compared, [])
    assert [recipe.defenses[label]["every"] for label in compared if label.startswith("booster-every")] == [3]
    assert compared["booster-exact"] == {"method": "booster", "lam": 5, "alpha": 1.0, "order": "exact"}
    assert defenses.with_variants({"sdd": {"method": "sdd"}}) == {"sdd": {"method": "sdd"}}


def test_lox_of_a_low_rank_stands_beside_its_control():
    lox = {"method": "lox", "factor": 1.25}
    chosen, low_rank, control = defenses.with_variants({"lox": lox}).values()
    assert chosen == lox and low_rank in defenses.trials()["lox"] and low_rank["rank"]
    assert control == {**low_rank, "control": True}


def figures(score, accuracy=50.0, degenerate=0.0, loss=2.0):
    return {
        "harmful_score": score,
        "finetune_accuracy": accuracy,
        "harmful_loss": loss,
        "degenerate_share": degenerate,
    }


def entry(*trials):
    tried = [{"method": "sam", "rho": i} for i in range(len(trials))]
    return {"of": tried, "figures": trials, "sft": figures(80.0)}


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([figures(40.0), figures(20.0), figures(30.0)], 1),
        ([figures(40.0), figures(0.0, accuracy=44.0)], 0),  # 6 points below SFT's
        ([figures(40.0), figures(0.0, accuracy=45.0)], 1),
        ([figures(40.0), figures(0.0, degenerate=6.0)], 0),
        ([figures(40.0), figures(40.0, loss=3.0)], 1),  # as harmful, but farther from harm
        ([figures(40.0), figures(40.0)], 0),
        ([None, figures(90.0)], 1),  # the first failed
        ([None, figures(0.0, accuracy=0.0)], None),
    ],
)
def test_the_least_harmful_trial_that_keeps_ability_is_chosen(trials, chosen):
    expected = None if chosen is None else {"method": "sam", "rho": chosen}
    assert comparison.choose(entry(*trials)) == expected


def settings(**changes):
    base = {
        "attacks": {"mix": {"steps": 10}},
        "evaluate": {"n_harmful": 30, "n_task": 20},
        "seeds": [0, 1, 2],
        "immunize": {"steps": 48},
    }
    return {**base, **changes}


def test_a_record_goes_on_under_the_same_settings_and_refuses_others(tmp_path):
    path = tmp_path / "record.json"
    comparison.Record(path, settings()).add("sam", entry(figures(1.0)))
    again = comparison.Record(path, settings())
    again.add("vaccine", entry(figures(2.0)))
    assert set(json.loads(path.read_text())["methods"]) == {"sam", "vaccine"}
    with pytest.raises(InputError, match=r"record\.json: was measured with other values of immunize"):
        comparison.Record(path, settings(immunize={"steps": 49}))


def test_what_is_measured_next_is_what_the_record_lacks(tmp_path):
    record = comparison.Record(tmp_path / "record.json", settings())
    record.add("sam", {"of": [{"rho": 1}]})
    record.add("vaccine", {"of": [{"rho": 1}]})  # another setting by now
    known = {"sam": [{"rho": 1}], "vaccine": [{"rho": 2}], "tar": [{}]}
    assert defenses._asked_for([], known, record) == ["vaccine", "tar"]
    assert defenses._asked_for(["tar", "sam"], known, record) == ["sam", "tar"]
    with pytest.raises(InputError, match="'tarr' is none of the compared"):
        defenses._asked_for(["tarr"], known, record)


def test_the_search_page_shows_all_trials_the_chosen_one_bold_and_what_is_missing(tmp_path):
    record = comparison.Record(tmp_path / "record.json", settings())
    record.add("sam", entry(figures(40.0), figures(20.0), None))
    tried = {"sam": entry(1, 2, 3)["of"], "vaccine": [{}, {}, {}], "tar": [{}], "lox": [{"factor": 1}] * 3}
    record.add("lox", {"of": [{"factor": 2}] * 3})  # another setting by now
    page = comparison.search_page(record, tried)
    assert "3 settings a method, but tar 1, seed 0" in page
    assert "30 prompts and 20 task rows" in page
    assert "| sft |  | 80 | 50 | 2.00 | 0 |" in page
    assert "| sam | **rho: 1** | 20 | 50 | 2.00 | 0 |" in page
    assert "| sam | rho: 2 | failed | failed | failed | failed |" in page
    assert "Not measured yet: vaccine, tar, lox." in page


def test_the_search_page_writes_settings_as_the_search_file_does(tmp_path):
    record = comparison.Record(tmp_path / "record.json", settings())
    tried = [{"method": "booster", "lam": 2.5, "lr": ["2e-4"], "schedule": {"every": 4}}, {"method": "booster"}]
    record.add("booster", {"of": tried, "sft": figures(80.0), "figures": [figures(40.0), figures(50.0)]})
    page = comparison.search_page(record, {"booster": tried})
    assert "| booster | **lam: 2.5, lr: [2e-4], schedule: {every: 4}** |" in page
    assert "| booster | as published |" in page


def test_the_table_shows_means_intervals_and_what_failed(tmp_path):
    record = comparison.Record(tmp_path / "record.json", settings())
    one = {
        "n_seeds": 3,
        "harmful_score": {"mean": 12.345, "ci": [10.0, 15.0]},
        "finetune_accuracy": {"mean": 50.0, "ci": None},
        "harmful_loss": {"mean": 2.0, "ci": None},
        "degenerate_share": None,
    }

    def difference(p):
        return {key: {"mean": -7.0, "ci": [-9.0, -5.0], "p": p} for key in comparison.FIGURES}

    both = {"before": one, "after": one}
    record.add("sam", {"of": {}, **both, "minus_sft": difference(0.02), "time": [2.0, None, 8.0], "memory": [None]})
    few = {"before": one, "after": {**one, "n_seeds": 2}}
    record.add("vaccine", {"of": {}, **few, "minus_sft": difference(0.0001), "time": [2.0], "memory": [1.5]})
    record.add("sdd", {"of": {"method": "other"}})  # another setting by now
    record.add("tar", {"of": {}, "before": None, "after": None, "minus_sft": None, "time": [], "memory": []})
    compared = {label: {} for label in ("sft", "sdd", "sam", "vaccine", "tar")}
    lines = comparison.table_page(record, compared, {"seam": "no trial keeps ability"}).splitlines()
    (head, sam, vaccine, tar, seam) = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:2] == "| "
    ]
    assert dict(zip(head, sam, strict=True)) == {
        "defence": "sam",
        "HS before": "12.3 [10.0, 15.0]",
        "HS after": "12.3 [10.0, 15.0]",
        "HS minus SFT's": "-7.0 [-9.0, -5.0], p 0.02",
        "harmful loss before": "2.00",
        "harmful loss after": "2.00",
        "loss minus SFT's": "-7.00 [-9.00, -5.00], p 0.02",
        "FA before": "50.0",
        "FA after": "50.0",
        "degenerate after": "–",
        "time": "4.00 [0.00, 26730.60]",  # of two seeds: times e to the power of 12.71 * ln(4) / 2
        "memory": "–",
    }
    assert vaccine[0] == "vaccine (2 seeds)" and vaccine[3].endswith("p < 0.001")  # Holm: twice 0.0001
    assert (tar[:2], seam[:2]) == (["tar", "failed"], ["seam", "no trial keeps ability"])
    assert len(tar) == len(seam) == len(head)
    assert any("Not measured yet: sft, sdd." in line for line in lines)


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """bench/ and docs/ of their own, and runs that only pretend."""
    here, docs = tmp_path / "bench", tmp_path / "docs"
    docs.mkdir()
    shutil.copytree(BENCH, here)
    monkeypatch.setattr(defenses, "HERE", here)
    monkeypatch.setattr(defenses, "DOCS", docs)
    asked = []

    def measured(recipe):
        asked.append(list(recipe.defenses))
        rows = [  # each trial better than the one before
            {"defense": label, "status": "done", **figures(80.0 - 10 * i)} for i, label in enumerate(recipe.defenses)
        ]
        one = {key: {"mean": value, "ci": None} for key, value in figures(30.0).items()}
        items = [
            {"defense": label, "attack_step": step, "n_seeds": 3, **one, "minus_sft": one if label != "sft" else None}
            for label in recipe.defenses
            for step in (0, 10)
        ]
        cost = {"time": 2.0, "memory": 1.5}
        costs = [{"defense": label, "relative_to_sft": cost} for label in recipe.defenses]
        return bs.Results(tmp_path, {"rows": rows, "summary": items, "costs": costs})

    monkeypatch.setattr(defenses, "measured", measured)
    return here, docs, asked


def test_search_and_table_go_piece_by_piece_and_on_where_they_were(folders):
    here, docs, asked = folders
    assert defenses.main(["search", "sam", "booster"]) == 0
    assert asked == [["sft", *(f"{label}-{i}" for i in range(6))] for label in ("booster", "sam")]
    chosen = yaml.safe_load((here / "chosen.yaml").read_text())
    assert chosen["sam"] == defenses.trials()["sam"][5] and set(chosen) == {"sdd", "booster", "sam"}
    assert "Not measured yet: booster-scheduled, vaccine" in (docs / "defenses-search.md").read_text()
    asked.clear()
    assert defenses.main(["search"]) == 0  # the rest
    assert len(asked) == len(defenses.trials()) - 2
    assert "Not measured yet" not in (docs / "defenses-search.md").read_text()
    asked.clear()
    assert defenses.main(["table"]) == 0
    compared = list(defenses.with_variants(defenses._read_chosen()))
    assert asked == [["sft", "sdd"], *(["sft", *compared[i : i + 2]] for i in range(1, len(compared), 2))]
    assert "booster-exact" in compared
    page = (docs / "defenses.md").read_text()
    assert "| sam | 30.0 | 30.0 | 30.0 | 2.00 | 2.00 | 2.00 | 50.0 | 50.0 | 0.0 | 2.00 | 1.50 |" in page
    assert "| sft | 30.0" in page
    asked.clear()
    assert defenses.main(["table"]) == 0 and asked == []


def test_the_table_tells_of_methods_without_a_setting(folders):
    assert defenses.main(["search", "sam"]) == 0
    docs = folders[1]
    record = docs / "defenses-search.json"
    found = json.loads(record.read_text())
    found["methods"]["seam"] = found["methods"]["sam"] | {"figures": [None] * 6}
    record.write_text(json.dumps(found))
    assert defenses.main(["table"]) == 0
    page = (docs / "defenses.md").read_text()
    assert "| seam | no trial keeps ability | |" in page and "| booster | not searched | |" in page
    assert [line.split("|")[1].strip() for line in page.splitlines() if line[:2] == "| "][1:4] == ["sft", "sdd", "sam"]


def test_a_failed_seed_is_told_of_with_the_way_to_try_again(folders, monkeypatch, capsys):
    assert defenses.main(["search", "sam"]) == 0
    of = defenses.measured

    def failing(recipe):
        results = of(recipe)
        for item in results.content["summary"]:
            item["n_seeds"] = 2
        return results

    monkeypatch.setattr(defenses, "measured", failing)
    assert defenses.main(["table", "sam"]) == 0
    assert "sam: a seed failed; `table sam` tries again" in capsys.readouterr().err
    assert "| sam (2 seeds) |" in (folders[1] / "defenses.md").read_text()


def test_other_settings_than_the_record_s_are_refused(folders, capsys):
    assert defenses.main(["search", "sam"]) == 0
    assert defenses.main(["search", "vaccine", "immunize.steps=9"]) == 2
    assert "defenses-search.json: was measured with other values of immunize" in capsys.readouterr().err
    assert defenses.main(["table"]) == 0  # sam was chosen


def test_a_table_without_a_search_is_refused(folders, capsys):
    (folders[0] / "chosen.yaml").unlink(missing_ok=True)
    assert defenses.main(["table"]) == 2
    assert capsys.readouterr().err.strip() == "bench/chosen.yaml: is missing; make search-defenses writes it"


def test_a_name_that_is_none_of_the_compared_ends_with_2(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(defenses, "DOCS", tmp_path)
    assert defenses.main(["search", "boster"]) == 2
    assert "'boster' is none of the compared" in capsys.readouterr().err
    assert defenses.main(["look"]) == 2
