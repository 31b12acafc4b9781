"""What the methods tell of themselves: complete, the same on the command line and in docs/methods."""

import dataclasses
import runpy
from pathlib import Path

import pytest
import yaml

from boostershot import methods
from boostershot.cli import call
from boostershot.config import build_defense
from boostershot.defenses import DEFENSES

ROOT = Path(__file__).parents[1]
every_method = pytest.mark.parametrize("name", DEFENSES)


@every_method
def test_every_hyper_parameter_is_described_and_no_other(name):
    fields = {field.name for field in dataclasses.fields(DEFENSES[name]) if field.init}
    assert DEFENSES[name].about.hyper_parameters.keys() == fields


@every_method
def test_the_example_is_a_recipe_that_makes_the_typical_setting(name):
    mapping = yaml.safe_load(methods.example(name))["defenses"][name]
    assert build_defense(mapping, name) == methods.typical(name)


@every_method
def test_one_method_in_full(name, capsys):
    assert call(["methods", name]) == 0
    told = " ".join(capsys.readouterr().out.split())
    about = DEFENSES[name].about
    for text in (about.title, about.equation, about.idea, about.follows, about.source):
        assert " ".join(text.split()) in told
    for field, described in about.hyper_parameters.items():
        assert f"{field} (default" in told
        assert " ".join(described.meaning.split()) in told
        assert " ".join(described.failure.split()) in told


def test_the_table_has_every_method_with_its_cost(capsys):
    assert call(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {words[0]: words for line in lines if (words := line.split()) and words[0] in DEFENSES}
    assert rows.keys() == DEFENSES.keys()
    for name, words in rows.items():
        assert float(words[1]) == pytest.approx(methods.typical(name).passes, rel=1e-3)
        assert float(words[2].rstrip("*")) == methods.typical(name).cost.memory


def test_an_unknown_method_is_one_line_with_the_nearest_name(capsys):
    assert call(["methods", "vacine"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert 'did you mean "vaccine"?' in error


def test_the_pages_in_docs_are_those_of_the_declarations():
    pages = runpy.run_path(str(ROOT / "docs" / "make_methods.py"))["pages"]()
    on_disk = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "methods").glob("*.md")}
    assert on_disk == pages, "run: python docs/make_methods.py"
