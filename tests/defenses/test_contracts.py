"""What holds for every defence: nothing is left changed, every role counts, passes are as declared."""

import dataclasses
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import boostershot as bs
import boostershot.core.oracle
from batches import batch_of, other_answers
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.methods import typical
from every_defense import PERIODS, SETTINGS
from tiny import tiny_gpt2

ROLES = {
    role: batch_of(other_answers(seed=i)) for i, role in enumerate(("align", "harmful", "paired", "general", "dev"), 1)
}

every_defense = pytest.mark.parametrize("defense", SETTINGS.values(), ids=SETTINGS.keys())


def test_every_defense_is_tested():
    assert {type(defense) for defense in SETTINGS.values()} == set(bs.DEFENSES.values())


@dataclass
class Snapshot:
    """Everything that a step must leave as it was."""

    weights: dict[str, torch.Tensor]
    places: list[tuple[int, int]]
    grads: list[torch.Tensor | None]
    grad_places: list[int]
    hooks: list[int]
    modes: list[bool]
    trainable: list[bool]
    torch_state: torch.Tensor
    python_state: object
    numpy_state: object

    @classmethod
    def of(cls, model: nn.Module) -> "Snapshot":
        params = list(model.parameters())
        hooks = [
            len(value or ())
            for owner in (*model.modules(), *params)
            for name, value in vars(owner).items()
            if name.endswith("_hooks")
        ]
        hooks += [len(param._backward_hooks or ()) for param in params]
        return cls(
            weights={name: value.clone() for name, value in model.state_dict().items()},
            places=[(id(param), param.data_ptr()) for param in params],
            grads=[None if param.grad is None else param.grad.clone() for param in params],
            grad_places=[0 if param.grad is None else param.grad.data_ptr() for param in params],
            hooks=hooks,
            modes=[module.training for module in model.modules()],
            trainable=[param.requires_grad for param in params],
            torch_state=torch.get_rng_state(),
            python_state=random.getstate(),
            numpy_state=[np.asarray(part).tolist() for part in np.random.get_state()],
        )

    def assert_equal(self, other: "Snapshot") -> None:
        for name, value in self.weights.items():
            assert torch.equal(value, other.weights[name]), f"{name} has changed"
        for before, after in zip(self.grads, other.grads, strict=True):
            assert (before is None and after is None) or torch.equal(before, after)  # type: ignore[arg-type]
        assert torch.equal(self.torch_state, other.torch_state)
        for field in ("places", "grad_places", "hooks", "modes", "trainable", "python_state", "numpy_state"):
            assert getattr(self, field) == getattr(other, field), field


def unusual_model() -> nn.Module:
    """A model whose state a careless step would disturb: mixed modes, dropout, a frozen weight, old gradients."""
    model = tiny_gpt2(std=0.2, dropout=0.3).train()
    model.transformer.h[0].eval()
    model.transformer.h[1].attn.eval()
    model.transformer.wpe.weight.requires_grad = False
    first = next(model.parameters())
    first.grad = torch.full_like(first, 7.0)
    model.transformer.h[1].register_forward_hook(lambda *_: None)
    return model


@every_defense
def test_a_step_leaves_everything_as_it_was(defense):
    model = unusual_model()
    before = Snapshot.of(model)
    bs.defense_gradient(model, defense, **ROLES, micro_batch_size=3)
    before.assert_equal(Snapshot.of(model))


class Interruption(Exception):
    """Stands for whatever may happen within a pass: out of memory, Ctrl-C."""


@pytest.mark.parametrize("where", ["forward", "backward"])
@every_defense
def test_so_does_an_exception_in_any_pass(defense, where, monkeypatch):
    # With one micro-batch a pass, call k fails in pass k; Booster's second is the one at the moved weights.
    original, total = boostershot.core.oracle.token_losses, []

    def counted(*args):
        total.append(args)
        return original(*args)

    monkeypatch.setattr(boostershot.core.oracle, "token_losses", counted)
    bs.defense_gradient(unusual_model(), defense, **ROLES)
    assert total

    def fail(*_):
        raise Interruption

    for failing in range(len(total)):
        model, calls = unusual_model(), []

        def interrupted(*args, failing=failing, calls=calls):
            calls.append(args)
            losses = original(*args)
            if len(calls) == failing + 1:
                if where == "forward":
                    fail()
                if not losses.requires_grad:  # a forward alone
                    fail()
                losses.register_hook(fail)
            return losses

        monkeypatch.setattr(boostershot.core.oracle, "token_losses", interrupted)
        before = Snapshot.of(model)
        with pytest.raises(Interruption):
            bs.defense_gradient(model, defense, **ROLES)
        assert len(calls) == failing + 1
        before.assert_equal(Snapshot.of(model))


@pytest.mark.parametrize("label", SETTINGS)
def test_passes_are_as_declared(label):
    model, state, tensors, passes = tiny_gpt2(), {}, {}, []
    for step in range(PERIODS.get(label, 1)):
        oracle = Oracle(model, micro_batch_size=3, step=step, state=state, tensors=tensors)
        SETTINGS[label].step(oracle, Batch(**{role: Rows.of(rows) for role, rows in ROLES.items()}))
        passes.append(oracle.passes)
    assert sum(passes) / len(passes) == pytest.approx(SETTINGS[label].passes)


@every_defense
def test_it_reads_the_roles_that_it_declares_and_no_other(defense):
    model = tiny_gpt2(std=0.2)

    def outcome(roles):
        oracle = Oracle(model)
        rows = {role: Rows.of(batch) for role, batch in roles.items()}
        step = defense.step(oracle, Batch(**rows, parts=defense.reads()))
        return step.gradient.tensors(), oracle.state

    expected, state = outcome(ROLES)
    for role in ROLES:
        gradient, other_state = outcome({**ROLES, role: batch_of(other_answers(seed=9))})
        same = state == other_state and all(torch.equal(a, b) for a, b in zip(gradient, expected, strict=True))
        assert same == (role not in defense.reads())
        without = Batch(**{other: Rows.of(rows) for other, rows in ROLES.items() if other != role})
        if role in defense.reads():
            with pytest.raises(ValueError, match=f"needs {role} rows"):
                defense.step(Oracle(model), without)
        else:
            defense.step(Oracle(model), without)


@pytest.mark.parametrize("name", [name for name, kind in bs.DEFENSES.items() if "align" in kind.__dataclass_fields__])
def test_what_is_within_decides_on_the_answers_that_are_aligned_on(name):
    outer = dataclasses.replace(typical(name), align=bs.SDD())
    assert outer.answers() == "unrelated"
    assert "general" in outer.needs()


@pytest.mark.parametrize("name", bs.DEFENSES)
def test_every_number_that_cannot_be_is_refused_by_name(name):
    defense = typical(name)
    for field in dataclasses.fields(defense):
        value = getattr(defense, field.name)
        one = value[0] if isinstance(value, tuple) else value
        if isinstance(one, bool) or not isinstance(one, int | float):
            continue
        for wrong in (-1,) if isinstance(one, int) else (-1, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"^{name}: {field.name} is \[?{wrong}"):
                dataclasses.replace(defense, **{field.name: (wrong,) if isinstance(value, tuple) else wrong})


@every_defense
def test_the_same_step_twice_is_bitwise_the_same(defense):
    model = unusual_model()
    first = bs.defense_gradient(model, defense, **ROLES, seed=3)
    second = bs.defense_gradient(model, defense, **ROLES, seed=3)
    assert first.loss == second.loss
    assert first.metrics == second.metrics
    assert all(torch.equal(first.gradient[name], second.gradient[name]) for name in first.gradient)
