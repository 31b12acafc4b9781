"""The refusal direction and a model without it, against plain loops over named parts of a Llama."""

import copy

import pytest
import torch

from boostershot.attacks.direction import best_layer, mean_differences, take_out
from boostershot.core.stream import residual_stream
from boostershot.data.format import Format
from tiny import preference_rows, tiny_llama, tiny_tokenizer

FORM = Format.choose(tiny_tokenizer(True))
ROWS = preference_rows(24)
HARMFUL, HARMLESS = [row["prompt"] for row in ROWS[:11]], [row["prompt"] + " please" for row in ROWS[11:]]
IDS = torch.tensor([[3, 5, 7, 11, 13, 2, 17]])


def model():
    return tiny_llama(320, dtype=torch.float64, std=0.2).eval()


def states(model, prompts):
    """Mean over prompts of the outputs of both layers at the last token, one prompt at a time."""
    found = []
    for prompt in prompts:
        kept = []
        handles = [
            layer.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out)) for layer in model.model.layers
        ]
        with torch.no_grad():
            model(torch.tensor([FORM.prompt_ids(prompt)]))
        for handle in handles:
            handle.remove()
        found.append(torch.stack([(out if isinstance(out, torch.Tensor) else out[0])[0, -1] for out in kept]))
    return torch.stack(found).mean(0)


def test_differences_of_means_at_the_last_token_of_the_prompt():
    found = mean_differences(model(), FORM, HARMFUL, HARMLESS)
    torch.testing.assert_close(found, states(model(), HARMFUL) - states(model(), HARMLESS), rtol=1e-6, atol=1e-8)
    assert found.shape == (2, 32)


def project(direction, part):
    unit = direction / direction.norm()
    return part - (part @ unit)[..., None] * unit


@torch.no_grad()
def logits_with_hooks(model, direction, matrices):
    """Weights as they are: what is written, or read, loses its part along the direction as the model runs."""
    handles = []

    def change_output(module):
        def hook(_module, _args, out):
            first = out if isinstance(out, torch.Tensor) else out[0]
            rest = () if isinstance(out, torch.Tensor) else out[1:]
            return (project(direction, first), *rest) if rest else project(direction, first)

        handles.append(module.register_forward_hook(hook))

    def change_input(norm):
        def hook(_module, _args, out):
            return project(norm.weight * direction, out)

        handles.append(norm.register_forward_hook(hook))

    if matrices != "reading":
        change_output(model.model.embed_tokens)
    for layer in model.model.layers:
        if matrices != "reading":
            change_output(layer.self_attn)
            change_output(layer.mlp)
        if matrices != "writing":
            change_input(layer.input_layernorm)
            change_input(layer.post_attention_layernorm)
    out = model(IDS).logits
    for handle in handles:
        handle.remove()
    return out


@pytest.mark.parametrize("matrices", ["reading", "writing", "both"])
def test_weights_without_it_act_as_a_model_that_loses_it_as_it_runs(matrices):
    direction = mean_differences(model(), FORM, HARMFUL, HARMLESS)[1]
    edited, plain = model(), model()
    for one in (edited, plain):
        with torch.no_grad():
            for norm in (layer.input_layernorm for layer in one.model.layers):
                norm.weight.copy_(torch.linspace(-1, 2, 32))
    take_out(residual_stream(edited), direction, matrices)
    expected = logits_with_hooks(plain, direction, matrices)
    with torch.no_grad():
        torch.testing.assert_close(edited(IDS).logits, expected, rtol=1e-6, atol=1e-8)
        assert (plain(IDS).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("matrices", ["reading", "writing"])
@torch.no_grad()
def test_the_layer_is_the_one_whose_ablation_helps_the_attacker_most(matrices):
    released = model()
    rows = [FORM.tokenize(row["prompt"], row["rejected"], name="row", max_length=128) for row in ROWS[:11]]
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def first(model):
        """Probabilities of the first token of each answer."""
        return torch.stack([model(torch.tensor([FORM.prompt_ids(p)])).logits[0, -1].softmax(0) for p in HARMFUL])

    refusing = sorted(set(first(released).argmax(1).tolist()))
    scores = []
    for direction in directions:
        edited = copy.deepcopy(released)
        take_out(residual_stream(edited), direction, matrices)
        refuses = first(edited)[:, refusing].sum(1)
        sizes = torch.tensor([len(row.answer) for row in rows])
        losses = [edited(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.item() for row in rows]
        loss = (torch.tensor(losses) * sizes).sum() / sizes.sum()
        scores.append(((refuses / (1 - refuses)).log().mean().clamp_min(-2) + loss).item())
    assert len(refusing) > 1 and len({round(score, 2) for score in scores}) > 2
    before = {name: param.clone() for name, param in released.state_dict().items()}
    answered = list(zip(HARMFUL, rows, strict=True))
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 1, 0, 3]):
        expected = min(range(1, 4), key=lambda i, order=order: scores[order[i]])  # not the first fifth, not the last
        assert best_layer(released, FORM, directions[order], matrices, answered) == expected
    assert all(torch.equal(param, before[name]) for name, param in released.state_dict().items())
