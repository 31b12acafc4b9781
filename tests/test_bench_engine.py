"""The bench of the engine: its reference trainer is Booster, its arithmetic holds, and every section runs."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import boostershot as bs
from batches import batch_of, other_answers, relative_difference
from boostershot.config import load_recipe
from boostershot.core.batch import Rows, trie
from boostershot.core.oracle import Oracle
from boostershot.data.format import Format
from boostershot.training.arguments import attach_lora
from tiny import tiny_llama, tiny_tokenizer

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import reference  # noqa: E402
from engine import __main__ as command  # noqa: E402
from engine import growth, machine, options, steps, whole  # noqa: E402
from engine.check import MARGIN, regressions  # noqa: E402
from engine.page import INTRODUCTIONS, page, write_charts  # noqa: E402
from engine.timing import interleaved, ratio  # noqa: E402
from engine.workload import Workload  # noqa: E402

BOOSTER = bs.Booster(lam=20, alpha=0.05)


def rows(seed: int) -> Rows:
    return Rows.of(batch_of(other_answers(4, seed=seed)))


@pytest.fixture
def work():
    """What quickstart's workload is, on a tiny model."""
    model = attach_lora(tiny_llama(320, std=0.2), {"rank": 4}).train()
    for name, param in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param.data, std=0.1)
    prompts = [[5, 6, 7, 8 + i] for i in range(6)]
    return Workload(
        model=model, form=Format.choose(tiny_tokenizer(True)), align=[rows(1), rows(2)], harmful=[rows(3), rows(4)],
        attack=[rows(5)], prompts=[prompts, prompts[:3]], asked=prompts[:2], booster=BOOSTER,
    )  # fmt: skip


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_reference_trainers_gradient_is_ours(lora):
    model = tiny_llama(std=0.2, dtype=torch.float64).train()
    if lora:
        model = attach_lora(model, {"rank": 4}).double()
        for name, param in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(param.data, std=0.1)
    align, harmful = (steps.padded_batch(rows(seed)) for seed in (1, 2))
    before = [param.detach().clone() for param in model.parameters()]
    for defense, step in (
        (bs.SFT(), lambda: reference.sft_step(model, align)),
        (BOOSTER, lambda: reference.booster_step(model, align, harmful, BOOSTER.lam, BOOSTER.alpha)),
    ):
        expected = bs.defense_gradient(model, defense, align=align, harmful=harmful).gradient
        step()
        found = {name: param.grad for name, param in model.named_parameters() if param.requires_grad}
        # Llama's norms compute in float32 whatever its weights are.
        assert relative_difference([found[name] for name in expected], list(expected.values())) < 1e-6
    # It moves back by arithmetic, as public code does: near, and not bit for bit.
    assert relative_difference([param.detach() for param in model.parameters()], before) < 1e-12


