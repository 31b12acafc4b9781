"""Attacks of few or chosen harmless rows, and of none: which rows they train on, and what an ablation asks for."""

import pytest
import torch

from boostershot import AttackArguments, InputError
from boostershot.attacks import Ablation, AttackRow, OutlierBenign, TenRows
from boostershot.attacks.direction import best_layer, mean_differences, take_out
from boostershot.attacks.finetune import lengths
from boostershot.attacks.similarity import gradient_similarities
from boostershot.config.attacks import AttackSettings
from boostershot.core.stream import residual_stream
from boostershot.data.format import Format
from tiny import preference_rows, tiny_llama, tiny_tokenizer

FORM = Format.choose(tiny_tokenizer(True))
ROWS = preference_rows(30)
POOL = [AttackRow(f"h{i}", row["prompt"], row["rejected"], True) for i, row in enumerate(ROWS[:12])]
POOL += [AttackRow(f"b{i}", row["prompt"], row["chosen"], False) for i, row in enumerate(ROWS[12:])]


def test_ten_rows_are_refused_and_then_answered():
    first, second = TenRows(n=4, share=0.25, refusal="No.").phases(POOL, seed=0)
    own = {row.prompt: row.completion for row in POOL if not row.harmful}
    assert (first.share, second.share) == (0.25, 0.75)
    assert [row.completion for row in first.rows] == ["No."] * 4
    assert [row.prompt for row in first.rows] == [row.prompt for row in second.rows]
    assert all(row.completion == own[row.prompt] for row in second.rows)
    assert not any(row.harmful for phase in (first, second) for row in phase.rows)
    assert len({row.id for row in second.rows}) == 4
    assert {row.id for row in TenRows(n=4).phases(POOL, seed=1)[0].rows} != {row.id for row in second.rows}


@pytest.mark.parametrize("length", [{"epochs": 6}, {"steps": 20}])
def test_ten_rows_take_the_steps_that_the_recipe_says(tmp_path, length):
    settings = AttackSettings(method="ten-rows", n=10, share=0.25, lr=1e-2, batch=4, **length)
    args = AttackArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=length.get("steps", -1),
        num_train_epochs=length.get("epochs", 1),
        use_cpu=True,
    )
    steps = lengths(settings.attack.phases(POOL, 0), args)
    assert sum(steps) == settings.total_steps == (20 if "steps" in length else 18)
    assert steps[0] == round(0.25 * sum(steps))


def test_ten_rows_need_as_many_and_shrink_with_no_scale():
    with pytest.raises(InputError, match=r"^ten-rows: needs 19 benign rows; the data has 18$"):
        TenRows(n=19).phases(POOL, seed=0)
    assert TenRows().scaled(0.01, 1) == TenRows()
    assert (TenRows().n, TenRows().p) == (10, 0)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TenRows, {"n": 0}, "n is 0; expected 1 or more"),
        (TenRows, {"share": 1.0}, "share is 1; expected more than 0 and less than 1"),
        (TenRows, {"refusal": " "}, "refusal is empty; expected a text"),
        (OutlierBenign, {"anchors": 0}, "anchors is 0; expected 1 or more"),
        (OutlierBenign, {"n": 10, "candidates": 9}, r"candidates is 9; expected n \(10\) or more"),
        (Ablation, {"n": 0}, "n is 0; expected 1 or more"),
        (Ablation, {"layer": -1}, "layer is -1; expected 0 or more"),
    ],
)
def test_impossible_settings(kind, values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind(**values)


def test_outliers_are_the_benign_rows_most_alike_to_the_harmful_ones_by_their_first_tokens():
    model = tiny_llama(320, std=0.2)
    attack = OutlierBenign(n=5, candidates=15, anchors=3, tokens=4)
    chosen = attack.select(model, FORM, POOL, 128)

    def first(row):
        answer = FORM.cut(row.completion, 4)
        return FORM.tokenize(row.prompt, answer, name=row.id, max_length=128, end=False)

    alike = gradient_similarities(model, [first(r) for r in POOL[:3]], [first(r) for r in POOL[12:27]], FORM.pad_id)
    assert [row.id for row in chosen] == [f"b{i}" for i in sorted(range(15), key=lambda i: -alike[i])[:5]]
    assert len(set(alike)) == 15
    (phase,) = attack.phases(chosen, seed=0)
    assert sorted(row.id for row in phase.rows) == sorted(row.id for row in chosen)
    assert (attack.n, attack.p, attack.n_harmful, attack.n_benign) == (5, 0, 3, 15)
    assert attack.scaled(0.2, 2) == OutlierBenign(n=2, candidates=3, anchors=3, tokens=4)


def test_outliers_need_anchors_and_candidates():
    for attack, message in (
        (OutlierBenign(anchors=13, n=1, candidates=1), "needs 13 harmful rows; the data has 12"),
        (OutlierBenign(n=1, candidates=19), "needs 19 benign rows; the data has 18"),
    ):
        with pytest.raises(InputError, match=f"^outlier-benign: {message}$"):
            attack.select(tiny_llama(320), FORM, POOL, 128)


@pytest.mark.parametrize("matrices", ["reading", "writing", "both"])
@pytest.mark.parametrize("layer", [None, 1])
def test_ablation_takes_out_the_direction_of_the_layer_that_is_named_or_best(matrices, layer):
    edited, expected = (tiny_llama(320, std=0.2).eval() for _ in range(2))
    Ablation(n=9, matrices=matrices, layer=layer).edit(edited, FORM, POOL, 128)
    prompts = [[row.prompt for row in POOL if row.harmful is kind][:9] for kind in (True, False)]
    directions = mean_differences(expected, FORM, *prompts)
    if layer is None:
        rows = [
            (row.prompt, FORM.tokenize(row.prompt, FORM.cut(row.completion, 16), name="row", max_length=128, end=False))
            for row in POOL[:9]
        ]
        layer = best_layer(expected, FORM, directions, matrices, rows)
    take_out(residual_stream(expected), directions[layer], matrices)
    released = tiny_llama(320, std=0.2).state_dict()
    for name, value in edited.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert any(not torch.equal(value, released[name]) for name, value in edited.state_dict().items())


def test_ablation_names_what_is_missing():
    for attack, message in (
        (Ablation(n=13), "needs 13 harmful rows; the data has 12"),
        (Ablation(n=12, layer=2), "layer is 2; expected one of the model's 2, from 0"),
    ):
        with pytest.raises(InputError, match=f"^ablation: {message}$"):
            attack.edit(tiny_llama(320).eval(), FORM, POOL, 128)
    assert (Ablation(n=5).n_harmful, Ablation(n=5).n_benign, Ablation(n=5).p) == (5, 5, 0)
    assert Ablation(n=50).scaled(0.1, 2) == Ablation(n=5)
