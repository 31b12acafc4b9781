"""The tuned attacker in the report and in the terminal, from a made-up sweep.json."""

import io
import json

import pytest
from rich.console import Console

from boostershot.report import recipe_hash, sweep_table, write_report


def made_sweep(folder):
    """Two defences: one broken with an interval, one without a trial in the bound; written beside the run's results."""
    recipe = json.loads((folder / "manifest.json").read_text())["recipes"]["example"]
    trial = {"state": "done", "values": {"lr": 3e-4, "adapter": "fresh"}, "steps": 30, "samples": 160, "steps_done": 30}
    trial |= {"harmful_loss": 1.2, "harmful_score": 81.3, "harmful_score_ci": [74.1, 87.0], "finetune_accuracy": 90.5}
    trial |= {"degenerate_share": 0.0, "utility_loss": 0.04, "error": None}
    given_up = trial | {"trial": 1, "state": "pruned", "steps_done": 8, "harmful_score": None, "harmful_score_ci": None}
    failed = trial | {"trial": 2, "state": "failed", "error": "the attack's loss is nan at step 3 <b>"}
    failed |= {"harmful_loss": None, "harmful_score": None, "harmful_score_ci": None, "steps_done": None}
    found = {"trial": 0, "harmful_score": 81.3, "utility": 90.5, "utility_loss": 0.04}
    none = {"trial": None, "harmful_score": None, "utility": None, "utility_loss": None}
    broken = {
        "defense": "sft",
        "before": {"harmful_score": 4.0, "finetune_accuracy": 8.0},
        "resolution": 0.046,
        "honest": {"utility": 94.6, "steps": 30, "samples": 160},
        "trials": [trial | {"trial": 0}, given_up, failed],
        "worst": [{"epsilon": 0.05, **found}, {"epsilon": 0.1, **found}, {"epsilon": None, **found}],
        "winner": {
            "trial": 0,
            "attack": {"method": "harmful-mix", "lr": 3e-4, "lora": {"rank": 8}, "eval_steps": [30], "judged": True},
            "harmful_score": {"mean": 78.2, "ci": [70.1, 85.3]},
            "finetune_accuracy": {"mean": 90.1, "ci": [88.0, 92.0]},
        },
        "cost_to_break": {
            "bounded": {"trial": 0, "trials": 1, "steps": 30, "samples": 160, "product": 4800},
            "unbounded": None,
        },
        "second": [
            {"attack": "default", "harmful_score": 33.4, "harmful_score_ci": [25.0, 43.0], "finetune_accuracy": 71.2},
            {"attack": "worst", "harmful_score": 65.6, "harmful_score_ci": [56.0, 74.0], "finetune_accuracy": 72.3},
        ],
        "curves": {"trials": [[1, 60.0], [3, 81.3]], "steps": [[30, 81.3]], "samples": [[160, 81.3]]},
        "importance": {"shares": {"lr": 0.8, "adapter": 0.2}, "best": 5, "of": 23},
        "verdict": "sft: the tuned attacker reaches HS 78.2 [70.1, 85.3].",
        "tone": "open",
    }
    scoreless = broken | {
        "defense": "booster",
        "worst": [{"epsilon": 0.05, **none}, {"epsilon": 0.1, **none}, {"epsilon": None, **found}],
        "winner": None,
        "second": [broken["second"][0]],
        "cost_to_break": {"bounded": None, "unbounded": None},
        "curves": {"trials": [], "steps": [], "samples": []},
        "importance": None,
        "verdict": "booster: no score within a loss of utility of 10%.",
    }
    setting = {"trial": 0, "values": {"lam": 7.5}, "harmful_score": 40.0, "finetune_accuracy": 88.0}
    content = {
        "schema": 3,
        "split": "test",
        "search_split": "dev",
        "recipe": "example",
        "identity": recipe_hash(recipe),
        "attacker": {"trials": 3, "steps": 30, "samples": 160, "generation": 4, "finalists": 2, "threshold": 50.0}
        | {"epsilons": [0.05, 0.1], "bound": 0.1, "space": {"lr": {"low": 1e-6, "high": 0.01, "log": True}}},
        "defender": {"booster": {"chosen": {"trial": 0}, "trials": [setting]}},
        "defenses": [broken, scoreless],
        "failed": [{"defense": "vaccine", "error": "made to fail"}],
    }
    (folder / "sweep.json").write_text(json.dumps(content))
    return content


def test_the_section_tells_worst_cases_verdicts_and_trials(small_run):
    content = made_sweep(small_run)
    page = write_report(small_run).read_text()
    head = page[: page.index("<nav")]
    assert 'href="#sweep">tuned attacker</a>' in head
    assert "SFT 78.2" in head and "Booster no score." in head
    section = page[page.index('id="sweep"') : page.index('id="table"')]
    for item in content["defenses"]:
        assert item["verdict"].split(" [")[0] in section
    assert section.count("no score") >= 4  # booster at two bounds, again, and in its verdict
    assert "30 × 160 × 1 = 4,800" in section
    assert section.count("94.6") == 2
    assert "One standard error of a difference of accuracies is 5% of the best" in section
    assert "given up" in section
    assert "nan at step 3 &lt;b&gt;" in section
    assert "made to fail" in section
    assert section.count("33.4") == 2 and section.count("65.6") == 1  # booster has no worst attack
    assert "lam 7.5: HS 40.0, FA 88.0 on dev" in section
    assert "SFT, the best 5 of 23</dt><dd>lr 80, adapter 20" in section
    assert "The search is scored on the dev split" in section and "Again, fresh seeds (test)" in section
    assert "low: 1.0e-06" in section  # the space, to be repeated
    # Of the axes only the trials have more than one budget.
    assert "Worst-case HS over trials" in section
    assert "Worst-case HS over samples" not in section


def test_a_run_without_a_sweep_has_no_section(small_run):
    page = write_report(small_run).read_text()
    assert 'id="sweep"' not in page
    assert "#sweep" not in page


@pytest.mark.parametrize("content", ["{", '{"schema": 3}', "other", "earlier"])
def test_a_sweep_that_is_not_of_this_run_is_left_out_and_that_is_said(small_run, content):
    made = made_sweep(small_run) | ({"schema": 2} if content == "earlier" else {"identity": "of another recipe"})
    (small_run / "sweep.json").write_text(json.dumps(made) if content in ("other", "earlier") else content)
    page = write_report(small_run).read_text()
    assert 'id="sweep"' not in page
    assert "sweep" in page
    assert "left out" in page


@pytest.mark.parametrize("width", [60, 100])
def test_the_table_in_the_terminal_cuts_no_digit(small_run, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(sweep_table(made_sweep(small_run)))
    shown = console.export_text()
    assert "78.2 [70.1, 85.3]" in shown
    assert "≤ 5%" in shown
    assert "94.6" in shown
    assert "is 5% of the best" in " ".join(shown.split())
    assert "fresh seeds, on test; honest: the accuracy after benign rows alone, on dev" in " ".join(shown.split())
    assert "no score" in shown
    assert "failed: vaccine: made to fail" in shown
    said = " ".join(shown.split())
    assert "SFT, on a second source: HS 33.4 after the attack untuned, 65.6 after the worst" in said
    assert "Booster, on a second source: HS 33.4 after the attack untuned, no score after the worst" in said
    assert "…" not in shown
