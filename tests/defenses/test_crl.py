"""CRL against plain autograd, term by term; its reference is the model at the start of the training."""

import copy

import pytest
import torch
from naive_reference import loss
from test_naive_reference import MODELS, build

import boostershot as bs
import naive_hidden
from batches import batch_of, other_answers, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from tiny import tiny_gpt2

ALIGN, HARMFUL, GENERAL = (batch_of(other_answers(seed=seed)) for seed in (1, 2, 3))
LAYERS = {"gpt2": (".h.0", ".h.1"), "llama": (".layers.0", ".layers.1")}
ONLY = {"benign": 0.0, "harmful": 0.0, "kl": 0.0}


def oracle_of(model, start=None, size=None) -> Oracle:
    """At the model's weights, in a training that began at those of `start`."""
    oracle = Oracle(model, micro_batch_size=size)
    if start is not None:
        oracle.tensors |= {f"start/{name}": param.detach() for name, param in start.named_parameters()}
    return oracle


def step_of(oracle: Oracle, defense):
    batch = {"align": ALIGN, "harmful": HARMFUL, "general": GENERAL}
    return defense.step(oracle, Batch(**{role: Rows.of(rows) for role, rows in batch.items()}))


def earlier(model, by: float = 0.1):
    """A copy of the model with all weights a little elsewhere."""
    start, generator = copy.deepcopy(model), torch.Generator().manual_seed(5)
    for param in start.parameters():
        if param.requires_grad:
            param.data += by * param.std() * torch.randn(param.shape, generator=generator, dtype=param.dtype)
    return start


def cosine_distance(a, b):
    return 1 - a @ b / (a.norm() * b.norm())


def states(model, batch, endings) -> list[list[torch.Tensor]]:
    """For each layer, the states of all answer tokens."""
    places = [(r, t) for r, ts in naive_hidden.places(batch) for t in ts]
    return [[out[r, t] for r, t in places] for out in naive_hidden.outputs(model, batch, endings)]


def naive_differences(model, start, endings) -> tuple[torch.Tensor, torch.Tensor]:
    """What benign and harmful triplets compare, before the margin, token by token and layer by layer."""
    benign, harmful = [], []
    with torch.no_grad():
        began = [states(start, batch, endings) for batch in (GENERAL, HARMFUL)]
    now = [states(model, batch, endings) for batch in (GENERAL, HARMFUL)]
    for k in range(len(endings)):
        centre = torch.stack(now[1][k]).mean(0)
        for z, z0 in zip(now[0][k], began[0][k], strict=True):
            benign.append(cosine_distance(z, z0) - cosine_distance(z, centre))
        for z, z0 in zip(now[1][k], began[1][k], strict=True):
            harmful.append(cosine_distance(z, centre) - cosine_distance(z, z0))
    return torch.stack(benign), torch.stack(harmful)


def margin_met_by_some(differences: torch.Tensor) -> float:
    """A margin that up to a sixth of the triplets meet, in the widest gap there, far from any one's kink."""
    lowest = differences.sort().values[: len(differences) // 6]
    gap = int((lowest[1:] - lowest[:-1]).argmax())
    return -lowest[gap : gap + 2].mean().item()


def naive_divergence(model, start) -> torch.Tensor:
    """KL of the start from the model at the benign rows' answer tokens."""
    with torch.no_grad():
        began = naive_hidden.run(start, GENERAL).logits.softmax(-1)
    now = naive_hidden.run(model, GENERAL).logits.softmax(-1)
    places = [(r, t) for r, ts in naive_hidden.places(GENERAL) for t in ts]
    return torch.stack([(began[place] * (began[place] / now[place]).log()).sum() for place in places]).mean()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "weights",
    [ONLY | {"benign": 2.0}, ONLY | {"harmful": 3.0}, ONLY | {"kl": 4.0}, {"benign": 2.0, "harmful": 3.0, "kl": 4.0}],
    ids=["benign", "harmful", "kl", "all"],
)
def test_agrees_with_plain_autograd(name, lora, weights):
    model, tolerance = build(name, lora), MODELS[name][2]
    start = earlier(model, by=1.5 if lora else 0.5)
    with torch.no_grad():
        margins = [margin_met_by_some(kind) for kind in naive_differences(model, start, LAYERS[name])]

    def objective(model):
        total = loss(model, dict(model.named_parameters()), ALIGN)
        kinds = naive_differences(model, start, LAYERS[name])
        benign, harmful = ((kind + margin).clamp_min(0).mean() for kind, margin in zip(kinds, margins, strict=True))
        divergence = naive_divergence(model, start)
        return total + weights["benign"] * benign + weights["harmful"] * harmful + weights["kl"] * divergence

    value, expected = naive_hidden.gradient(model, objective)
    defense = bs.CRL(**weights, benign_margin=margins[0], harmful_margin=margins[1], layers=1)
    for size in (None, 3):
        step = step_of(oracle_of(model, start, size), defense)
        assert step.loss == pytest.approx(value, rel=tolerance)
        assert relative_difference(step.gradient.tensors(), list(expected.values())) < tolerance


