"""Each optimiser of an attack takes the steps of its textbook formula, through the whole training."""

import naive_training as naive
import pytest
import torch

from boostershot import AttackArguments, HarmfulMix, attack
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": True}
    for i, row in enumerate(preference_rows(4))
]
RULES = {
    ("adamw", None): (naive.adamw, 0.9),
    ("adamw", 0.5): (naive.adamw, 0.5),
    ("sgd", None): (naive.sgd, 0.0),
    ("sgd", 0.9): (naive.sgd, 0.9),
    ("adafactor", None): (naive.adafactor, None),
    ("adafactor", 0.6): (naive.adafactor, 0.6),
    ("lion", None): (naive.lion, 0.9),
    ("lion", 0.2): (naive.lion, 0.2),
}


@pytest.mark.parametrize(("name", "momentum"), list(RULES), ids=str)
def test_steps_are_the_textbook_ones(tmp_path, name, momentum):
    model = tiny_llama(320, dtype=torch.float64, std=0.2)
    start = naive.weights(model)
    args = AttackArguments(
        output_dir=str(tmp_path),
        adapter="full",
        optimizer=name,
        momentum=momentum,
        learning_rate=0.01,
        weight_decay=0.0,
        max_grad_norm=1e9,
        max_steps=3,
        per_device_train_batch_size=4,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    found = naive.weights(attack(model, tiny_tokenizer(True), ROWS, HarmfulMix(p=1.0, n=4), args))

    batch, again = naive.padded_batch(ROWS), tiny_llama(320, dtype=torch.float64, std=0.2)
    rule, beta = RULES[name, momentum]

    def gradients(step, params):
        return naive.gradient(lambda w: naive.loss(again, w, batch), params)

    naive.assert_same(found, naive.trained(start, gradients, rule, 0.01, beta, 3), start)


def test_an_unknown_optimiser_says_so():
    with pytest.raises(ValueError, match="optimizer is 'adagrad'; expected adamw, sgd, adafactor or lion"):
        AttackArguments(output_dir="x", optimizer="adagrad", use_cpu=True)
