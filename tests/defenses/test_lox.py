"""LoX against a full SVD in numpy, on all weights and on a LoRA adapter, and models at one distance from the base."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import boostershot as bs
from boostershot.core.oracle import Oracle
from boostershot.defenses.finishing import stages_of
from tiny import tiny_gpt2, tiny_llama


def extrapolated(aligned, base, factor, rank):
    """W_al + factor * P_rank(W_al - W_base) of one tensor."""
    update = aligned - base
    if update.ndim == 2 and rank is not None:
        u, s, v = np.linalg.svd(update, full_matrices=True)
        update = (u[:, : len(s)] * np.where(np.arange(len(s)) < rank, s, 0)) @ v[: len(s)]
    return aligned + factor * update


def numpy_of(model):
    return {name: param.detach().numpy().copy() for name, param in model.state_dict().items()}


def disturb(model, seed=3):
    """Another point nearby, as a training would leave."""
    generator = torch.Generator().manual_seed(seed)
    for param in model.parameters():
        if param.requires_grad:
            param.data += 0.1 * torch.randn(param.shape, generator=generator, dtype=param.dtype)
    return model


def finish(lox, model, base):
    lox.finish(Oracle(model, tensors={f"start/{name}": value for name, value in base.items()}))


@pytest.mark.parametrize("rank", [1, 3, None])
def test_all_weights_agree_with_a_full_svd(rank):
    model = tiny_gpt2(dtype=torch.float64)
    base = {name: param.detach().clone() for name, param in model.named_parameters()}
    aligned = numpy_of(disturb(model))
    finish(bs.LoX(factor=1.25, rank=rank), model, base)
    for name, weights in model.named_parameters():
        expected = extrapolated(aligned[name], base[name].numpy(), 1.25, rank)
        np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=0, atol=1e-12)
        assert not np.allclose(expected, aligned[name])


def adapted(build, targets, **options):
    """A model with an adapter that does something, and the same model without it."""
    plain = build(dtype=torch.float64)
    base = numpy_of(plain)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, **options)
    return disturb(get_peft_model(plain, config).to(torch.float64)), base


@pytest.mark.parametrize("rank", [1, 3, 4, 9, None])
@pytest.mark.parametrize(
    ("build", "targets", "options"),
    [
        (tiny_llama, ["q_proj", "down_proj", "embed_tokens"], {}),
        (tiny_gpt2, ["c_attn", "c_fc"], {"fan_in_fan_out": True}),
        (tiny_llama, ["v_proj"], {"modules_to_save": ["lm_head"], "use_rslora": True}),
    ],
    ids=["llama", "gpt2", "modules to save"],
)
def test_an_adapter_agrees_with_a_full_svd_and_keeps_its_rank(build, targets, options, rank):
    model, base = adapted(build, targets, **options)
    start = {name: torch.tensor(base["lm_head.weight"]) for name, p in model.named_parameters() if "lm_head" in name}
    model.merge_adapter()
    aligned = numpy_of(model.get_base_model())
    model.unmerge_adapter()
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    finish(bs.LoX(factor=0.7, rank=rank), model, start)
    assert {name: p.shape for name, p in model.named_parameters() if p.requires_grad} == shapes
    actual = numpy_of(model.merge_and_unload())
    aligned = {name.replace(".base_layer", ""): value for name, value in aligned.items()}
    if "modules_to_save" in options:
        aligned["lm_head.weight"] = aligned["lm_head.modules_to_save.default.weight"]
    moved = 0
    for name, before in base.items():
        expected = extrapolated(aligned[name], before, 0.7, rank)
        np.testing.assert_allclose(actual[name], expected, rtol=0, atol=1e-12)
        moved += not np.allclose(expected, aligned[name])
    assert moved == 2 * len(targets) - ("embed_tokens" in targets) + ("modules_to_save" in options)


def test_factor_0_is_the_alignment_bit_for_bit():
    model = disturb(tiny_llama())
    base = tiny_llama().state_dict()
    aligned = numpy_of(model)
    finish(bs.LoX(factor=0), model, base)
    assert all(np.array_equal(aligned[name], value) for name, value in numpy_of(model).items())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_two_models_are_compared_at_an_equal_distance_from_the_base(lora):
    # Extrapolating all of an update only makes it longer; extrapolating its largest parts turns it as well.
    def aligned():
        return adapted(tiny_llama, "all-linear")[0] if lora else disturb(tiny_llama(dtype=torch.float64))

    base = dict(tiny_llama(dtype=torch.float64).named_parameters())

    def update(model):
        merged = model.merge_and_unload() if lora else model
        return torch.cat([(p.detach() - base[name].detach()).flatten() for name, p in merged.named_parameters()])

    away = update(aligned()).norm().item()
    models = {"align": aligned(), "longer": aligned(), "lox": aligned()}
    finish(bs.LoX(factor=0.5, rank=None), models["longer"], base)
    finish(bs.LoX(factor=0.5, rank=2), models["lox"], base)
    distances = {name: bs.distance_from_base(model, base) for name, model in models.items()}
    assert distances["align"] == pytest.approx(away)
    assert distances["longer"] == pytest.approx(1.5 * away)
    assert away < distances["lox"] < 1.5 * away
    for model in models.values():
        bs.bring_to_distance(model, base, away)
        assert bs.distance_from_base(model, base) == pytest.approx(away)
    updates = {name: update(model) for name, model in models.items()}
    assert all(found.norm().item() == pytest.approx(away) for found in updates.values())
    torch.testing.assert_close(updates["longer"], updates["align"])
    assert (updates["lox"] - updates["align"]).norm() > 0.05 * away


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_control_is_as_far_along_the_whole_update(lora):
    base = dict(tiny_llama(dtype=torch.float64).named_parameters())

    def after(*stages):
        model = adapted(tiny_llama, "all-linear")[0] if lora else disturb(tiny_llama(dtype=torch.float64))
        for stage in stages:
            finish(stage, model, base)
        merged = model.merge_and_unload() if lora else model
        return torch.cat([(p.detach() - base[name].detach()).flatten() for name, p in merged.named_parameters()])

    aligned, lox = after(), after(bs.LoX(factor=1.5, rank=2))
    control = after(bs.LoX(factor=1.5, rank=2, control=True))
    assert control.norm().item() == pytest.approx(lox.norm().item(), rel=1e-9)
    torch.testing.assert_close(control, aligned * (lox.norm() / aligned.norm()), rtol=0, atol=1e-9)
    assert (control - lox).norm() > 0.05 * lox.norm()


def test_a_model_at_its_base_has_no_direction_to_scale():
    model = tiny_llama()
    base = dict(model.named_parameters())
    with pytest.raises(ValueError, match="has not moved"):
        bs.bring_to_distance(model, base, 1.0)
    with pytest.raises(ValueError, match="distance is -1"):
        bs.bring_to_distance(disturb(tiny_llama()), base, -1.0)


def test_an_adapter_that_is_no_sum_is_refused():
    model, _ = adapted(tiny_llama, ["q_proj"], use_dora=True)
    with pytest.raises(ValueError, match=r"q_proj is not W \+ scale \* B A"):
        finish(bs.LoX(), model, {})


def test_stages_finish_from_the_inside_out_and_cannot_be_inside_another_defence():
    booster = bs.Booster(alpha=0.1)
    inner = bs.NoiseAndDistil(align=booster)
    outer = bs.LoX(align=inner)
    assert stages_of(outer) == (booster, (inner, outer))
    assert stages_of(booster) == (booster, ())
    for within in (bs.Booster(alpha=0.1, align=bs.LoX()), bs.LoX(align=bs.SAM(rho=1.0, align=bs.LoX()))):
        with pytest.raises(ValueError, match=r"LoX follows an alignment and cannot be a part of (Booster|SAM)"):
            stages_of(within)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"factor": -1.0}, "factor is -1.0"), ({"rank": 0}, "rank is 0")],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=f"lox: {message}"):
        bs.LoX(**values)
