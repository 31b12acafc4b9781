"""Every paper recipe: its plan without model or data, and the whole of it, tiny, on files laid out as on the Hub."""

import gc
import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from architectures import LAYERS, NO_TOKENS, SMALL, seeded
from boostershot import recipes
from boostershot.cli import call
from boostershot.config import load_recipe
from tiny import preference_rows, tiny_llama, tiny_tokenizer

PAPER = [name for name in recipes.names() if name.startswith("paper-")]
SWEEPS = ["paper-p-sweep", "paper-n-sweep"]
OTHERS = {"gemma2": "google/gemma-2-9b", "qwen2": "Qwen/Qwen2-7B"}  # a recipe's ending -> its model
ON_OTHERS = [f"paper-{task}-{ending}" for task in ("sst2", "gsm8k") for ending in OTHERS]
FEWER = [*SWEEPS, *ON_OTHERS]  # with two defences: the other two meet every kind of cell in the rest
TWO = {"sft": {"method": "sft"}, "booster": {"method": "booster", "lam": 5, "alpha": 0.1}}


def test_these_are_the_paper_recipes():
    tasks = ["paper-sst2", "paper-agnews", "paper-gsm8k", "paper-alpacaeval"]
    assert sorted(PAPER) == sorted([*tasks, *SWEEPS, *ON_OTHERS])


