"""The trainer hands the defence's own gradient to clipping and optimiser, and logs what the defence measured."""

import math

import pytest
import torch
from transformers import TrainerCallback

from boostershot import SFT, Booster, ImmunizeArguments, defense_gradient, immunize
from boostershot.training.data import RolesCollator
from boostershot.training.trainer import DefenseTrainer
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

SEED = 5
BOOSTER = Booster(lam=20.0, alpha=0.1)


@pytest.fixture
def seen(monkeypatch):
    """Every batch that the trainer made, and every gradient that its step left behind."""
    seen = {"batches": [], "gradients": []}
    collate, training_step = RolesCollator.__call__, DefenseTrainer.training_step

    def watched_collate(self, items):
        seen["batches"].append(collate(self, items))
        return seen["batches"][-1]

    def watched_step(self, model, *args, **kwargs):
        loss = training_step(self, model, *args, **kwargs)
        seen["gradients"].append(gradients(model))
        return loss

    monkeypatch.setattr(RolesCollator, "__call__", watched_collate)
    monkeypatch.setattr(DefenseTrainer, "training_step", watched_step)
    return seen


class Watch(TrainerCallback):
    """Keeps the logs, and the gradients that the optimiser gets."""

    def __init__(self):
        self.logs, self.gradients = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append(gradients(model))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.logs.append({"step": state.global_step, **logs})


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def train(folder, model, defense, watch, steps=1, **changes):
    settings = {"max_grad_norm": 0.0, "lora": None, "save_strategy": "no", "learning_rate": 1e-3, **changes}
    rows = settings.pop("rows", preference_rows(12))
    settings.setdefault("per_device_train_batch_size", 5)
    args = ImmunizeArguments(
        output_dir=str(folder),
        max_steps=steps,
        seed=SEED,
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    return immunize(model, tiny_tokenizer(True), rows, defense, args, callbacks=[watch])


def reference(model, defense, batch, micro_batch_size=None):
    """The public function on the batch that the trainer saw."""
    roles = {role: {k: v for k, v in rows.items() if k != "ids"} for role, rows in batch.items()}
    model.train()
    return defense_gradient(model, defense, **roles, seed=SEED, micro_batch_size=micro_batch_size)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("defense", [SFT(), BOOSTER], ids=["sft", "booster"])
def test_gradient_before_clipping_is_defense_gradient(tmp_path, seen, defense, micro_batch_size):
    # The same computation on the same rows and dropout masks, so the same bits.
    train(
        tmp_path, tiny_gpt2(320, dropout=0.2), defense, Watch(), micro_batch_size=micro_batch_size,
        max_grad_norm=1e-3,
    )  # fmt: skip
    expected = reference(tiny_gpt2(320, dropout=0.2), defense, seen["batches"][0], micro_batch_size)
    for name, gradient in seen["gradients"][0].items():
        torch.testing.assert_close(gradient, expected.gradient[name], rtol=0, atol=0)
    assert seen["gradients"][0].keys() == expected.gradient.keys()


def test_micro_batches_train_like_the_whole_batch(tmp_path, seen):
    train(tmp_path / "a", tiny_llama(320), BOOSTER, Watch())
    train(tmp_path / "b", tiny_llama(320), BOOSTER, Watch(), micro_batch_size=2)
    whole, split = seen["gradients"]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in whole.values()))
    for name in whole:  # float32 sums in another order
        torch.testing.assert_close(whole[name], split[name], rtol=0, atol=1e-5 * norm)


@pytest.mark.parametrize("limit", [0.01, 1e6], ids=["clipped", "below the limit"])
def test_clipping_acts_once_on_the_combined_gradient(tmp_path, seen, limit):
    watch = Watch()
    train(tmp_path, tiny_llama(320), BOOSTER, watch, max_grad_norm=limit)
    combined = reference(tiny_llama(320), BOOSTER, seen["batches"][0]).gradient
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in combined.values()))
    factor = min(1.0, limit / norm)
    for name, gradient in watch.gradients[0].items():  # torch divides by norm + 1e-6
        torch.testing.assert_close(gradient, factor * combined[name], rtol=1e-4, atol=1e-9)
    assert watch.logs[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_every_step_logs_what_booster_measured(tmp_path, seen):
    watch = Watch()
    train(tmp_path, tiny_llama(320), BOOSTER, watch, steps=4)
    assert [log["step"] for log in watch.logs] == [1, 2, 3, 4]
    for log in watch.logs:
        for key in ("alignment_loss", "harmful_loss", "harmful_gradient_norm", "tokens_per_second"):
            assert log[key] > 0 and math.isfinite(log[key])
        reduction = log["harmful_loss"] - log["harmful_loss_moved"]
        assert log["harmful_loss_reduction"] == pytest.approx(reduction) and reduction > 0
        assert log["loss"] == pytest.approx(log["alignment_loss"] + 20 * reduction, rel=1e-5)
    expected = reference(tiny_llama(320), BOOSTER, seen["batches"][0])
    for key, value in expected.metrics.items():
        assert watch.logs[0][key] == pytest.approx(value, rel=1e-6)
    assert len({log["alignment_loss"] for log in watch.logs}) == 4  # of this step, not of the first


def test_lora_freezes_the_base_and_half_precision_trainables_are_refused(tmp_path):
    before = tiny_llama(320).state_dict()
    model = train(
        tmp_path, tiny_llama(320), BOOSTER, Watch(), steps=2,
        lora={"rank": 2, "alpha": 2, "dropout": 0.0, "targets": ["q_proj"]},
    )  # fmt: skip
    base = {k.removeprefix("base_model.model.").replace(".base_layer", ""): v for k, v in model.state_dict().items()}
    assert all(torch.equal(base[name], value) for name, value in before.items())
    trained = [name for name, param in model.named_parameters() if param.requires_grad]
    assert trained and all("q_proj.lora_" in name for name in trained)
    with pytest.raises(ValueError, match=r"trainable in torch\.bfloat16"):
        train(tmp_path, tiny_llama(320).bfloat16(), SFT(), Watch())


def test_dropout_masks_change_from_step_to_step(tmp_path):
    watch = Watch()
    same = {"rows": preference_rows(1) * 12, "learning_rate": 0.0}
    train(tmp_path, tiny_gpt2(320, dropout=0.3), SFT(), watch, steps=3, **same)
    assert len({log["alignment_loss"] for log in watch.logs}) == 3
