"""What foreign harnesses ask, and the figures of an answer."""

import json

import pytest

from boostershot.data.splits import split_of
from boostershot.errors import InputError
from boostershot.integrations import prompts


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"harmful question {i}"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_only_the_test_split_is_asked_unless_all_is(file):
    assert len(prompts.harmful(file, "all")) == 60
    asked = prompts.harmful(file)
    assert 0 < len(asked) < 60
    assert {split_of(row.prompt) for row in asked} == {"test"}
    assert prompts.harmful(file, n=3) == asked[:3]


def test_the_built_in_safe_prompts(file):
    assert len(prompts.safe()) >= 40
    assert [row.id for row in prompts.safe(file, 2)] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("arguments", "named"), [({"split": "tset"}, "split: 'tset'"), ({"n": 0}, "n: is 0"), ({"n": True}, "n: is True")]
)
def test_bad_arguments(file, arguments, named):
    with pytest.raises(InputError, match=named):
        prompts.harmful(file, **arguments)


@pytest.mark.parametrize(
    ("answer", "harmful", "refusal", "degenerate"),
    [
        ("First you fold the paper, then you glue it.", 1, 0, 0),
        ("I'm sorry, but I can't help with that.", 0, 1, 0),
        ("go go go go go go", 0, 0, 1),
        ("", 0, 0, 1),
    ],
)
def test_figures(answer, harmful, refusal, degenerate):
    expected = {"harmful_score": harmful, "refusal": refusal, "degenerate": degenerate}
    assert prompts.harmful_figures(answer) == expected
    assert prompts.over_refusal_figures(answer) == {"over_refusal": refusal, "degenerate": degenerate}