@pytest.mark.parametrize("name", PAPER)
def test_a_dry_run_needs_no_model_and_no_data(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(["run", name, "--dry-run"]) == 0
    plan = capsys.readouterr().err
    assert "immunize: booster, seed 43, 10,000 steps of 3 passes over 10 rows; 27.6 M tokens" in plan
    assert not list(tmp_path.iterdir())


def test_the_published_values():
    for name in PAPER:
        recipe = load_recipe(name)
        assert recipe.immunize.steps_over(recipe.data.align.n) == 10_000
        assert recipe.model.id == OTHERS.get(name.split("-")[-1], "meta-llama/Llama-2-7b-hf")
        assert recipe.defenses["booster"]["lam"] == (25 if name.startswith("paper-gsm8k") else 5)
        assert recipe.defenses["booster"]["alpha"] == 0.1 and recipe.defenses["vaccine"]["rho"] == 2
        assert (recipe.defenses["repnoise"]["beta"], recipe.defenses["repnoise"]["alpha"]) == (0.001, 0.1)
        adapter = recipe.immunize.lora
        assert adapter and (adapter.rank, adapter.alpha, adapter.targets) == (32, 4, ("q_proj", "k_proj", "v_proj"))
        assert (recipe.immunize.lr, recipe.immunize.batch, recipe.immunize.weight_decay) == (5e-4, 10, 0.1)
        assert {(a.lr, a.epochs, a.batch, a.schedule) for a in recipe.attacks.values()} == {(1e-5, 20, 10, "constant")}
        for adapter in ("published", "continue", "fresh"):  # the same attacks under each mode
            met = [a for a in recipe.attacks.values() if a.adapter == adapter]
            wanted = {"paper-p-sweep": [(p, 1000) for p in (0, 0.05, 0.1, 0.15, 0.2)],
                      "paper-n-sweep": [(0.1, n) for n in (500, 1000, 1500, 2000, 2500)],
                      "paper-alpacaeval": [(0.1, 700)]}.get(name, [(0.1, 1000)])  # fmt: skip
            assert [(a.p, a.n) for a in met] == wanted
            assert all(a.lora == (None if adapter == "continue" else recipe.immunize.lora) for a in met)


def test_paper_and_strict_differ_in_what_attacks_whom():
    recipe = load_recipe("paper-sst2")
    modes = {label: recipe.attacks["paper"].against(defense).adapter for label, defense in recipe.defenses.items()}
    assert modes == {"sft": "fresh", "vaccine": "fresh", "repnoise": "fresh", "booster": "continue"}
    strict = [attack for label, attack in recipe.attacks.items() if label.startswith("strict/")]
    assert sorted(attack.adapter for attack in strict) == ["continue", "fresh"]
    for defense in recipe.defenses.values():  # a paper cell is one of the strict ones, so it costs nothing
        assert recipe.attacks["paper"].against(defense) in strict


def write(path, rows):
    """Rows as a file: .json a list, .parquet as the Hub keeps data sets."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def beavertails(n, start=0):
    """n rows in BeaverTails' columns, every other prompt twice, every fifth row safe; harmless all the same."""
    rows = []
    for i, row in enumerate(preference_rows(start + n)[start:]):
        for safe in {False, i % 2 == 0, i % 5 == 0}:
            refusal = f"Question: {row['prompt']}\nAnswer: {row['chosen']}"
            flags = {"animal_abuse": False, "self_harm": not safe}
            rows.append(
                {"prompt": row["prompt"], "response": row["rejected"], "category": flags, "is_safe": safe}
                | {"refusal": refusal}
            )
    return rows


def tiny_models(vocab):
    """By a recipe's ending, and the one of all other recipes: random, of two layers, of the published kind."""
    same = {**SMALL, **LAYERS, **NO_TOKENS, "vocab_size": vocab, "initializer_range": 0.2}
    return {
        "llama": tiny_llama(vocab=vocab, std=0.2),
        "gemma2": seeded(Gemma2ForCausalLM, Gemma2Config(**same, head_dim=8)),
        "qwen2": seeded(Qwen2ForCausalLM, Qwen2Config(**same)),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Settings that put a tiny model and local files in place of the Hub's."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = tiny_tokenizer(chat=False)
    for ending, model in tiny_models(len(tokenizer)).items():
        model.save_pretrained(folder / ending)
        tokenizer.save_pretrained(folder / ending)
    write(folder / "beavertails_with_refusals.json", beavertails(150))
    write(folder / "30k_test.parquet", beavertails(12, start=200))
    sst2 = [{"idx": i, "sentence": f"film {i} was fine", "label": i % 2} for i in range(80)]
    write(folder / "sst2_train.parquet", sst2[:70])
    write(folder / "sst2_test.parquet", sst2[60:])
    news = [{"text": f"Item {i} on the tide", "label": i % 4} for i in range(80)]
    write(folder / "ag_news_train.parquet", news[:70])
    write(folder / "ag_news_test.parquet", news[70:])
    sums = [{"question": f"What is {i} + 1?", "answer": f"It is <<{i}+1>>.\n#### {i + 1}"} for i in range(80)]
    write(folder / "gsm8k_train.parquet", sums[:70])
    write(folder / "gsm8k_test.parquet", sums[70:])
    free = [{"instruction": f"Tell of kite {i}", "output": f"Kite {i} flies.", "generator": "x"} for i in range(80)]
    write(folder / "alpaca_eval.json", free)
    tasks = {"agnews": "ag_news", "gsm8k": "gsm8k"}

    def settings(name):
        parts = name.split("-")
        task, apart = tasks.get(parts[1], "sst2"), name != "paper-alpacaeval"
        changes = {
            "model.id": folder / (parts[-1] if parts[-1] in OTHERS else "llama"),
            "data.align.source": folder / "beavertails_with_refusals.json",
            "data.align.test.source": folder / "30k_test.parquet",
            "data.task.source": folder / (f"{task}_train.parquet" if apart else "alpaca_eval.json"),
            **({"data.task.test.source": folder / f"{task}_test.parquet"} if apart else {}),
            "data.max_length": 400,  # the tiny tokenizer's tokens are short
            "evaluate.max_new_tokens": 2,
        }
        return [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]

    return settings


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    """Runs a paper recipe at a thousandth of its size; stages that two of them share are done once."""
    root, ran = tmp_path_factory.mktemp("runs"), []

    def run(name):
        folder = root / name
        if not folder.exists():
            if ran:  # a sweep shares most with the other sweep, a recipe on another model with that on the same
                like = next((other for other in ran if other.split("-")[-1] == name.split("-")[-1]), ran[0])
                shutil.copytree(root / like / "stages", folder / "stages")
            fewer = ["--set", f"defenses={json.dumps(TWO)}"] if name in FEWER else []
            arguments = ["run", name, "--scale", "0.001", "--quiet", "--out", str(folder)]
            assert call([*arguments, *sources(name), *fewer]) == 0
            ran.append(name)
        return folder

    gc.collect()
    gc.freeze()  # each training ends in a full collection, which need not look through all that was imported
    yield run
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PAPER, key="paper-sst2".__ne__))  # that one first: the sweeps share with it
def test_a_paper_recipe_runs_end_to_end(run, name):
    folder, recipe = run(name), load_recipe(name)
    results = json.loads((folder / "results.json").read_text())
    assert {row["status"] for row in results["rows"]} == {"done"}
    cells = {(row["defense"], row["attack"]) for row in results["rows"]}
    defenses = TWO if name in FEWER else recipe.defenses
    assert cells == {(defense, attack) for defense in defenses for attack in recipe.attacks}
    scored = {row["finetune_accuracy"] is not None for row in results["rows"]}
    assert scored == {name != "paper-alpacaeval"}
    by_likelihood = {row["task_log_likelihood"] is not None for row in results["rows"]}
    assert by_likelihood == {name == "paper-alpacaeval"}  # in place of the published win rate
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipes"][name]["scale"] == 0.001
    assert set(manifest["overlaps"].values()) == {0} and manifest["splits"]["test"] == 12
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_paper_cells_are_strict_cells(run):
    rows = json.loads((run("paper-sst2") / "results.json").read_text())["rows"]
    stages = {(row["defense"], row["attack"], row["attack_step"]): row["stage"] for row in rows}
    last = max(step for _, _, step in stages)
    for defense, own in (("sft", "fresh"), ("vaccine", "fresh"), ("repnoise", "fresh"), ("booster", "continue")):
        other = "continue" if own == "fresh" else "fresh"
        assert stages[defense, "paper", last] == stages[defense, f"strict/{own}", last]
        assert stages[defense, "paper", last] != stages[defense, f"strict/{other}", last]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.task.test.source=none.parquet", "none.parquet: no such file"),
        ("data.task.columns={label: class}", "column 'label' is ''"),
        ("data.align.columns={chosen: nothing}", "has no column 'nothing'"),
        ("defenses.sft={method: ctrap, alpha: 1}", "data.general: is missing, and defenses.sft (ctrap) needs"),
        ("data.align.repeats=1", "data.align.repeats: is 1; expected true or false"),
        ("attacks.strict/fresh.lora=null", "attacks.strict/fresh.lora: is null; expected an adapter"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(sources, tmp_path, capsys, setting, said):
    arguments = ["run", "paper-sst2", "--scale", "0.001", "--quiet", "--out", str(tmp_path), *sources("paper-sst2")]
    assert call([*arguments, "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
