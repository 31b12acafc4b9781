"""Layers whose states are read from the disk: the training is that of the same adapter without, stopped or not."""

import pytest
import torch
from test_immunize import refusal
from test_resume import Stop, StopAfter, differing, weights

from batches import relative_difference
from boostershot import CRL, Booster, ImmunizeArguments, LoX, Vaccine, immunize
from boostershot.config import parse_recipe
from boostershot.core.lower import states_below
from boostershot.data.format import TokenizedRow, collate
from boostershot.training import lower
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

BOOSTER = Booster(lam=5.0, alpha=0.1)
LORA = {"rank": 4, "alpha": 8, "dropout": 0.2, "targets": "all-linear"}


def train(folder, model=None, defense=BOOSTER, callbacks=(), **changes):
    settings = {"lora": LORA, "cached_layers": 1, "max_steps": 4, "save_steps": 3, "micro_batch_size": 3, **changes}
    args = ImmunizeArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        learning_rate=0.05,
        optim="sgd",  # AdamW would make of a gradient's last bit a whole step
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    rows = preference_rows(12)
    return immunize(model or tiny_llama(320, std=0.2), tiny_tokenizer(True), rows, defense, args, callbacks=callbacks)


def test_the_weights_are_those_of_the_same_adapter_without_a_cache(tmp_path):
    cached = weights(train(tmp_path / "cached"))
    assert not (tmp_path / "cached" / "lower").exists()
    base = tiny_llama(320, std=0.2)
    torch.manual_seed(42)  # the arguments' seed, of the adapter's initial weights
    model = attach_lora(base, {**LORA, "first_layer": 1})
    begun = {name: param.clone() for name, param in weights(model).items()}
    plain = weights(train(tmp_path / "plain", model, lora=None, cached_layers=0))
    assert cached.keys() == plain.keys() == begun.keys()
    expected = [param for name, param in plain.items() if "lora_" in name]
    assert relative_difference([param for name, param in cached.items() if "lora_" in name], expected) < 1e-5
    assert relative_difference([param for name, param in begun.items() if "lora_" in name], expected) > 1e-2


def test_a_stopped_training_goes_on_with_what_is_kept_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lower, "_ROWS", 10)  # 24 rows: three files
    whole, computed = weights(train(tmp_path / "whole")), []

    def counted(model, depth, tokens, size):
        computed.append(len(tokens))
        return original(model, depth, tokens, size)

    original = lower._computed
    monkeypatch.setattr(lower, "_computed", counted)
    folder = tmp_path / "stopped"
    with pytest.raises(Stop):
        train(folder, callbacks=[StopAfter(3)])
    assert computed == [10, 10, 4]
    damaged = folder / "lower" / "00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (folder / "lower" / "00002.json").write_text("{}")
    assert differing(whole, weights(train(folder))) == []
    assert computed == [10, 10, 4, 10, 4]


def test_what_is_kept_of_another_model_is_not_read(tmp_path):
    row = TokenizedRow("a", (5, 6, 7), (8, 9))
    for seed in (0, 1):
        model = attach_lora(tiny_llama(seed=seed, std=0.2), {"first_layer": 1})
        kept = lower.kept_below(model, 1, [row], tmp_path, None, torch.enable_grad)
        assert torch.equal(kept.states((5, 6, 7, 8, 9)), states_below(model, 1, collate([row], 0))[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"defense": Vaccine(rho=1.0)}, "cached_layers is 1; vaccine needs all layers, expected 0"),
        (
            {"defense": Booster(lam=5, alpha=0.1, align=Vaccine(rho=1.0))},
            "cached_layers is 1; vaccine needs all layers",
        ),
        ({"defense": CRL()}, "cached_layers is 1; crl needs all layers"),
        ({"defense": LoX()}, "cached_layers is 1; lox needs all layers"),
        ({"cached_layers": 2}, "cached_layers is 2; expected fewer than this model's 2 layers"),
        ({"model": tiny_gpt2(320, dropout=0.1)}, "cached_layers is 1, and PeftModelForCausalLM has dropout below"),
    ],
    ids=["vaccine", "within", "crl", "lox", "too many", "dropout"],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, settings, said):
    assert refusal(lambda: train(tmp_path, **settings)).startswith(said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": None}, "lora is None"),
        ({"cached_layers": -1}, "cached_layers is -1; expected 0 or more"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant is true"),
    ],
)
def test_so_are_arguments(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        train(tmp_path, **settings)


@pytest.mark.parametrize(
    ("immunizing", "said"),
    [
        ({"cached_layers": 1}, "recipe: immunize.cached_layers: is 1, and defenses.mine (vaccine) needs all layers"),
        ({"cached_layers": 1, "lora": None}, "recipe: immunize.cached_layers: is 1; expected 0, for lora: null"),
        ({"cached_layers": -1}, "recipe: immunize.cached_layers: is -1; expected at least 0"),
        ({"cached_layers": 1.5}, "recipe: immunize.cached_layers: is 1.5; expected a whole number"),
    ],
)
def test_so_are_recipes(immunizing, said):
    recipe = {
        "name": "mine",
        "model": {"id": "smollm2-135m-instruct"},
        "data": {"align": {"source": "beavertails"}, "task": {"source": "sst2"}},
        "immunize": {"lr": 1e-3, "steps": 2, **immunizing},
        "defenses": {"mine": {"method": "vaccine"}},
        "attacks": {"mix": {"method": "harmful-mix", "p": 0.5, "n": 4, "lr": 1e-4, "steps": 1}},
    }
    assert refusal(lambda: parse_recipe(recipe)).startswith(said)