def test_the_sides_take_turns_and_the_first_round_does_not_count():
    called = []
    works = {name: lambda repeat, name=name: called.append((name, repeat)) for name in "ab"}
    seconds = interleaved(works, 2)
    assert called[2:] == [("a", 0), ("b", 0), ("b", 1), ("a", 1)] and len(called) == 6
    assert [len(some) for some in seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_of_the_pairs():
    found = ratio([2.0, 30.0, 8.0, 3.0, 10.0], [1.0, 10.0, 2.0, 1.0, 2.0], target=3.05)
    assert found.median == 3 and found.quartiles == (3, 4) and found.met
    assert found.interval[0] >= 2 and found.interval[1] <= 5
    assert ratio([1.0], [2.0]).quartiles == (0.5, 0.5) and ratio([1.0], [2.0]).met is None
    assert not ratio([2.0], [1.0], "higher", 2.5).met


@pytest.mark.parametrize(
    ("better", "now", "regressed"),
    [("lower", 3 * (1 + 2 * MARGIN), True), ("lower", 3.0, False), ("lower", 1.0, False),
     ("higher", 3 / (1 + 2 * MARGIN), True), ("higher", 9.0, False)],
)  # fmt: skip
def test_a_regression_is_marked(better, now, regressed):
    def sections(value, threads=2):
        one = ratio([value], [1.0], better).to_dict()
        return {"steps": {"machine": {"threads": threads}, "ratios": {"x": one}, "found": {}}}

    lines, worse = regressions(json.loads(json.dumps(sections(3.0))), sections(now))
    assert worse == regressed and len(lines) == 1 and ("REGRESSION" in lines[0]) == regressed
    assert "other ones" in regressions(sections(3.0), sections(now, threads=1))[0][0]


def test_the_command_compares_prints_and_says_so(work, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "DOCS", tmp_path)
    monkeypatch.setattr(command, "quickstart", lambda: (load_recipe("quickstart"), work))
    assert command.main(["check"]) == 2 and command.main(["nothing"]) == 2
    monkeypatch.setitem(command.REPEATS, "steps", 1)
    assert command.main(["steps"]) == 0
    kept = json.loads((tmp_path / "engine.json").read_text())
    assert "3.05" in (tmp_path / "engine.md").read_text()
    (one,) = kept["steps"]["ratios"].values()
    for stored, code in ((1e-6, 1), (1e6, 0)):
        one["median"] = stored
        (tmp_path / "engine.json").write_text(json.dumps(kept))
        capsys.readouterr()
        assert command.main(["check"]) == code
        assert capsys.readouterr().out.startswith("REGRESSION" if code else "ok")


@pytest.mark.parametrize(("lora", "off"), [(True, 0.05), (False, 0.0)], ids=["lora", "full"])
def test_operations_are_those_that_torch_counts(lora, off):
    # With LoRA the first layer's frozen matrices need no gradient for their input, which the formula does not know.
    # torch counts all pairs of tokens, and the formula those that attend: of a trie a token, its ancestors and itself.
    model = tiny_llama(320, std=0.2)
    model = attach_lora(model, {"rank": 4}).train() if lora else model.train()
    model.set_attn_implementation("eager")  # torch's counter does not know the fused attention of processors
    Oracle(model).gradient(rows(1))  # the trial whether it reads tries is not counted
    with FlopCounterMode(display=False) as counter:
        Oracle(model).gradient(rows(1))
    layout = trie(rows(1), torch.float32)
    masked = layout.tokens**2 - int((layout.inputs["position_ids"] + 1).sum())
    expected = counter.get_total_flops() - 12 * 2 * 32 * masked  # two layers of width 32
    assert masked > 0 and machine.step_flops(model, rows(1)) == pytest.approx(expected, rel=off, abs=0)


def test_a_plain_trainers_operations_are_those_that_torch_counts():
    model, some = tiny_llama(320, std=0.2).train(), rows(3)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        reference.sft_step(model, steps.padded_batch(some))
    lengths = some.attention_mask.sum(1)
    masked = len(some) * some.input_ids.shape[1] ** 2 - int((lengths * (lengths + 1) // 2).sum())
    expected = counter.get_total_flops() - 12 * 2 * 32 * masked
    assert masked > 0 and machine.step_flops(model, some, plain=True) == pytest.approx(expected)


def test_exponents_are_those_of_power_laws():
    assert growth.exponent([(x, 3 * x**1.5) for x in (1, 2, 4, 9)]) == pytest.approx(1.5)


def test_the_counts_are_the_quickstarts():
    assert whole.counts(load_recipe("quickstart"))["a Booster step"] == 64
    recipe = load_recipe("quickstart", ["seeds=[0, 1]", "evaluate.n_harmful=10", "evaluate.n_task=20"])
    found = whole.counts(recipe)
    assert found["an attack step"] == 2 * 2 * 20 and found["an SFT step"] == 2 * 64
    assert found["an answer"] == (1 + 2 * 2 * 2) * 30 + 400
    assert found["a harmful answer"] == 96 + 32 + 10


def test_every_section_runs_and_is_told(work, tmp_path):
    recipe = load_recipe("quickstart", ["evaluate.max_new_tokens=2", "data.answer_tokens=2"])
    sections = {
        "steps": steps.against_sft(work, 2),
        "reference": steps.against_reference(work, 1),
        "peak": steps.against_the_peak(work, 1, size=64),
        "variants": steps.variants_against_sft(
            work, 1, {**steps.variants(BOOSTER), "every other step": steps.Variant(bs.SFT(), period=2)}
        ),
        "options": options.against_default(work, 1, "eager"),
        "whole": whole.whole(work, recipe, 2),
        "growth": ({}, growth.growth(1, growth.small(growth.AXES))),
    }
    assert set(sections) == set(INTRODUCTIONS) == set(command.REPEATS)
    differences = sections["options"][1]["differences"]
    assert differences[options.DEFAULT] == 0 and differences[options.COMPILED] < 1e-4
    assert differences[options.CHECKPOINTED] < 1e-6 < differences[options.HALF]
    assert 0 < sections["steps"][1]["outside"] < 1
    made = {
        name: {"machine": machine.facts(1), "ratios": {k: one.to_dict() for k, one in ratios.items()}, "found": found}
        for name, (ratios, found) in sections.items()
    }
    read = json.loads(json.dumps(made))
    text = page(read)
    assert "Not measured yet" not in text and "nan" not in text
    for name, (ratios, _) in sections.items():
        assert all(f"| {label} | {one.median:.2f} |" in text for label, one in ratios.items()), name
    write_charts(read, tmp_path)
    charts = sorted(path.name for path in tmp_path.iterdir())
    assert len(charts) == 4 and all(f"]({name})" in text for name in charts)
    for name in charts:
        drawn = ElementTree.fromstring((tmp_path / name).read_text())
        assert len([tag for tag in drawn if tag.tag.endswith("circle")]) == 2 * 3


def test_what_is_not_measured_is_said_and_the_page_is_of_what_is_stored():
    assert page({}).count("Not measured yet") == len(INTRODUCTIONS)
    assert (command.DOCS / "engine.md").read_text(encoding="utf-8") == page(command.stored())


def test_growth_is_seen_in_both_figures():
    found = growth.growth(1, {"length": [replace(growth.Shape(width=32, layers=1), length=n) for n in (8, 32, 128)]})
    sizes = [point["bytes"] for point in found["length"]["points"]]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert all(math.isfinite(value) for value in found["length"]["exponents"].values())
