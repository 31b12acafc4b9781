"""On a quadratic h(w) = w'Aw / 2 Booster's gradient and metrics are known in closed form."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector
from boostershot.defenses import SFT, Booster

ALPHA, LAM = 0.7, 3.0


class QuadraticOracle(Oracle):
    """The real oracle with w'Mw / 2 for a loss; the "rows" are the matrix M. Two parameters make one w."""

    def gradient(self, rows: Any) -> Step:
        w = torch.cat([param.detach() for param in self.params])
        gradient = rows @ w
        self.passes += 1
        return Step(0.5 * (w @ gradient).item(), Vector(gradient.split([p.numel() for p in self.params])))


def setting(dtype: torch.dtype) -> tuple[QuadraticOracle, Tensor, Tensor, Tensor]:
    """An oracle, w, the alignment matrix and the harmful one, both symmetric positive."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, 7, generator=generator, dtype=torch.float64)
    w = torch.randn(7, generator=generator, dtype=torch.float64)
    model = nn.Module()
    model.first, model.second = nn.Parameter(w[:3].to(dtype)), nn.Parameter(w[3:].to(dtype))
    return QuadraticOracle(model), w, (b @ b.T).to(dtype), (a @ a.T).to(dtype)


def batch(align: Tensor, harmful: Tensor) -> Batch:
    return Batch(align=align, harmful=harmful)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_gradient_and_reduction(dtype, tolerance):
    oracle, w, align, harmful = setting(dtype)
    step = Booster(lam=LAM, alpha=ALPHA).step(oracle, batch(align, harmful))

    a, b = harmful.double(), align.double()
    norm = (a @ w).norm()
    unit = a @ w / norm
    expected = b @ w + LAM * ALPHA * (a @ unit)  # grad h(w) - grad h(w - alpha unit) = alpha A unit
    reduction = ALPHA * norm - 0.5 * ALPHA**2 * (unit @ a @ unit)
    actual = torch.cat(step.gradient.tensors()).double()
    assert torch.linalg.vector_norm(actual - expected) < tolerance * torch.linalg.vector_norm(expected)
    assert step.metrics["harmful_loss_reduction"] == pytest.approx(reduction.item(), rel=10 * tolerance)
    assert step.metrics["harmful_gradient_norm"] == pytest.approx(norm.item(), rel=tolerance)
    assert step.metrics["harmful_loss"] == pytest.approx(0.5 * (w @ a @ w).item(), rel=tolerance)
    assert step.metrics["harmful_loss_moved"] == pytest.approx(
        step.metrics["harmful_loss"] - step.metrics["harmful_loss_reduction"], rel=tolerance
    )
    assert step.metrics["alignment_loss"] == pytest.approx(0.5 * (w @ b @ w).item(), rel=tolerance)
    assert step.loss == pytest.approx(
        step.metrics["alignment_loss"] + LAM * step.metrics["harmful_loss_reduction"], rel=tolerance
    )


def test_alpha_per_weight_is_a_root_mean_square_over_all_weights():
    oracle, _, align, harmful = setting(torch.float64)
    scaled = Booster(lam=LAM, alpha_per_weight=ALPHA / math.sqrt(7)).step(oracle, batch(align, harmful))
    given = Booster(lam=LAM, alpha=ALPHA).step(oracle, batch(align, harmful))
    torch.testing.assert_close(torch.cat(scaled.gradient.tensors()), torch.cat(given.gradient.tensors()))


def test_nested_booster_adds_both_brackets():
    oracle, w, align, harmful = setting(torch.float64)
    nested = Booster(lam=1.0, alpha=0.2, align=Booster(lam=LAM, alpha=ALPHA, align=SFT()))
    actual = torch.cat(nested.step(oracle, batch(align, harmful)).gradient.tensors())
    expected = align @ w + (0.2 + LAM * ALPHA) * (harmful @ (harmful @ w) / (harmful @ w).norm())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_zero_harmful_gradient_gives_sft():
    oracle, _, align, harmful = setting(torch.float64)
    step = Booster(lam=LAM, alpha=ALPHA).step(oracle, batch(align, torch.zeros_like(harmful)))
    sft = SFT().step(oracle, batch(align, harmful))
    assert torch.equal(torch.cat(step.gradient.tensors()), torch.cat(sft.gradient.tensors()))
    assert step.loss == sft.loss
    assert step.metrics["harmful_loss_reduction"] == 0.0
