"""What defences keep between steps survives a checkpoint; layers that a step leaves out stay as they are."""

import json
import re
import shutil

import pytest
import torch
from test_resume import LORA, Stop, StopAfter, differing, weights
from transformers import TrainerCallback

from boostershot import Booster, ImmunizeArguments, TVaccine, immunize
from boostershot.checksums import unsealed
from boostershot.data.rows import Completion
from boostershot.defenses import TargetReduction
from boostershot.training.checkpoints import MARK, mark
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

STEPS = 8
DEV = [Completion(row["prompt"], row["prompt"], row["rejected"]) for row in preference_rows(24)[18:]]
DEFENSES = {
    "scheduled": Booster(lam=5.0, alpha=0.1, schedule=TargetReduction(0.2, every=2, rate=0.5)),
    "reused": Booster(lam=5.0, alpha=0.1, reuse=2),
    "t_vaccine": TVaccine(rho=2.0, layers=1, sample_every=2, importance_every=3),
}


def train(folder, defense, lora=LORA, callbacks=()):
    model = tiny_llama(320) if lora else tiny_gpt2(320)
    args = ImmunizeArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        weight_decay=0.1,
        save_steps=3,
        seed=3,
        lora=lora,
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = preference_rows(18)
    return immunize(model, tiny_tokenizer(True), rows, defense, args, dev=DEV, callbacks=list(callbacks))


@pytest.mark.parametrize("defense", DEFENSES.values(), ids=DEFENSES)
def test_a_resumed_training_goes_on_with_what_was_kept(tmp_path, defense):
    whole = weights(train(tmp_path / "whole", defense))
    stopped, forgetful = tmp_path / "stopped", tmp_path / "forgetful"
    with pytest.raises(Stop):
        train(stopped, defense, callbacks=[StopAfter(4)])
    shutil.copytree(stopped, forgetful)
    assert differing(whole, weights(train(stopped, defense))) == []

    kept = forgetful / "checkpoint-3" / "trainer_state.json"  # this can fail: without what was kept they differ
    state = json.loads(kept.read_text())
    state["stateful_callbacks"]["DefenseState"]["args"]["values"].clear()
    kept.write_text(json.dumps(state))
    mark(kept.parent, unsealed(json.loads((kept.parent / MARK).read_text()))["training"])  # else it counts as damaged
    assert differing(whole, weights(train(forgetful, defense)))


class Watch(TrainerCallback):
    """Keeps, for each step, the weights and AdamW's moments before and after it, and the layers drawn for it."""

    def __init__(self):
        self.steps = []

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.before = self.seen(model, optimizer)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.steps.append((self.before, self.seen(model, optimizer)))

    @staticmethod
    def seen(model, optimizer):
        state = optimizer.state
        return {
            name: [param.detach().clone(), *(value.clone() for value in state.get(param, {}).values())]
            for name, param in model.named_parameters()
            if param.requires_grad
        }


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_layers_that_were_not_drawn_keep_weights_and_moments(tmp_path, lora):
    watch = Watch()
    train(tmp_path, TVaccine(rho=2.0, layers=1, sample_every=1), lora, [watch])
    trained = []
    for before, after in watch.steps:
        assert before.keys() == after.keys()
        moved = {
            name
            for name in before
            if len(before[name]) != len(after[name])
            or not all(torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
        }
        layers = {int(found[1]) for name in moved if (found := re.search(r"\.(?:layers|h)\.(\d)\.", name))}
        assert len(layers) == 1
        trained.append(*layers)
        outside = {name for name in before if not re.search(r"\.(?:layers|h)\.\d\.", name)}
        assert outside <= moved
    assert set(trained) == {0, 1}
