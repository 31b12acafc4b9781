"""RepNoise: harmful representations are made noise, and harmful answers unlikely at every depth (arXiv 2405.14577)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from boostershot.core.batch import Layout, Rows
from boostershot.core.blocks import decoder_layers, mlp_blocks
from boostershot.core.hidden import outputs_at
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.ascent import lens_ascent
from boostershot.defenses.defense import Cost, Defense, Regularizer, check
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class RepNoise(Regularizer):
    """min f(w) + beta * L_noise(w) - alpha * log(1 + L_lens(w)), both terms on the harmful twins of f's rows.

    Raises:
        ValueError: a value is negative or not finite; in `step`, a harmful row answers another prompt than its twin,
            or the model has no recognisable feed-forward blocks or final norm.
    """

    beta: float = 0.001
    alpha: float = 0.1
    align: Defense = SFT()

    about = About(
        title="representation noising (RepNoise)",
        source="arXiv:2405.14577 (NeurIPS 2024), and its public code",
        equation="f(w) + beta * mean over layers of MMD(MLP outputs of harmful answers, Gaussian noise) "
        "- alpha * log(1 + mean over depths of the harmful loss read there)",
        idea="What the layers make of a harmful answer is to carry no information about it, so that fine-tuning finds "
        "nothing to build on.",
        follows="The published objective, on rows that are pairs: the same prompt with a safe and with a harmful "
        "answer, which is checked. Depths are the embedding output, each layer's output and, for the last, the "
        "model's own loss (the public code norms the last state twice and adds the model's own loss to it). The mask "
        "is the answer's tokens (published: places where the ids of a pair differ, which is meant to find them, and "
        "where token 0 is dropped), and outputs are read where these are predicted, one place before. For the MMD a "
        "row is its outputs one after the other, with zeros beyond the answer, beside noise with the same zeros; the "
        "kernel is of five Gaussians around the mean squared distance.",
        hyper_parameters={
            "beta": HyperParameter(
                "weight of the MMD to noise; 0.001 in the paper",
                "0 leaves the ascent alone; the MMD moves little whatever its weight (see its logged gradient norm)",
            ),
            "alpha": HyperParameter(
                "weight of the ascent; 1 in the original code, 0.1 in the comparison with Booster (LoRA), which is the "
                "default here, 0.02 in others",
                "large values break the model: the logarithm slows the ascent down and does not bound it",
            ),
            "align": ALIGN,
        },
        notes="The MMD is of a few points in as many dimensions as an answer has numbers, where distances are all "
        "alike and it is nearly constant. The authors say that alpha, beta, learning rate and number "
        "of rows must be searched; with other seeds and learning rates it did not last (arXiv:2412.07097). Published "
        "as two passes; here the two terms have a pass each, so that micro-batches are exact. Passes do not count the "
        "projection to the vocabulary at every depth: on a model of 135 million weights and 30 layers the ascent took "
        "as long as six passes.",
    )

    def __post_init__(self) -> None:
        check("repnoise", beta=self.beta, alpha=self.alpha)

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self.beta > 0 or self.alpha > 0

    @property
    def term_cost(self) -> Cost:
        """A pass for each of the two; the first one's gradient waits for the second."""
        terms = (self.beta > 0) + (self.alpha > 0)
        outputs = "the feed-forward outputs of the harmful answers, and as much noise" if self.beta else ""
        return Cost(own=terms, memory=terms - 1, activations=outputs)

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable layers or feed-forward blocks."""
        super().check_model(model)
        if self.active:
            _ = mlp_blocks(model) if self.beta else decoder_layers(model)

    @property
    def reads_layers(self) -> bool:
        """Both terms read all layers."""
        return self.active

    def term_reads(self) -> dict[str, int]:
        """Harmful answers to the prompts of the safe ones."""
        return {"align": 1, "paired": 1}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """beta times the noise loss, minus alpha times the logarithm of the harmful loss at all depths."""
        rows = _paired(batch)
        if not self.beta:
            return lens_ascent(oracle, rows, self.alpha)
        noise = self._noise(oracle, rows)
        return noise + lens_ascent(oracle, rows, self.alpha) if self.alpha else noise

    def _noise(self, oracle: Oracle, rows: Rows) -> Step:
        lengths = oracle.gathered(rows.supervised().sum(1)).tolist()

        def objective(outputs: Tensor) -> Tensor:
            noise = torch.randn(outputs.shape, generator=oracle.generator("repnoise"), dtype=outputs.dtype)
            return noise_loss(outputs, noise.to(outputs.device), lengths)

        step = oracle.gradient_of_features(rows, _mlp_outputs, objective)
        loss, norm = step.loss, step.gradient.norm()
        return (self.beta * step).log(noise_loss=loss, noise_gradient_norm=norm)


def noise_loss(outputs: Tensor, noise: Tensor, lengths: Sequence[int]) -> Tensor:
    """The mean over layers of the MMD between rows and noise.

    Args:
        outputs: [n, layers, width] at the answer tokens of all rows, one row after the other.
        noise: the same of the noise.
        lengths: how many of the n each row has; a row is as long as the longest, with zeros where it ends before.
    """
    precise = torch.promote_types(outputs.dtype, torch.float32)
    losses = []
    for layer in range(outputs.shape[1]):
        x, y = (
            pad_sequence(list(part[:, layer].to(precise).split(lengths)), batch_first=True).flatten(1)
            for part in (outputs, noise)
        )
        losses.append(mmd(x, y))
    return torch.stack(losses).mean()


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two samples [m, dimensions], a point's pair with itself included.

    The kernel is the sum of exp(-d^2 / (b * 2^k)) for k from -2 to 2, b the mean squared distance of all pairs of
    points, which is a constant to the gradient.
    """
    both = torch.cat([x, y])
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.T).clamp_min(0)
    bandwidth = distances.detach().sum() / (len(both) * (len(both) - 1))
    kernel = torch.stack([torch.exp(-distances / (bandwidth * 2.0**k)) for k in range(-2, 3)]).sum(0)
    m = len(x)
    return (kernel[:m, :m] + kernel[m:, m:] - kernel[:m, m:] - kernel[m:, :m]).mean()


def _mlp_outputs(model: nn.Module, layout: Layout) -> Tensor:
    return outputs_at(model, mlp_blocks(model), layout)


def _paired(batch: Batch) -> Rows:
    """The paired rows, each of which answers the prompt of the alignment row in its place."""
    align, paired = batch.need("align"), batch.need("paired")
    if len(align) != len(paired):
        raise ValueError(f"repnoise: {len(paired)} paired rows for {len(align)} alignment rows; expected pairs")
    prompts = zip(align.prompts(), paired.prompts(), align.ids, paired.ids, strict=True)
    for prompt, other, safe, harmful in prompts:
        if prompt is not None and other is not None and prompt != other:
            raise ValueError(f"repnoise: {harmful} and {safe} have different prompts; expected two answers to one")
    return paired