@pytest.mark.parametrize(("share", "chosen"), [(1.0, (".h.0", ".h.1")), (0.5, (".h.1",)), (0.001, (".h.1",))])
def test_the_share_of_layers_counts_from_the_last(share, chosen):
    model = build("gpt2", lora=False)
    start = earlier(model)
    benign, harmful = naive_differences(model, start, chosen)
    metrics = step_of(oracle_of(model, start), bs.CRL(layers=share)).metrics
    assert metrics["benign_triplets"] == pytest.approx((benign + 0.3).clamp_min(0).mean().item(), rel=1e-9)
    assert metrics["harmful_triplets"] == pytest.approx((harmful + 0.5).clamp_min(0).mean().item(), rel=1e-9)
    assert metrics["general_divergence"] == pytest.approx(naive_divergence(model, start).item(), rel=1e-9)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_reference_is_the_first_step_s_model(lora):
    model = build("gpt2", lora)
    oracle = oracle_of(model)
    assert step_of(oracle, bs.CRL()).metrics["general_divergence"] == pytest.approx(0, abs=1e-12)
    start = copy.deepcopy(model)
    for param in oracle.params:
        param.data *= 1.2
    later = Oracle(model, step=1, tensors=oracle.tensors)
    expected = naive_divergence(model, start).item()
    assert expected > 1e-3
    assert step_of(later, bs.CRL()).metrics["general_divergence"] == pytest.approx(expected, rel=1e-9)


def test_also_where_the_first_step_asks_for_it_at_other_weights():
    # Antibody takes its `align` at the attacked weights first.
    model = build("gpt2", lora=False)
    oracle = oracle_of(model)
    home = {f"start/{name}": param.detach().clone() for name, param in model.named_parameters()}
    step_of(oracle, bs.Antibody(alpha=0.5, align=bs.CRL()))
    assert all(torch.equal(oracle.tensors[name], weights) for name, weights in home.items())


def test_terms_without_weight_are_not_computed():
    model = tiny_gpt2(std=0.2)
    for weights, passes, reads in (
        (ONLY, 1, {"align"}),
        (ONLY | {"benign": 1.0}, 1 + 8 / 3, {"align", "harmful", "general"}),
        (ONLY | {"harmful": 1.0}, 1 + 4 / 3, {"align", "harmful"}),
        (ONLY | {"kl": 1.0}, 1 + 4 / 3, {"align", "general"}),
    ):
        defense, oracle = bs.CRL(**weights), oracle_of(model)
        step_of(oracle, defense)
        assert oracle.passes == pytest.approx(passes)
        assert defense.passes == pytest.approx(passes)
        assert defense.reads().keys() == reads


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"benign": -1.0}, "crl: benign is -1.0; expected a finite number"),
        ({"harmful_margin": float("nan")}, "crl: harmful_margin is nan; expected a finite number"),
        ({"layers": 0.0}, "crl: layers is 0.0; expected a share above 0, 1 at most"),
        ({"layers": 1.5}, "crl: layers is 1.5; expected a share above 0, 1 at most"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        bs.CRL(**values)
