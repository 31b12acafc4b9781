"""What reads and what writes the residual stream: by name in six builds, and by what the model then computes."""

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from architectures import BUILDS, LAYERS, NO_TOKENS, SMALL, seeded
from batches import random_batch
from boostershot.core.batch import Rows, padded
from boostershot.core.blocks import decoder_layers
from boostershot.core.hidden import outputs_at
from boostershot.core.stream import norms_and_readers, residual_stream
from boostershot.training.arguments import attach_lora

DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", BUILDS)
def test_matrices_are_found_by_structure(name):
    stream = residual_stream(BUILDS[name]())
    for what in ("reading", "writing"):
        found = [matrix.name for matrix in getattr(stream, what)]
        assert len(found) == len(set(found))
        assert set(found) == BUILDS[name].names(what)


@pytest.mark.parametrize("name", BUILDS)
def test_the_stream_holds_nothing_along_a_direction_that_no_matrix_writes(name):
    model = BUILDS[name]()
    layout = padded(Rows.of(random_batch()))

    def largest():
        states = outputs_at(model, decoder_layers(model), layout).detach()
        return (states @ DIRECTION).abs().max() / states.norm(dim=-1).mean()

    assert largest() > 0.1
    for matrix in residual_stream(model).writing:
        matrix.write_no_more(DIRECTION)
    assert largest() < 1e-6


@pytest.mark.parametrize("name", BUILDS)
def test_blocks_do_not_see_a_direction_that_no_matrix_reads(name):
    model = BUILDS[name]()
    stream = residual_stream(model)

    def seen():
        """By each matrix: how its output moves when the stream is nothing but that direction."""
        found = []
        for norm, matrices in BUILDS[name].reading.items():
            for i in (0, 1):
                before = torch.nn.Identity() if norm is None else model.get_submodule(norm.format(i=i))
                for matrix in matrices:
                    module = model.get_submodule(matrix.format(i=i))
                    far, nothing = (module(before(x[None])) for x in (1e6 * DIRECTION, 0 * DIRECTION))
                    found.append(((far - nothing).norm() / (1e6 if norm is None else 1)).item())
        return found

    with torch.no_grad():
        assert min(seen()) > 0.1
        for matrix in stream.reading:
            matrix.read_no_more(DIRECTION)
        assert max(seen()) < 1e-6


def test_projecting_is_the_smallest_change():
    model = BUILDS["llama"]()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for matrix in residual_stream(model).reading:
        matrix.read_no_more(DIRECTION)
    for name, param in model.named_parameters():
        rank = torch.linalg.matrix_rank(param - before[name]) if param.dim() == 2 else (param != before[name]).sum()
        assert rank == any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")), name


def test_an_adapters_first_matrix_reads_and_nothing_is_left_behind():
    model = attach_lora(BUILDS["llama"](torch.float32), {"rank": 2, "targets": ["q_proj"], "dropout": 0.5}).train()
    ((_, readers), *_) = norms_and_readers(model)
    assert [reader.name.removeprefix("base_model.model.model.layers.0.self_attn.") for reader in readers] == [
        "q_proj.base_layer", "q_proj.lora_A.default", "k_proj", "v_proj"]  # fmt: skip
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_fused_experts_are_refused_in_one_line():
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    model = seeded(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SMALL, **LAYERS, **NO_TOKENS, **experts, head_dim=8))
    with pytest.raises(ValueError, match=r"no matrix that (reads|writes) the residual stream") as caught:
        residual_stream(model)
    assert "\n" not in str(caught.value)
