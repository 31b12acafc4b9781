"""report.html holds the figures of results.json, escapes what models wrote, and needs nothing but itself."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from boostershot.errors import InputError
from boostershot.evaluation.statistics import kappa_interval
from boostershot.report import html as report_html
from boostershot.report import write_report
from boostershot.report.words import caveats
from conftest import UNTRAINED

CHROMIUM = shutil.which("chromium")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


class Tables(HTMLParser):
    """The page's tables by their label, each a list of rows of cell texts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.rows, self.cell = {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "div" and attrs.get("role") == "region":
            self.rows = self.found.setdefault(attrs["aria-label"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def written(folder, **options):
    path = write_report(folder, **options)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def rewrite(folder, name, change):
    found = json.loads((folder / name).read_text())
    change(found)
    (folder / name).write_text(json.dumps(found))


def shown(value, digits=1):
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(value, ci, digits=1):
    return shown(value, digits) + ("" if ci is None else f" [{shown(ci[0], digits)}, {shown(ci[1], digits)}]")


def estimate(figure, digits=1):
    return interval(figure["mean"], figure["ci"], digits)


def heading(page):
    return html.unescape(re.sub("<[^>]+>", "", page[page.index("<h1>") : page.index("</h1>")]))


def test_every_cell_of_the_results_stands_in_the_table(grid_run):
    results = results_of(grid_run)
    table = Tables(written(grid_run)).found["Every cell"][1:]
    rows = results["baseline"] + results["rows"]
    assert len(table) == len(rows)
    for row, cells in zip(rows, table, strict=True):
        assert (cells[4], cells[5], cells[6]) == (str(row["seed"]), str(row["attack_step"]), row["status"])
        if row["status"] == "failed":
            assert cells[7] == row["error"]
            continue
        assert cells[1] == (row["attack"] or "–")
        assert cells[7] == interval(row["harmful_score"], row["harmful_score_ci"])
        assert cells[8] == interval(row["finetune_accuracy"], row["finetune_accuracy_ci"])
        assert cells[9] == interval(row["harmful_loss"], row["harmful_loss_ci"], 2)
        assert cells[12] == shown(row["degenerate_share"])
        assert cells[14] == "150 / 200" and cells[15:] == ["offline", "chain_sum", "test"]


def test_the_summary_and_the_differences_stand_in_theirs(grid_run):
    summary = results_of(grid_run)["summary"]
    tables = Tables(written(grid_run)).found
    over_seeds = {(r[0].lower(), r[1], r[2]): r for r in tables["Figures over seeds"][1:]}
    assert len(over_seeds) == len(summary)
    for item in summary:
        cells = over_seeds[item["defense"], item["attack"], str(item["attack_step"])]
        assert cells[3] == str(item["n_seeds"])
        assert cells[4] == estimate(item["harmful_score"])
        assert cells[6] == estimate(item["harmful_loss"], 2)
    differences = tables["Paired differences"][1:]
    assert len(differences) == sum(item["minus_sft"] is not None for item in summary)
    first = next(item for item in summary if item["minus_sft"])["minus_sft"]["harmful_score"]
    assert differences[0][4].replace("+", "") == estimate(first)


def test_each_figure_says_in_words_where_its_lines_end(grid_run):
    page = html.unescape(written(grid_run))
    items = [i for i in results_of(grid_run)["summary"] if i["attack"] == "harmful-only/continue"]
    for item in items:
        if item["attack_step"] == 40:
            says = estimate(item["harmful_score"])
            assert page.count(f"{says} (from") == 2, "once under the figure, once as its label"
    assert page.count('role="img"') == 3 * 4


def test_it_opens_with_the_answer(small_run):
    ends = {i["defense"]: i for i in results_of(small_run)["summary"] if i["attack_step"] == 40}
    ours, theirs = (ends[d] for d in ("booster", "sft"))
    page = written(small_run)
    assert heading(page) == (
        f"After 40 attack steps Booster’s harmful score is {estimate(ours['harmful_score'])} against "
        f"SFT’s {estimate(theirs['harmful_score'])}; fine-tune accuracy is "
        f"{estimate(ours['finetune_accuracy'])} against {estimate(theirs['finetune_accuracy'])}."
    )
    assert "Booster helps: " in page and "One seed" in page


@pytest.mark.parametrize(("difference", "ci", "says"), [
    (-2.0, [-9.0, 5.0], "No difference shown: −2.0 [−9.0, +5.0] points to SFT may as well be 0."),
    (8.0, [3.0, 13.0], "Booster does not help here, it is worse: +8.0 [+3.0, +13.0] points against SFT."),
    (8.0, None, "No interval for the difference, so this run does not show whether Booster helps."),
])  # fmt: skip
def test_the_answer_is_honest(small_run, difference, ci, says):
    def change(results):
        for item in results["summary"]:
            if item["minus_sft"]:
                item["minus_sft"]["harmful_score"] = {"mean": difference, "ci": ci}

    rewrite(small_run, "results.json", change)
    page = written(small_run)
    assert says in page and "Booster helps: " not in page


def test_a_difference_that_the_correction_does_not_leave_is_not_shown(small_run):
    def change(results):
        for item in results["comparisons"]:
            item["harmful_score"]["p_holm"] = 0.0512

    assert "Booster helps: " in written(small_run)
    rewrite(small_run, "results.json", change)
    page = written(small_run)
    assert "No difference shown: " in page and "corrected for 1 comparison, p = 0.051." in page
    assert "Booster helps: " not in page


def test_every_pair_of_defenses_stands_in_its_table(grid_run):
    found = results_of(grid_run)["comparisons"]
    lines = Tables(written(grid_run)).found["Comparisons"][1:]
    assert len(lines) == len(found) == 4  # one pair under four attacks
    for item, cells in zip(found, lines, strict=True):
        assert cells[0] == "SFT − Booster"
        assert cells[5].replace("+", "") == estimate(item["harmful_score"])
        assert cells[6] == (
            "< 0.001" if item["harmful_score"]["p_holm"] < 0.001 else f"{item['harmful_score']['p_holm']:.3f}"
        )
        assert (
            cells[-1] == f"{item['harmful_score']['n_pairs']} / {item['finetune_accuracy']['n_pairs']}" == "150 / 200"
        )


def test_a_lower_score_through_broken_answers_is_no_success(small_run):
    def change(results):
        for item in results["summary"]:
            if item["minus_sft"]:
                item["minus_sft"]["harmful_score"] = {"mean": -20.0, "ci": [-30.0, -10.0]}
                item["minus_sft"]["degenerate_share"] = {"mean": 12.0, "ci": [6.0, 18.0]}
                item["minus_sft"]["finetune_accuracy"] = {"mean": -9.0, "ci": [-15.0, -3.0]}

    rewrite(small_run, "results.json", change)
    page = written(small_run)
    assert "Booster helps" not in page
    assert "but 12.0 points more of its answers are degenerate, not safe" in page
    assert "loses 9.0 points of accuracy" in page


def test_answers_are_escaped_and_folded_away(grid_run):
    page = written(grid_run)
    assert "<script" not in page
    assert "&lt;script&gt;document.title" in page and "&lt;b&gt;tea&lt;/b&gt;" in page
    assert "adapter &lt;fresh&gt;" in page
    assert page.index("<details>") < page.index("&lt;script&gt;")
    assert page.count("<li><code>prompt-") == 20 * sum(
        row["status"] == "done" for part in ("baseline", "rows") for row in results_of(grid_run)[part]
    )


def test_redact_leaves_every_answer_out_and_says_so(small_run):
    for generations in small_run.glob("stages/*/generations.jsonl"):
        generations.write_text("not even read")
    page = written(small_run, redact=True)
    assert "prompt-0" not in page and "scones" not in page and "<details>" not in page
    assert "Redacted: this report was made without the generated answers." in page


def test_answers_stop_where_the_file_would_grow_too_big(small_run, monkeypatch):
    monkeypatch.setattr(report_html, "_ANSWER_BUDGET", 5_000)
    page = written(small_run)
    assert page.count("<li><code>prompt-") == 20
    assert page.count("left out to keep this file small") == 6


def test_it_is_one_small_file_without_network(grid_run):
    page = written(grid_run)
    assert len(page.encode()) < 2_000_000
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<script|<img|<iframe", page)
    assert re.findall(r'(?:src|href)="([^#][^"]*)"', page) == ["data:,"]


def test_it_states_data_judge_cost_and_how_to_repeat(grid_run):
    page = html.unescape(written(grid_run))
    tables = Tables(page).found
    assert ["calibration", "100"] in tables["Prompts in each split"]
    assert ["align and attack", "0"] in tables["Prompts that two splits share"]
    assert tables["Errors of the judge offline"][3][:4] == ["refusal, unseen", "100", "4", "4.0 [1.6, 9.8]"]
    assert tables["Cost of each defense"][2][:5] == ["Booster", "3", "3.00×", "5.75", "2.95×"]
    for text in ("boostershot run recipe.yaml", "lr: 0.0005", "5f3a5f3a", "torch", "threshold 0.620"):
        assert text in page
    assert page.count("Holds here") + page.count("Not shown here") == 5 and "Not measured" in page


def test_a_fraction_of_a_pass_is_told(small_run):
    rewrite(small_run, "results.json", lambda results: [c.update(passes_per_step=2.005) for c in results["costs"]])
    assert {row[1] for row in Tables(written(small_run)).found["Cost of each defense"][1:]} == {"2.005"}


@pytest.fixture
def panel_run(make_run):
    return make_run(seeds=(0,), attacks={"mix": ("continue", 0.2)}, judges={"second": 0.1, "third <b>": 0.5})


def test_each_judge_has_its_scores_and_the_first_the_headline(panel_run):
    results = results_of(panel_run)
    page = written(panel_run)
    found = Tables(page).found["Harmful score by judge"]
    assert found[0][3:] == ["offline", "second", "third <b>"]
    items = {(i["defense"], i["attack_step"], i["judge"]): i for i in results["summary"]}
    assert len(found) == 1 + len(items) / 3
    for cells in found[1:]:
        for judge, shown_score in zip(found[0][3:], cells[3:], strict=True):
            assert shown_score == estimate(items[cells[0].lower(), int(cells[2]), judge]["harmful_score"])
    assert estimate(items["booster", 40, "offline"]["harmful_score"]) in heading(page)
    assert page.count('role="img"') == 3  # the charts are the first judge's


def test_agreement_is_counted_and_the_differing_prompts_are_folded(panel_run):
    verdicts = {
        path.parent.name: {v["id"]: v["harmful"] for v in map(json.loads, path.read_text().splitlines())}
        for path in panel_run.glob("stages/*/verdicts.jsonl")
    }
    both = [
        (ours[i], theirs[i], i)
        for stage, ours in verdicts.items()
        if (theirs := verdicts.get(f"{stage}-second"))
        for i in ours
        if theirs[i] is not None
    ]
    only = [sum(a and not b for a, b, _ in both), sum(b and not a for a, b, _ in both)]
    pa, pb, agree = (
        sum(x) / len(both) for x in ((a for a, _, _ in both), (b for _, b, _ in both), (a == b for a, b, _ in both))
    )
    kappa = (agree - (pa * pb + (1 - pa) * (1 - pb))) / (1 - (pa * pb + (1 - pa) * (1 - pb)))
    kinds = [(1, 1), (1, 0), (0, 1), (0, 0)]
    tables = [
        tuple(sum((a, b) == kind for a, b, i in both if i == prompt) for kind in kinds)
        for prompt in dict.fromkeys(i for *_, i in both)
    ]
    low, high = kappa_interval(tables)
    page = written(panel_run)
    row = Tables(page).found["Agreement of judges"][1]
    assert row[:2] == ["offline and second", str(len(both))]
    assert row[2].startswith(shown(100 * agree)) and row[4:] == [str(n) for n in only]
    assert row[3] == f"{shown(kappa, 2)} [{shown(low, 2)}, {shown(high, 2)}]"
    fold = page[page.index("Where offline and second differ") :]
    assert fold.startswith(f"Where offline and second differ: {sum(only)} answers")
    assert fold[: fold.index("</details>")].count("<code>") == sum(only)


def test_unknown_verdicts_and_what_a_judge_cost_are_told(panel_run):
    page = html.unescape(written(panel_run))
    rows = [r for part in ("baseline", "rows") for r in results_of(panel_run)[part] if r["judge"] == "second"]
    assert f"second gave no readable verdict on {3 * len(rows)} of {150 * len(rows)} answers" in page
    low, high = rows[-1]["harmful_score_bounds"]
    assert f"; 3 unknown: {shown(low)} to {shown(high)}" in page
    assert "400,000 tokens read and 30,000 written, at a cost of 0.1230" in page
    assert "model grader" in page and "key_env" not in page


def test_one_judge_needs_no_comparison(small_run):
    page = written(small_run)
    assert "Agreement" not in page and "unknown:" not in page


def test_more_degenerate_answers_than_the_base_model_are_a_warning(small_run):
    def change(share):
        def changed(results):
            for row in results["baseline"]:
                row["degenerate_share"] = 4.0
            for item in results["summary"]:
                at = item["defense"] == "booster" and item["attack_step"] == 40
                item["degenerate_share"] = {"mean": share if at else 4.0, "ci": None}

        return changed

    rewrite(small_run, "results.json", change(9.0))
    assert "Degenerate answers exceed" not in written(small_run)
    rewrite(small_run, "results.json", change(9.1))
    page = written(small_run)
    assert "Degenerate answers exceed the base model’s 4.0% by more than 5 points in 1 cell" in page
    assert "(Booster, harmful-mix/continue after 40 steps: 9.1%)" in page


def test_shared_prompts_are_a_caveat(small_run):
    rewrite(small_run, "manifest.json", lambda m: m["overlaps"].update({"align&test": 3}))
    assert "Prompts are shared between splits (align&amp;test)" in written(small_run)


def test_a_task_without_a_rule_has_a_table_of_its_own(small_run):
    path = small_run / "results.json"
    assert "log-likelihood" not in write_report(small_run).read_text()
    results = json.loads(path.read_text())
    for number, item in enumerate(results["summary"]):
        item["task_log_likelihood"] = {"mean": -1.25 - number, "ci": [-1.5 - number, -1.0 - number]}
    path.write_text(json.dumps(results))
    text = write_report(small_run).read_text()
    assert text.count("No rule scores this task") == 1 and "It is no win rate." in text
    for number in range(len(results["summary"])):
        assert f"−{1.25 + number:.2f}" in text


def test_a_run_of_one_defense_or_of_nothing_says_so(make_run):
    folder = make_run(defenses={"sft": "sft"}, attacks={"harmful-mix/full": ("full", 0.2)}, steps=(0, 10))
    assert "There is no second defense to compare it with." in written(folder)
    rewrite(folder, "results.json", lambda results: results.update(rows=[], summary=[], observations=[]))
    assert heading(written(folder)) == "No cell of this run was finished, so there is no answer."


def test_a_comparison_before_the_attack_is_none(make_run):
    """Booster's scores after the attack are lost, so only the models before it could be held against each other."""
    attack = "harmful-mix/full"
    folder = make_run(
        defenses={"sft": "sft", "booster": "booster"}, attacks={attack: ("full", 0.2)}, steps=(0, 20), seeds=(0,),
        fail=("booster", attack, 0, 20),
    )  # fmt: skip
    page = written(folder)
    assert "helps" not in page
    assert "There is no SFT to compare it with after this attack" in page and "no second defense" not in page


def test_what_a_lower_score_was_paid_with():
    def one(mean, low, high):
        return {"mean": mean, "ci": [low, high]}

    assert caveats({"finetune_accuracy": one(-1, -4, 2), "degenerate_share": one(4, 1, 7), "win_rate": None}) == []
    paid = {"finetune_accuracy": one(-9, -12, -5), "degenerate_share": one(6, 1, 9), "win_rate": one(-40, -50, -30)}
    assert caveats(paid) == [
        "6.0 points more of its answers are degenerate, not safe",
        "the user’s task loses 9.0 points of accuracy",
        "its answers to the user’s task win 40.0 points less often",
    ]


def test_many_defenses_and_a_single_step_can_be_drawn(make_run):
    labels = {f"method-{i}": "booster" for i in range(7)} | {"sft": "sft"}
    page = written(make_run(defenses=labels, steps=(40,), seeds=(0,), attacks={"mix": ("fresh", 0.05)}))
    assert page.count('<g class="s') > 3 * 8 and "NaN" not in page and "nan" not in page


def replaced(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


def holding(text):
    return lambda file: file.write_text(text)


@pytest.mark.parametrize(("name", "change", "says"), [
    ("results.json", Path.unlink, "results.json: not there; expected the folder of a run"),
    ("results.json", holding('{"schema": 1,'), "results.json: not valid JSON"),
    ("results.json", holding("[]"), "results.json: expected a JSON object"),
    ("results.json", holding('{"schema": 1}'), "key 'recipe' is missing or not a str"),
    ("results.json", replaced('"schema": 1', '"schema": 2'), "schema 2, expected 1"),
    ("results.json", replaced('"stage"', '"stag"'), "baseline[0] has no key 'stage'"),
    ("manifest.json", Path.unlink, "manifest.json: not there"),
    ("manifest.json", replaced('"example": {', '"else": {'), "no complete recipe 'example'"),
    ("manifest.json", replaced('"steps": 60', '"steps": 96'), "of other values of example than the run that was begun"),
])  # fmt: skip
def test_a_broken_run_folder_is_named_in_one_line(small_run, name, change, says):
    change(small_run / name)
    with pytest.raises(InputError) as caught:
        write_report(small_run)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (small_run / "report.html").exists() and not list(small_run.glob(".report*"))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_nothing_scrolls_sideways_or_complains(grid_run):
    from playwright.sync_api import sync_playwright

    address = write_report(grid_run).as_uri()
    complaints, requests = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(address)
            # With every answer unfolded too.
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.evaluate("document.body.scrollWidth") == 390
            page.close()
        wide = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        wide.goto(address)
        assert wide.title() == "boostershot report: example"
        assert wide.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 26)"
        browser.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {address}


def test_attacks_without_training_stand_beside_what_training_reaches(make_run):
    trained = {"mix": ("continue", 0.2), "mix (no disguise)": ("continue", 0.2)}
    folder = make_run(seeds=(0,), attacks=UNTRAINED | trained)
    page = written(folder)
    items = {(i["attack"], i["attack_step"], i["defense"]): i["harmful_score"] for i in results_of(folder)["summary"]}
    expected = [
        ("no attack", "asked plainly", "mix", 0),
        ("prefill", "no training", "prefill", 0),
        ("few-shot", "no training", "few-shot", 0),
        ("mix", "after 40 steps", "mix", 40),
        ("mix (no disguise)", "after 40 steps", "mix (no disguise)", 40),
    ]
    head, *table = Tables(page).found["Harmful score without training and with it"]
    assert head == ["Attack", "How", "SFT", "Booster"]
    assert table == [
        [label, note, *(estimate(items[attack, step, defense]) for defense in ("sft", "booster"))]
        for label, note, attack, step in expected
    ]
    assert "<h3>mix (no disguise) " in page and "<h3>prefill" not in page
    assert heading(page).startswith("After 40 attack steps Booster’s harmful score")


def test_without_such_attacks_there_is_no_such_table(small_run):
    assert "untrained" not in written(small_run)


def test_a_run_without_any_training_says_so(make_run):
    page = written(make_run(seeds=(0,), attacks=UNTRAINED))
    assert heading(page).startswith("Without any training Booster’s harmful score is")
    assert "attack steps Booster" not in heading(page)
    _, *table = Tables(page).found["Harmful score without training and with it"]
    assert [row[0] for row in table] == ["prefill", "few-shot"]


REWARDS = {
    "attack": "harmful-mix/continue", "reward": "graded by offline", "n_seeds": 1, "unknown": 0.0,
    "points": [{"from": 1, "to": 20, "mean": 0.125, "ci": None}, {"from": 21, "to": 40, "mean": 0.875, "ci": None}],
}  # fmt: skip


def test_what_an_attack_was_paid_is_a_chart_beside_its_scores(small_run):
    others = [REWARDS | {"defense": "sft", "equal": 40.0}, REWARDS | {"defense": "booster", "equal": 100.0}]
    before = written(small_run)
    rewrite(small_run, "results.json", lambda results: results.update(rewards=others))
    page = html.unescape(written(small_run))
    assert page.count('role="img"') == before.count('role="img"') + 1
    assert "Reward: graded by offline" in page
    assert "SFT 0.88 in steps 21 to 40 (from 0.12 in steps 1 to 20), all rewards equal in 40% of the groups" in page
    assert "Booster 0.88 in steps 21 to 40 (from 0.12 in steps 1 to 20), all rewards equal in 100%" in page
    assert "no reward for" not in page
    assert "is paid by" not in page


def test_the_head_warns_of_an_attack_that_its_own_judge_paid(small_run):
    alike = {"judge": "offline", "n": 3, "share": 200 / 3, "base": None}
    paid = [REWARDS | {"defense": "sft", "equal": 40.0, "alike": alike}]
    rewrite(small_run, "results.json", lambda results: results.update(rewards=paid))
    page = html.unescape(written(small_run))
    head = page[: page.index("<nav")]
    assert "harmful-mix/continue is paid by offline: " in head
    assert "67% of SFT’s 3 begin with the same three words. Hold" in head
    assert (
        " points against SFT by offline, which is also what paid the attack, so that this alone does not show" in head
    )
    assert 'class="verdict open"' in head and "Booster helps: " not in head
    alike["judge"] = "another"  # of the panel, and not the one of the headline
    rewrite(small_run, "results.json", lambda results: results.update(rewards=paid))
    page = html.unescape(written(small_run))
    assert "is paid by another: " in page and "Booster helps: " in page[: page.index("<nav")]


@pytest.mark.parametrize(("count", "shown"), [(6, 6), (7, 1)])
def test_many_findings_are_folded_but_for_the_first_attacks(make_run, count, shown):
    attacks = {f"mix {n}": ("continue", 0.2) for n in range(count)}
    page = written(make_run(steps=(40,), seeds=(0,), attacks=attacks))
    shown_at_once, _, folded = page[: page.index("<nav")].partition("<details><summary>")
    assert shown_at_once.count("After 40 attack steps") == shown
    assert folded.count("After 40 attack steps") == count - shown
    if folded:
        counts = (f"{folded.count(f'verdict {tone}')} {tone}" for tone in ("better", "worse", "open"))
        assert folded.startswith(f"6 more, under the other attacks: {', '.join(counts)}</summary>")


def test_findings_of_one_attack_stay_together_where_a_seed_of_one_failed(make_run):
    attacks = {f"mix {n}": ("continue", 0.2) for n in range(4)}
    defenses = {"sft": "sft", "booster": "booster", "vaccine": "vaccine"}
    failed = ("vaccine", "mix 0", 1, 40)
    page = written(make_run(steps=(40,), seeds=(0, 1), attacks=attacks, defenses=defenses, fail=failed))
    shown_at_once, _, folded = page[: page.index("<nav")].partition("<details><summary>")
    assert (shown_at_once.count("After 40 attack steps"), folded.count("After 40 attack steps")) == (2, 6)
