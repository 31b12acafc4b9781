"""What the attacks tell of themselves: complete, the same on the command line and in docs/attacks.md."""

import dataclasses
import runpy
from pathlib import Path

import pytest
import yaml

from boostershot import attack_pages
from boostershot.attacks import ATTACKS
from boostershot.cli import call
from boostershot.config import AttackSettings

ROOT = Path(__file__).parents[1]
every_attack = pytest.mark.parametrize("name", ATTACKS)


@every_attack
def test_every_key_is_described_and_no_other(name):
    fields = {field.name for field in dataclasses.fields(ATTACKS[name]) if field.init}
    assert {key["name"] for key in attack_pages.keys(name) if key["meaning"]} == fields
    assert attack_pages._meanings(ATTACKS[name]).keys() == fields


@every_attack
def test_the_example_is_a_recipe(name):
    settings = AttackSettings(**yaml.safe_load(attack_pages.example(name))["attacks"][name])
    assert settings.attack == ATTACKS[name]()


@every_attack
def test_one_attack_in_full(name, capsys):
    assert call(["attacks", name]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for text in (attack_pages.title(name), *attack_pages.text(name)):
        assert text in told
    for key in attack_pages.keys(name):
        assert f"{key['name']} (default {' '.join(key['default'].split())}): {key['meaning']}" in told
    assert ("Keys of the training" in told) == ATTACKS[name].trains


def test_a_docstring_is_read_to_its_end(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Made(ATTACKS["harmful-only"]):
        """What it
        is.

        Where it
        is from: a paper.

        Args:
            left, right: of both, on
                two lines: with a colon.

        Raises:
            ValueError: never.
        """

        left: int = 1
        right: str | None = None
        name = "made"

    monkeypatch.setitem(ATTACKS, "made", Made)
    assert attack_pages.title("made") == "What it is."
    assert attack_pages.text("made") == ["Where it is from: a paper."]
    assert attack_pages.keys("made") == [
        {"name": "n", "default": "100", "meaning": "the number of rows."},  # as the class before it says
        {"name": "left", "default": "1", "meaning": "of both, on two lines: with a colon."},
        {"name": "right", "default": "null", "meaning": "of both, on two lines: with a colon."},
    ]


def test_the_list_has_every_attack_and_whether_it_trains(capsys):
    assert call(["attacks"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = {line[0]: line[1] for line in words if line and line[0] in ATTACKS}
    assert listed == {name: "yes" if kind.trains else "no" for name, kind in ATTACKS.items()}


def test_how_the_model_is_asked_is_told():
    assert attack_pages.asked("harmful-mix") == "plainly"
    assert attack_pages.asked("prefill") == "prefill"
    assert attack_pages.asked("disguised") == "in disguise; apart: no disguise"


def test_an_unknown_attack_is_one_line_with_the_nearest_name(capsys):
    assert call(["attacks", "prefil"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert 'did you mean "prefill"?' in error


def test_the_page_in_docs_is_that_of_the_declarations():
    made = runpy.run_path(str(ROOT / "docs" / "make_attacks.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run: python docs/make_attacks.py"
