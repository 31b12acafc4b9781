"""What a sweep concludes, of attacks whose outcomes are made up."""

import pytest

from boostershot.config import load_recipe
from boostershot.errors import InputError
from made_lab import config_of, swept


def rate(asked):
    return asked.attack["lr"] if asked.attack and asked.attack["method"] == "harmful-mix" else 0.0


def usual(asked):
    """The faster, the more harmful; all that is fine-tuned gets the task right alike."""
    return min(90.0, 10 + 5000 * rate(asked)), 80.0, 3 - 100 * rate(asked)


def test_the_search_is_scored_on_dev_and_its_winner_on_test(monkeypatch, tmp_path):
    content = swept(monkeypatch, tmp_path, usual, {})
    (item,) = content["defenses"]
    assert (content["split"], content["search_split"]) == ("test", "dev")
    assert {config_of(tmp_path, trial["stage"])["split"] for trial in item["trials"]} == {"dev"}
    assert {config_of(tmp_path, row["stage"])["split"] for row in item["winner"]["seeds"]} == {"test"}


def test_a_sweep_whose_results_would_be_of_dev_is_refused():
    with pytest.raises(InputError, match=r"evaluate\.split: is dev; expected test beside sweep"):
        load_recipe("quickstart", {"sweep.attacker": {"trials": 1, "steps": 1, "samples": 8}, "evaluate.split": "dev"})
