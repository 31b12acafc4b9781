"""The vocabulary projection is computed at supervised positions only, and the layout trial disturbs nothing."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, Gemma2ForCausalLM

import boostershot.core.losses
from batches import random_batch
from boostershot.core.batch import Rows, padded, trie
from boostershot.core.blocks import decoder_layers
from boostershot.core.losses import lay_out, projecting_only, projects_alone, reads_tries, token_losses
from boostershot.core.oracle import Oracle
from tiny import tiny_gpt2, tiny_llama

VOCAB = 401  # no other size in these models
both_models = pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
both_layouts = pytest.mark.parametrize("tries", [True, False], ids=["trie", "padded"])


@both_models
@both_layouts
@pytest.mark.parametrize("size", [None, 3])
def test_the_output_embedding_sees_the_supervised_positions(build, tries, size, monkeypatch):
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: tries)
    model, rows, seen = build(vocab=VOCAB), Rows.of(random_batch(vocab=VOCAB)), []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[:-1].numel(), out.shape)))
    Oracle(model, micro_batch_size=size).gradient(rows)
    expected = [int(micro.supervised().sum()) for micro in rows.split(size)]
    assert [positions for positions, _ in seen] == expected
    assert [shape for _, shape in seen] == [(1, n, VOCAB) for n in expected]


class LargestLogits(TorchDispatchMode):
    """The most positions in any tensor of [..., VOCAB] made within; a transposed weight or its gradient aside."""

    def __init__(self, hidden: int):
        super().__init__()
        self.hidden, self.positions = hidden, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if not (isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[-1] == VOCAB):
                continue
            positions = leaf.shape[:-1].numel()
            if positions != self.hidden:
                self.positions = max(self.positions, positions)
        return out


@both_models
@both_layouts
def test_no_tensor_of_logits_is_larger(build, tries, monkeypatch):
    # Forward and backward: the memory of a large vocabulary goes where such tensors are.
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: tries)
    model, batch = build(vocab=VOCAB), random_batch(vocab=VOCAB)
    rows = Rows.of(batch)
    assert int(rows.supervised().sum()) < rows.input_ids.numel() / 2
    with LargestLogits(hidden=32) as ours:
        Oracle(model).gradient(rows)
    with LargestLogits(hidden=32) as plain:
        model(**batch).loss.backward()
    assert ours.positions == int(rows.supervised().sum())
    assert plain.positions >= rows.input_ids.numel()  # the spy does see what it looks for


def capping(vocab, dtype, std):
    """A Gemma 2, which caps its logits after the projection."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma2Config(
        vocab_size=vocab, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, initializer_range=std, **sizes
    )
    return Gemma2ForCausalLM(config).to(dtype)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama, capping])
@both_layouts
@pytest.mark.parametrize("trained", ["all", "some"])
def test_positions_projected_in_pieces_give_the_same_losses_and_gradients(build, tries, trained, monkeypatch):
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: tries)
    model, rows = build(vocab=VOCAB, dtype=torch.float64, std=0.2), Rows.of(random_batch(vocab=VOCAB))
    if trained == "some":
        model.requires_grad_(False)
        decoder_layers(model)[0].requires_grad_(True)
    expected = Oracle(model).gradient(rows)
    monkeypatch.setattr(boostershot.core.losses, "PIECE", 4 * VOCAB * 3)
    assert projects_alone(model)
    with LargestLogits(hidden=32) as ours:
        found = Oracle(model).gradient(rows)
    assert ours.positions == 3 < int(rows.supervised().sum())
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert Oracle(model).loss(rows) == pytest.approx(expected.loss, rel=1e-9)
    for one, other in zip(found.gradient.parts, expected.gradient.parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_a_model_whose_decoder_cannot_be_replaced_is_projected_at_once(monkeypatch):
    model, rows = tiny_gpt2(vocab=VOCAB), Rows.of(random_batch(vocab=VOCAB))
    expected = Oracle(model).loss(rows)
    monkeypatch.setattr(boostershot.core.losses, "PIECE", 4 * VOCAB * 3)
    monkeypatch.setattr(type(model), "get_decoder", lambda self: torch.nn.Linear(1, 1))
    assert not projects_alone(model)
    assert Oracle(model).loss(rows) == expected


def test_weights_that_each_call_gathers_from_all_processes_are_not_even_tried(monkeypatch):
    """One process might try and another not: the first would wait for ever."""
    model = tiny_gpt2()
    monkeypatch.setattr(boostershot.core.losses, "FSDPModule", type(model))
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("runs"))
    assert not projects_alone(model)


@both_models
def test_losses_of_single_rows_in_order(build):
    model, rows = build(dtype=torch.float64, std=0.2), Rows.of(random_batch())
    layout = trie(rows, torch.float64)
    together = token_losses(model, layout)
    for i, row in enumerate(rows.split(1)):
        torch.testing.assert_close(together[layout.rows == i], token_losses(model, padded(row)), rtol=1e-5, atol=1e-5)


def test_no_supervised_position_gives_no_loss_and_a_gradient_of_zero():
    # The model runs all the same: where its weights are sharded, another process waits for it.
    model, batch = tiny_gpt2(), random_batch()
    rows = Rows.of({**batch, "labels": torch.full_like(batch["labels"], -100)})
    losses = token_losses(model, padded(rows))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert all(param.grad is not None and not param.grad.any() for param in model.parameters())


def test_the_hook_on_the_projection_goes_even_after_an_error():
    model = tiny_gpt2()
    with pytest.raises(KeyboardInterrupt), projecting_only(model, torch.tensor([0])):
        raise KeyboardInterrupt
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_model_that_bypasses_its_output_embedding_is_refused():
    class Bypassing(type(tiny_gpt2())):
        def get_output_embeddings(self):
            return torch.nn.Linear(1, 1)

    model = tiny_gpt2()
    model.__class__ = Bypassing
    with pytest.raises(ValueError, match="Bypassing does not compute its logits by calling its output embedding"):
        token_losses(model, padded(Rows.of(random_batch())))
    assert not reads_tries(model)


@both_models
def test_the_trial_accepts_these_models_and_leaves_modes_alone(build):
    model = build()
    model.train()
    list(model.modules())[3].eval()
    modes = [module.training for module in model.modules()]
    assert reads_tries(model)
    assert [module.training for module in model.modules()] == modes
    assert lay_out(model, Rows.of(random_batch())).inputs["input_ids"].shape[0] == 1


def test_the_trial_leaves_modes_alone_when_it_fails(monkeypatch):
    model = tiny_gpt2(dropout=0.1).train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]

    def fail(*_):
        raise RuntimeError("this attention has no such mask")

    monkeypatch.setattr(boostershot.core.losses, "trie", fail)
    assert not reads_tries(model)
    assert [module.training for module in model.modules()] == modes


def test_the_trial_is_made_once(monkeypatch):
    model = tiny_gpt2()
    assert reads_tries(model)
    monkeypatch.setattr(boostershot.core.losses, "probe_rows", lambda _: pytest.fail("tried again"))
    assert reads_tries(model)
