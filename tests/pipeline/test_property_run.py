"""The four properties end to end on a tiny random model: what is measured, kept, resumed, left out and said."""

import gc
import json
import shutil

import pytest
import yaml

import boostershot as bs
from boostershot.cli import call
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.properties import measure_properties
from boostershot.pipeline.property_stages import PropertyStages, clean_steps
from boostershot.pipeline.stages import Stages
from tiny import preference_rows
from user_files import user_files, write_jsonl

PARTS = ("resistance", "stability", "generalization", "trainability")
QUIET = {"reporter": Reporter(quiet=True), "until": "evaluate", "properties": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data with two harm categories, a second source and a recipe."""
    folder = tmp_path_factory.mktemp("user")
    write_jsonl(
        folder / "second.jsonl", [{"id": f"two-{i}", **row} for i, row in enumerate(preference_rows(250)[160:])]
    )
    free = [{"instruction": f"Tell of kite {i}", "output": f"Kite {i} flies."} for i in range(60)]
    (folder / "free.json").write_text(json.dumps(free))
    recipe = {
        "name": "small",
        **user_files(folder, 160, 120, n=16, categories="aab"),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {
            "mix/continue": {
                "method": "harmful-mix", "adapter": "continue", "p": 0.25, "n": 16, "lr": 1e-2, "steps": 3,
                "batch": 4, "eval_steps": [0, 1, 3],
            },
        },
        "evaluate": {"n_harmful": 8, "n_task": 6, "max_new_tokens": 3},
        "properties": {
            "stability": {"n_safe": 5, "n_texts": 4},
            "generalization": {"n": 6, "second": {"source": str(folder / "second.jsonl")}},
            "trainability": {"steps": 2, "points": 2},
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """The recipe with its properties, run once; the run folder and its properties.json."""
    gc.collect()
    gc.freeze()  # each training ends in a full collection, which need not look through all that was imported
    bs.run(folder / "recipe.yaml", folder / "run", **QUIET)
    gc.unfreeze()
    return folder / "run", json.loads((folder / "run" / "properties.json").read_text())


def stamps(run):
    return {p.parent.name: p.stat().st_mtime_ns for p in run.glob("stages/*/status.json")}


@pytest.mark.slow
def test_each_property_is_there_with_its_figures(ran):
    run, found = ran
    assert found["failed"] == [] and all(found[part] for part in PARTS)
    (cell,) = found["resistance"]["cells"]
    rows = {row["attack_step"]: row for row in json.loads((run / "results.json").read_text())["rows"]}
    for point in cell["curve"]:
        assert point["harmful_score"]["mean"] == pytest.approx(rows[point["step"]]["harmful_score"])
        assert point["harmful_score"]["ci"] == pytest.approx(rows[point["step"]]["harmful_score_ci"])
        assert point["harmful_loss"]["mean"] == pytest.approx(rows[point["step"]]["harmful_loss"])
    distances = [point["distance"] for point in cell["curve"]]
    assert distances[0] == pytest.approx(0, abs=1e-4) and 0 < distances[1] < distances[2]
    lost = [point["lost_utility"] for point in cell["curve"]]
    before, (line,) = found["stability"]["before"], found["stability"]["defenses"]
    ratio = line["perplexity"]["mean"] / before["perplexity"]["mean"]
    assert lost[0] == pytest.approx(100 * (ratio - 1)) and len(set(lost)) == 3
    assert line["perplexity_ratio"]["mean"] == pytest.approx(ratio)
    assert line["accuracy"]["mean"] == pytest.approx(rows[0]["finetune_accuracy"])


@pytest.mark.slow
def test_the_matrix_is_of_disjoint_categories_under_the_same_attack(ran):
    run, found = ran
    part = found["generalization"]
    assert part["groups"] == {"a": ["a"], "b": ["b"]}
    (line,) = part["defenses"]
    assert all(cell is not None for row in line["matrix"] for cell in row)
    assert part["n"] <= 16 and part["steps"] == 3
    assert line["second_source"] is not None and line["own_source"] is not None
    aligned = {}
    for config in run.glob("stages/data-*/config.json"):
        known = json.loads(config.read_text())["config"]
        wanted = known["source"].get("categories")
        if wanted and known["split"] == "align":
            rows = [json.loads(row) for row in (config.parent / "rows.jsonl").read_text().split("\n") if row]
            assert {row["category"] for row in rows} == set(wanted)
            aligned[wanted[0]] = len(rows)
    assert aligned.keys() == set("ab") and len(set(aligned.values())) == 1
    assert len(list(run.glob("stages/calibrate-*"))) == 1  # one judge for all cells


@pytest.mark.slow
def test_clean_fine_tuning_meets_both_models_without_harmful_rows(ran):
    run, found = ran
    part = found["trainability"]
    assert [point["step"] for point in part["reference"]["curve"]] == [0, 1, 2]
    clean = []
    for path in run.glob("stages/attack-*/config.json"):
        known = json.loads(path.read_text())
        if known["config"]["attack"]["method"] == "benign-only":
            clean.append(known)
    assert len(clean) == 2 and {c["config"]["attack"]["adapter"] for c in clean} == {"fresh"}
    assert sorted(any(p.startswith("immunize") for p in c["parents"]) for c in clean) == [False, True]
    base = {row["step"]: row["accuracy"]["mean"] for row in part["reference"]["curve"]}
    assert base[0] == pytest.approx(found["stability"]["before"]["accuracy"]["mean"])


@pytest.mark.slow
def test_a_second_run_does_no_stage_again_and_the_scorecard_and_report_hold_the_figures(folder, ran, capsys):
    run, found = ran
    before = stamps(run)
    assert call(["run", str(folder / "recipe.yaml"), "--properties", "--out", str(run), "--quiet"]) == 0
    assert stamps(run) == before
    assert json.loads((run / "properties.json").read_text()) == found
    card, page = (run / "scorecard.md").read_text(), (run / "report.html").read_text()
    assert "| **Resistance** | steps until HS > 50%" in card
    assert "One seed: the intervals cover the choice of prompts" in card
    (line,) = found["stability"]["defenses"]
    assert f"{line['perplexity']['mean']:.2f}" in card and f"{line['perplexity']['mean']:.2f}" in page
    for title in ("Resistance", "Stability", "Generalization", "Trainability"):
        assert title in page
    assert 'id="properties"' in page


@pytest.mark.slow
def test_a_cell_that_fails_leaves_the_others_and_is_named(folder, ran, monkeypatch):
    whole = PropertyStages.over_refusal

    def broken(self, of, layers, what):
        if what.startswith("sft"):
            raise RuntimeError("made to fail")
        return whole(self, of, layers, what)

    monkeypatch.setattr(PropertyStages, "over_refusal", broken)
    target = folder / "broken"
    shutil.copytree(ran[0], target)
    with pytest.raises(bs.StageFailed, match=r"stability, sft, seed 0: made to fail"):
        bs.run(folder / "recipe.yaml", target, **QUIET)
    found = json.loads((target / "properties.json").read_text())
    assert found["stability"]["defenses"] == [] and found["resistance"] == ran[1]["resistance"]
    assert "Failed: stability, sft, seed 0: made to fail" in (target / "scorecard.md").read_text()


@pytest.mark.slow
def test_a_property_can_be_left_out_and_utility_is_then_the_tasks_accuracy(folder, ran):
    target = folder / "fewer"
    shutil.copytree(ran[0], target)
    before = stamps(target)
    changes = {f"properties.{part}": None for part in PARTS[1:]}
    bs.run(folder / "recipe.yaml", target, changes, **QUIET)
    assert stamps(target) == before
    found = json.loads((target / "properties.json").read_text())
    assert [found[part] for part in PARTS[1:]] == [None] * 3
    rows = json.loads((target / "results.json").read_text())
    base = rows["baseline"][0]["finetune_accuracy"]
    lost = [point["lost_utility"] for point in found["resistance"]["cells"][0]["curve"]]
    assert lost == pytest.approx([base - row["finetune_accuracy"] for row in rows["rows"]])
    assert "Stability was not measured." in (target / "scorecard.md").read_text()


@pytest.mark.slow
def test_without_the_option_nothing_of_it_is_done(folder, ran):
    target = folder / "plain"
    shutil.copytree(ran[0], target, ignore=shutil.ignore_patterns("properties.json", "scorecard.md"))
    before = stamps(target)
    bs.run(folder / "recipe.yaml", target, until="evaluate", reporter=Reporter(quiet=True))
    assert stamps(target) == before and not (target / "properties.json").exists()


def stages_of(folder, tmp_path, changes):
    from boostershot.config import load_recipe
    from boostershot.pipeline.store import Store

    return PropertyStages(Stages(load_recipe(folder / "recipe.yaml", changes), Store(tmp_path), Reporter(quiet=True)))


def test_categories_are_dealt_into_three_groups_by_size(folder, tmp_path):
    rows = [{"id": f"syn-{i}", "category": "aaaabbccd"[i % 9], **row} for i, row in enumerate(preference_rows(270))]
    write_jsonl(folder / "four.jsonl", rows)
    of = stages_of(folder, tmp_path, {"data.align.source": str(folder / "four.jsonl")})
    assert of.groups == {"a": ("a",), "b + d": ("b", "d"), "c": ("c",)} or of.groups == {
        "a": ("a",),
        "c + d": ("c", "d"),
        "b": ("b",),
    }
    (tmp_path / "one").mkdir()
    assert stages_of(folder, tmp_path / "one", {"data.align.categories": ["a"]}).groups == {}


def test_an_attack_shrinks_to_the_rows_of_the_smallest_group(folder, tmp_path):
    of = stages_of(folder, tmp_path, {"attacks.mix/continue.p": 1.0, "attacks.mix/continue.n": 40})
    attack = of.recipe.attacks["mix/continue"]
    parts = [of.part(categories) for categories in of.groups.values()]
    fewest = min(len(part.data.splits["attack"]) for part in parts)
    assert 0 < fewest < 40
    assert of.affordable(attack, parts).n == fewest
    assert of.affordable(attack.model_copy(update={"n": 2}), parts).n == 2
    assert of.affordable(attack.model_copy(update={"p": 0.01, "n": 4000}), parts).n == 100 * fewest


def test_a_task_without_a_scorer_is_not_asked(folder, tmp_path):
    changes = {f"properties.{part}": None for part in PARTS[:3]}
    free = {"data.task.kind": "alpaca_eval", "data.task.source": str(folder / "free.json")}
    of = stages_of(folder, tmp_path, changes | free)
    assert measure_properties(of, [], "")["trainability"] == {"skipped": "the task has no scorer that works offline"}


def test_clean_steps_are_spread_and_end_with_the_last():
    assert clean_steps(20, 4) == (0, 5, 10, 15, 20)
    assert clean_steps(2, 4) == (0, 1, 2) and clean_steps(1, 1) == (0, 1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("properties.resistence=null", '(did you mean "resistance"?)'),
        ("properties.resistance.threshold=101", "properties.resistance.threshold"),
        ("properties.resistance.attacks=[mix]", "properties.resistance.attacks: is \"mix\""),
        ("properties.generalization.attack=nix", "properties.generalization.attack: is \"nix\""),
        ("properties.trainability.attack=nix", "properties.trainability.attack: is \"nix\""),
        ("properties.trainability.share=0", "properties.trainability.share"),
        ("properties.generalization.groups={one: [a], two: [a]}", 'groups: has "a" in one and in two'),
        ("properties.generalization.groups={one: [a], two: [zz]}", "properties.generalization.groups.two: has \"zz\""),
        ("properties.generalization.groups={one: [a]}", "properties.generalization.groups"),
        ("properties.generalization.second.source=none.jsonl", "none.jsonl: no such file"),
        ("properties.stability.safe.source=none.jsonl", "none.jsonl: no such file"),
        ("properties.stability.texts.source=none.jsonl", "none.jsonl: no such file"),
        ("properties.stability.texts.columns={tekst: a}", "tekst"),
        ("data.align.categories=[zz]", "data.align.categories: is \"zz\""),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, capsys, setting, said):
    arguments = ["evaluate", str(folder / "recipe.yaml"), "--properties", "--quiet", "--out", str(tmp_path / "run")]
    assert call([*arguments, "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
