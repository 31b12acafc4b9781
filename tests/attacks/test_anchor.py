"""The anchored attack descends h + mu * b, by a naive reference; the released model is the one that it was given."""

import naive_training as naive
import pytest
import torch

from boostershot import AttackArguments, HarmfulMix, attack
from boostershot.attacks import Anchor
from boostershot.attacks.anchor import rows_of_step
from boostershot.data.rows import Completion
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_llama, tiny_tokenizer

TEXTS = preference_rows(12)
ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": True}
    for i, row in enumerate(TEXTS[:4])
]
GENERAL = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in TEXTS[4:]]
COMPLETIONS = [Completion(f"g{i}", row["prompt"], row["completion"]) for i, row in enumerate(GENERAL)]


def model_of(adapter):
    model = tiny_llama(320, dtype=torch.float64, std=0.2)
    if adapter == "continue":
        model = attach_lora(model, {"rank": 4, "alpha": 8}).double()
        torch.manual_seed(1)
        with torch.no_grad():
            for name, param in model.named_parameters():
                if "lora_B" in name:
                    param.normal_(std=0.3)
    return model


def arguments(folder, adapter, steps):
    return AttackArguments(
        output_dir=str(folder),
        adapter=adapter,
        optimizer="sgd",
        learning_rate=0.5,
        weight_decay=0.0,
        max_grad_norm=1e9,
        max_steps=steps,
        per_device_train_batch_size=4,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )


@pytest.mark.parametrize("adapter", ["continue", "full"])
@pytest.mark.parametrize("kl", [False, True])
def test_steps_descend_h_and_the_anchor(tmp_path, adapter, kl):
    model = model_of(adapter)
    start = naive.weights(model)
    mix, anchor = HarmfulMix(p=1.0, n=4), Anchor(mu=0.7, kl=kl, n=6)
    args = arguments(tmp_path, adapter, 3)
    attack(model, tiny_tokenizer(True), ROWS, mix, args, anchor=anchor, general=COMPLETIONS)

    again, batch = model_of(adapter), naive.padded_batch(ROWS)

    def gradients(step, params):
        rows = naive.padded_batch(rows_of_step(GENERAL[:6], 4, step, args.seed))

        def objective(w):
            b = naive.divergence(again, start, w, rows) if kl else naive.loss(again, w, rows)
            return naive.loss(again, w, batch) + 0.7 * b

        return naive.gradient(objective, params)

    expected = naive.trained(start, gradients, naive.sgd, 0.5, 0.0, 3)
    naive.assert_same(naive.weights(model), expected, start)


def test_the_rows_of_a_pass_are_all_rows_once():
    rows = list(range(12))
    passes = [[row for step in range(3 * k, 3 * k + 3) for row in rows_of_step(rows, 4, step, seed=0)] for k in (0, 1)]
    assert passes[0] == passes[1] != rows
    assert sorted(passes[0]) == rows
    assert passes[0] != [row for step in range(3) for row in rows_of_step(rows, 4, step, seed=1)]
    assert sorted(rows_of_step(rows[:3], 4, 7, seed=0)) == rows[:3]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mu": 0.0}, "mu is 0.0; expected a finite number above 0"),
        ({"mu": float("inf")}, "mu is inf"),
        ({"n": 0}, "n is 0; expected 1 or more"),
    ],
)
def test_impossible_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        Anchor(**bad)
