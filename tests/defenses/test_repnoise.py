"""RepNoise against plain autograd, term by term; its rows must be pairs."""

import math

import pytest
import torch
from naive_reference import loss
from test_naive_reference import MODELS, build
from transformers import OPTConfig, OPTForCausalLM

import boostershot as bs
import naive_hidden
from batches import batch_of, other_answers, relative_difference
from boostershot.core.oracle import Oracle
from boostershot.defenses.repnoise import mmd
from tiny import tiny_gpt2

NORMS = {"gpt2": "transformer.ln_f", "llama": "model.norm"}


def pairs():
    """Two answers to each prompt; token 0 is among them, and answers of a pair begin alike."""
    align, paired = other_answers(seed=1), other_answers(seed=2)
    for (safe, _), (tokens, labels) in zip(align, paired, strict=True):
        start = labels.count(-100)
        tokens[start] = labels[start] = safe[start]
        tokens[-1] = labels[-1] = 0
    return align, paired


ALIGN, PAIRED = (batch_of(rows) for rows in pairs())


def step_of(model, defense, align=ALIGN, paired=PAIRED, **options):
    return bs.defense_gradient(model, defense, align=align, paired=paired, **options)


def naive_mmd(x: list[torch.Tensor], y: list[torch.Tensor]) -> torch.Tensor:
    """Pair by pair."""
    points = [*x, *y]
    squared = [[((a - b) ** 2).sum() for b in points] for a in points]
    n, m = len(points), len(x)
    mean = sum(squared[i][j].item() for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    def kernel(i, j):
        return sum(torch.exp(-squared[i][j] / (mean * factor)) for factor in (0.25, 0.5, 1, 2, 4))

    within = sum(kernel(i, j) + kernel(m + i, m + j) for i in range(m) for j in range(m))
    across = sum(kernel(i, m + j) + kernel(m + i, j) for i in range(m) for j in range(m))
    return (within - across) / m**2


def naive_noise_loss(model, batch) -> torch.Tensor:
    """Row by row; the noise is the defence's own, which has the shape of all answers' outputs."""
    layers = naive_hidden.outputs(model, batch, ".mlp")
    places = naive_hidden.places(batch)
    longest, n = max(len(ts) for _, ts in places), sum(len(ts) for _, ts in places)
    shape = (n, len(layers), layers[0].shape[-1])
    noise = torch.randn(shape, generator=Oracle(model).generator("repnoise"), dtype=layers[0].dtype)

    def flat(tokens: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([*tokens, *[torch.zeros_like(noise[0, 0])] * (longest - len(tokens))])

    total = torch.zeros((), dtype=noise.dtype)
    for k, layer in enumerate(layers):
        draws = iter(noise[:, k])
        rows = [flat([layer[r, t] for t in ts]) for r, ts in places]
        total = total + naive_mmd(rows, [flat([next(draws) for _ in ts]) for _, ts in places])
    return total / len(layers)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("beta", "alpha"), [(3.0, 0.0), (0.0, 0.7), (3.0, 0.7)], ids=["noise", "ascent", "both"])
def test_agrees_with_plain_autograd(name, lora, beta, alpha):
    model, tolerance = build(name, lora), MODELS[name][2]
    norm = ("base_model.model." if lora else "") + NORMS[name]

    def objective(copy):
        total = loss(copy, dict(copy.named_parameters()), ALIGN)
        if beta:
            total = total + beta * naive_noise_loss(copy, PAIRED)
        if alpha:
            total = total - alpha * torch.log(1 + naive_hidden.lens_loss(copy, PAIRED, norm))
        return total

    value, expected = naive_hidden.gradient(model, objective)
    for size in (None, 3):
        step = step_of(model, bs.RepNoise(beta=beta, alpha=alpha), micro_batch_size=size)
        assert step.loss == pytest.approx(value, rel=tolerance)
        assert relative_difference(list(step.gradient.values()), list(expected.values())) < tolerance


def test_what_is_logged():
    model = build("gpt2", lora=False)
    noise, noise_gradient = naive_hidden.gradient(model, lambda copy: naive_noise_loss(copy, PAIRED))
    lens, _ = naive_hidden.gradient(model, lambda copy: naive_hidden.lens_loss(copy, PAIRED, NORMS["gpt2"]))
    f, _ = naive_hidden.gradient(model, lambda copy: loss(copy, dict(copy.named_parameters()), ALIGN))
    assert step_of(model, bs.RepNoise()).metrics == pytest.approx(
        {
            "alignment_loss": f,
            "noise_loss": noise,
            "noise_gradient_norm": math.sqrt(sum(part.square().sum().item() for part in noise_gradient.values())),
            "harmful_loss_at_all_depths": lens,
        },
        rel=1e-9,
    )


def test_each_term_counts():
    # Else the agreement above might be one of zeros.
    model = build("gpt2", lora=False)
    f = list(step_of(model, bs.SFT()).gradient.values())
    for beta, alpha in ((3.0, 0.0), (0.0, 0.7)):
        step = step_of(model, bs.RepNoise(beta=beta, alpha=alpha))
        assert relative_difference(list(step.gradient.values()), f) > 0.02


def test_mmd_of_equal_samples_is_nothing_and_grows_with_their_distance():
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mmd(x, x).item() == pytest.approx(0, abs=1e-12)
    near, far = mmd(x, x + 0.1).item(), mmd(x, x + 1).item()
    assert 0 < near < far
    assert far == pytest.approx(naive_mmd(list(x), list(x + 1)).item(), rel=1e-10)


def test_noise_is_drawn_anew_every_step_and_the_same_within_one():
    def drawn(seed):
        return step_of(tiny_gpt2(std=0.2), bs.RepNoise(), seed=seed).metrics["noise_loss"]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_row_without_an_answer_changes_nothing_that_micro_batches_see():
    align, paired = pairs()
    paired[4] = (paired[4][0], [-100] * len(paired[4][0]))
    model, defense = tiny_gpt2(dtype=torch.float64, std=0.2), bs.RepNoise(beta=3, alpha=0.7)
    whole, single = (
        step_of(model, defense, batch_of(align), batch_of(paired), micro_batch_size=size) for size in (None, 1)
    )
    assert relative_difference(list(single.gradient.values()), list(whole.gradient.values())) < 1e-10


def test_weights_of_0_need_no_pairs_and_are_sft():
    model = tiny_gpt2(std=0.2)
    step, sft = step_of(model, bs.RepNoise(0, 0), paired=None), step_of(model, bs.SFT(), paired=None)
    assert all(torch.equal(step.gradient[name], part) for name, part in sft.gradient.items())


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 0, 2, 3, 4, 5, 6, 7], "repnoise: paired row 0 and align row 0 have different prompts"),
        ([0, 1, 2], "repnoise: 3 paired rows for 8 alignment rows; expected pairs"),
    ],
)
def test_rows_that_are_no_pairs_are_refused(order, message):
    shuffled = {key: value[order] for key, value in PAIRED.items()}
    with pytest.raises(ValueError, match=message):
        step_of(tiny_gpt2(), bs.RepNoise(), paired=shuffled)


def test_padding_on_the_left_makes_no_other_prompt():
    align, paired = pairs()
    step_of(tiny_gpt2(), bs.RepNoise(), batch_of(align, side="left"), batch_of(paired, extra=2))


def test_models_without_feed_forward_blocks_are_refused():
    config = OPTConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48)
    with pytest.raises(ValueError, match="a layer of OPTForCausalLM has 2 feed-forward blocks; expected one"):
        step_of(OPTForCausalLM(config), bs.RepNoise())


@pytest.mark.parametrize("values", [{"beta": -1.0}, {"alpha": math.inf}])
def test_values_out_of_range(values):
    with pytest.raises(ValueError, match=r"repnoise: .* expected a finite number, 0 or more"):
        bs.RepNoise(**values)
