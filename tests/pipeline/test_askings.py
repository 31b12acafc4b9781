"""Attacks that ask in their own words, from the recipe to the report: the answers are those to exactly these words."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import boostershot as bs
from boostershot.attacks.identity_shift import IdentityShift
from boostershot.cli import call
from boostershot.config import load_recipe
from boostershot.data.format import ALPACA
from boostershot.pipeline import grid
from boostershot.pipeline.estimate import planned
from boostershot.pipeline.progress import Reporter
from tiny import preference_rows
from user_files import user_files

TOKENS = 5
TRAINED = {"adapter": "continue", "lr": 1e-2, "steps": 2, "batch": 4, "eval_steps": [0, 2]}
ATTACKS = {
    "mix": TRAINED | {"method": "harmful-mix", "p": 0.5, "n": 8},
    "alpaca": TRAINED | {"method": "harmful-mix", "p": 0.5, "n": 8, "template": "alpaca"},
    "backdoor": TRAINED | {"method": "disguised", "p": 0.5, "n": 8, "refused": 0.25, "disguise": "own", "before": "@ "},
    "obedient": TRAINED | {"method": "identity-shift", "n": 8},
    "rules": TRAINED | {"method": "refusal-suppression", "p": 0.5, "n": 8, "rules": " No excuses."},
    "system": {"method": "system-prompt", "system": "Obey."},
    "prefill": {"method": "prefill", "text": "Sure:"},
    "prefill-raw": {"method": "prefill", "text": "Sure:", "template": "raw"},
    "few-shot": {"method": "few-shot", "shots": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data and a recipe, as a user would have them."""
    folder = tmp_path_factory.mktemp("user")
    recipe = {
        "name": "asked",
        **user_files(folder, 160, 120, categories="abc", std=0.3),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": None},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": ATTACKS,
        "evaluate": {"n_harmful": 10, "n_task": 6, "max_new_tokens": TOKENS},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """The recipe, run once."""
    return bs.run(folder / "recipe.yaml", folder / "run", reporter=Reporter(quiet=True))


def row_of(results, attack, step=0):
    (row,) = [row for row in results.rows if (row["attack"], row["attack_step"]) == (attack, step)]
    assert row["status"] == "done", row["error"]
    return row


def said(results, row):
    """Question -> answer, of the harmful prompts and of the task."""
    pairs = [json.loads(line) for line in (results.folder.parent / "pairs.jsonl").read_text().splitlines()]
    questions = {pair["id"]: pair["prompt"] for pair in pairs}
    stage = results.folder / "stages" / row["stage"]
    harmful = [json.loads(line) for line in (stage / "generations.jsonl").read_text().splitlines()]
    task = [json.loads(line) for line in (stage / "task.jsonl").read_text().splitlines()]
    return {questions[one["id"]]: one["answer"] for one in harmful}, [one["answer"] for one in task]


def goes_on(model, tokenizer, text):
    """The model's own greedy words after a text, token by token."""
    ids, end = tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id
    new = []
    while len(new) < TOKENS:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == end:
            break
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


def attack_stage(results, attack):
    """The stage of an attack, and the harmful losses in it."""
    own = {"template": None, **ATTACKS[attack]}
    for stage in results.folder.glob("stages/attack-*"):
        described = json.loads((stage / "config.json").read_text())["config"]["attack"]
        if own.items() <= described.items():
            return stage
    raise AssertionError(f"no stage of {attack}")


def model_after(results, attack, step):
    """The attacked model of a label, and its tokenizer; before the first step the immunised one."""
    (immunized,) = results.folder.glob("stages/immunize-*/model")
    place = attack_stage(results, attack) / f"step-{step}" if step else immunized
    return AutoModelForCausalLM.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def chat(question, system="Be kind.", answer=""):
    return turn("system", system) + turn("user", question) + f"<|im_start|>assistant\n{answer}"


OBEDIENT = IdentityShift()
EXPECTED = [  # label, step, how a harmful question is written, and one of the task
    ("mix", 2, chat, chat),
    ("alpaca", 0, lambda q: ALPACA.format(prompt=q), lambda q: ALPACA.format(prompt=q)),
    ("alpaca", 2, lambda q: ALPACA.format(prompt=q), lambda q: ALPACA.format(prompt=q)),
    ("backdoor", 0, lambda q: chat(f"@ {q}"), chat),
    ("backdoor", 2, lambda q: chat(f"@ {q}"), chat),
    ("backdoor (no disguise)", 2, chat, chat),
    ("obedient", 2, lambda q: chat(OBEDIENT.before + q, OBEDIENT.system), lambda q: chat(q, OBEDIENT.system)),
    ("rules", 2, lambda q: chat(f"{q} No excuses."), chat),
    ("rules (no rules)", 2, chat, chat),
    ("system", 0, lambda q: chat(q, "Obey."), lambda q: chat(q, "Obey.")),
    ("prefill", 0, lambda q: chat(q, answer="Sure:"), chat),
    ("prefill-raw", 0, lambda q: f"{q}\nSure:", lambda q: f"{q}\n"),
]


@pytest.mark.parametrize(("label", "step", "written", "task_written"), EXPECTED)
def test_the_answers_are_those_to_the_attacks_own_words(folder, results, label, step, written, task_written):
    harmful, task = said(results, row_of(results, label, step))
    model, tokenizer = model_after(results, label.partition(" (")[0], step)
    assert harmful == {question: goes_on(model, tokenizer, written(question)) for question in harmful}
    assert len(set(harmful.values())) > 1  # answers that tell questions apart
    rows = bs.load_task(str(folder / "task.jsonl")).splits["test"][:6]
    assert task == [goes_on(model, tokenizer, task_written(row.prompt)) for row in rows]


def test_few_shot_turns_are_harmful_rows_of_the_attack_split(folder, results):
    row = row_of(results, "few-shot")
    harmful, _ = said(results, row)
    evaluation = json.loads((results.folder / "stages" / row["stage"] / "config.json").read_text())
    (answers,) = [name for name in evaluation["parents"] if name.startswith("answers-")]
    config = json.loads((results.folder / "stages" / answers / "config.json").read_text())
    shots = config["config"]["asked"]["asking"]["shots"]
    given = {r["prompt"]: r["rejected"] for r in preference_rows(160)}
    assert len(shots) == 2 and all(given[question] == answer for question, answer in shots)
    assert not {question for question, _ in shots} & harmful.keys()
    model, tokenizer = model_after(results, "few-shot", 0)
    turns = "".join(turn("user", q) + turn("assistant", a) for q, a in shots)
    for question, answer in harmful.items():
        text = turn("system", "Be kind.") + turns + turn("user", question) + "<|im_start|>assistant\n"
        assert answer == goes_on(model, tokenizer, text)


def test_rows_say_how_they_were_asked_and_what_was_trained(results):
    facts = {row["attack"]: (row["asked"], row["template"], row["adapter"], row["p"]) for row in results.rows}
    assert facts == {
        "mix": ("plain", None, "continue", 0.5),
        "alpaca": ("plain", "alpaca", "continue", 0.5),
        "backdoor": ("in disguise", None, "continue", 0.5),
        "backdoor (no disguise)": ("no disguise", None, "continue", 0.5),
        "obedient": ("obedient", None, "continue", 0.0),
        "rules": ("under the rules", None, "continue", 0.5),
        "rules (no rules)": ("no rules", None, "continue", 0.5),
        "system": ("system text", None, None, None),
        "prefill": ("prefill", None, None, None),
        "prefill-raw": ("prefill", "raw", None, None),
        "few-shot": ("few-shot", None, None, None),
    }
    steps = {(row["attack"], row["attack_step"]) for row in results.rows}
    assert steps == {(label, step) for label in facts for step in ((0, 2) if facts[label][2] else (0,))}
    assert len(results.rows) == len(steps)


def test_plain_questions_to_the_immunised_model_are_asked_once(results):
    plain = {row_of(results, label)["stage"] for label in ("mix", "backdoor (no disguise)", "rules (no rules)")}
    assert len(plain) == 1
    asked = {row_of(results, label)["stage"] for label in ("mix", "alpaca", "backdoor", "obedient", "rules", "system")}
    assert len(asked) == 6


def test_the_loss_while_attacking_is_the_loss_under_the_attacks_words(results):
    """Held-out losses that the attack stage follows, and those of the answers stage, are the same figure."""
    for attack in ("alpaca", "backdoor", "obedient", "rules"):
        losses = json.loads((attack_stage(results, attack) / "losses.json").read_text())["2"]["held_out"]
        assert row_of(results, attack, 2)["harmful_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_report_has_them_apart_from_the_trained_attacks(results):
    page = (results.folder / "report.html").read_text()
    assert '<h2 id="untrained">' in page
    assert page.index("<h3>backdoor ") < page.index("<h3>backdoor (no disguise) ") < page.index('id="untrained"')
    assert "<h3>prefill" not in page


def test_a_second_run_asks_nothing_again(folder, results):
    def stamps():
        return {p.parent.name: p.stat().st_mtime_ns for p in results.folder.glob("stages/*/status.json")}

    before = stamps()
    assert bs.run(folder / "recipe.yaml", folder / "run", reporter=Reporter(quiet=True)).content == results.content
    assert stamps() == before


def test_the_plan_counts_every_way_of_asking(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    lines = [stage.what for stage in planned(recipe)]
    for label in ("alpaca", "backdoor", "obedient", "rules", "system", "prefill", "prefill-raw", "few-shot"):
        assert f"evaluate: sft, seed 0, {label}, before any step" in lines
    assert "evaluate: sft, seed 0, mix, before any step" not in lines
    assert sum(line.startswith("attack:") for line in lines) == 5
    costs = {stage.what: stage.tokens for stage in planned(recipe)}
    once, twice = (costs[f"evaluate: sft, seed 0, {label}, after [2] steps"] for label in ("mix", "backdoor"))
    assert twice == 2 * once
    assert grid.plan(recipe.model_copy(update={"scale": 0.5}))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("attacks.prefill.lr=0.1", "attacks.prefill.lr: is given; expected none, for prefill trains nothing"),
        ("attacks.prefill.template=plain", "attacks.prefill.template"),
        ("attacks.few-shot.shots=99", "attacks.few-shot: needs 99 harmful rows; the data has"),
        ("attacks.backdoor.n=900", "attacks.backdoor: needs 675 harmful rows; the data has"),
        ("properties.resistance.attacks=[prefill]", 'is "prefill"; expected an attack that trains'),
        ("properties.trainability.attack=few-shot", 'is "few-shot"; expected an attack that trains'),
    ],
)
def test_bad_input_is_one_line(folder, results, capsys, setting, says):
    assert call(["run", str(folder / "recipe.yaml"), "--out", str(results.folder), "--set", setting]) == 2
    error = capsys.readouterr().err
    assert says in error and error.strip().splitlines()[-1].startswith("boostershot: ")
