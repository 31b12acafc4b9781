"""bf16 is a part of what a stage is; activation checkpointing and compilation are not, and reach it all the same."""

import pytest
import torch
from safetensors.torch import load_file

from boostershot.config import parse_recipe
from boostershot.core import oracle as oracle_module
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store
from boostershot.training import compiled as compiled_module
from user_files import user_files


@pytest.fixture
def aligned(tmp_path):
    sections = user_files(tmp_path, pairs=40, tasks=20)

    def run(run_folder, bf16=False, dropout=0.0, **runtime):
        recipe = parse_recipe(
            {
                "name": "options", **sections, "seeds": [0], "runtime": runtime,
                "immunize": {"lr": 1e-3, "steps": 2, "batch": 4, "lora": {"rank": 2, "dropout": dropout},
                             "bf16": bf16},
                "defenses": {"booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
                "attacks": {"a": {"method": "harmful-only", "n": 4, "lr": 1e-3, "steps": 1, "batch": 4}},
            }
        )  # fmt: skip
        store = Store(tmp_path / run_folder)
        with store.claimed(recipe.name):
            return Stages(recipe, store, Reporter(quiet=True)).immunized("booster", 0)

    return run


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_they_reach_the_stage_and_only_bf16_changes_which_it_is(aligned, monkeypatch):
    layers, compiled = [], compiled_module.compiled_layers

    def watched(model, *_):
        layers.append(model)
        return compiled(model, "eager")

    monkeypatch.setattr(compiled_module, "compiled_layers", watched)
    plain, fast, half = aligned("a"), aligned("b", checkpointing=True, compile=True), aligned("a", bf16=True)
    assert plain.name == fast.name != half.name
    (model,) = layers
    assert model.is_activation_checkpointing
    expected = adapter(plain)
    for name, found in adapter(fast).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)
    assert all(found.dtype == torch.float32 for found in adapter(half).values())
    assert any(not torch.equal(found, expected[name]) for name, found in adapter(half).items())


def test_tokens_of_a_pass_and_its_layout_reach_the_stage(aligned, monkeypatch):
    read, built = [], oracle_module.Oracle.__post_init__

    def watched(self):
        built(self)
        read.append((self.tokens_per_micro_batch, self.padded))

    monkeypatch.setattr(oracle_module.Oracle, "__post_init__", watched)
    plain, other = aligned("a"), aligned("b", tokens_per_micro_batch=50, layout="padded")
    assert read == [(None, False)] * 2 + [(50, True)] * 2
    assert plain.name == other.name
    expected = adapter(plain)
    for name, found in adapter(other).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bound", [{"tokens_per_micro_batch": 50}, {"layout": "padded"}])
def test_both_are_a_part_of_it_with_dropout_only(aligned, bound):
    assert aligned("a").name == aligned("a", **bound).name
    assert aligned("a", dropout=0.2).name != aligned("a", dropout=0.2, **bound).name


def test_micro_batches_are_a_part_of_it_with_dropout_only(aligned):
    assert aligned("a").name == aligned("a", micro_batch_size=2).name
    whole, parts = aligned("a", dropout=0.2), aligned("a", dropout=0.2, micro_batch_size=2)
    assert whole.name != parts.name and aligned("a", dropout=0.2, micro_batch_size=4) == whole
    assert any(not torch.equal(found, adapter(whole)[name]) for name, found in adapter(parts).items())
