"""CRL: harmful representations leave their place, and benign ones stay at theirs (arXiv 2506.11938)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boostershot.core.batch import Layout
from boostershot.core.blocks import decoder_layers
from boostershot.core.hidden import outputs_at
from boostershot.core.losses import divergence_from, log_probabilities
from boostershot.core.oracle import FORWARD, Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, Regularizer, check
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class CRL(Regularizer):
    """min f(w) + benign * T_b(w) + harmful * T_h(w) + kl * KL(p_start | p_w) on benign text.

    Of the hidden states z of answer tokens at the last layers, z0 those of the start, d = 1 - cosine and c the mean of
    the harmful z of the batch in each layer:
    T_b = mean of relu(d(z, z0) - d(z, c) + benign_margin) over benign tokens and layers,
    T_h = mean of relu(d(z, c) - d(z, z0) + harmful_margin) over harmful ones.

    Args:
        layers: the share of the decoder layers, from the last one down, whose outputs count; one layer at least.

    Raises:
        ValueError: a value is out of range; in `step`, the model has no recognisable decoder layers.
    """

    benign: float = 0.5
    harmful: float = 0.4
    kl: float = 0.9
    benign_margin: float = 0.3
    harmful_margin: float = 0.5
    layers: float = 0.375
    align: Defense = SFT()

    about = About(
        title="contrastive representation learning (CRL, triplets)",
        source="arXiv:2506.11938, in the cosine form of its port to TamperBench (arXiv:2602.06911)",
        equation="f(w) + benign * mean relu(d(z_b, z0_b) - d(z_b, c) + benign_margin) + harmful * mean relu(d(z_h, c) "
        "- d(z_h, z0_h) + harmful_margin) + kl * KL(p0 | p) on benign text, d = 1 - cosine, c = mean of z_h, 0: at the "
        "start",
        idea="Harmful hidden states gather around one point, away from where they were, while benign ones keep their "
        "place and their predictions.",
        follows="The port's losses, margins and weights (the paper's margins, 500 and 1500, are of raw L2 distances "
        "and fit one model). The centroid is the batch's own and carries a gradient. States and KL are taken where the "
        "answer's tokens are predicted (the port: states one place on, KL everywhere). f is added: the published "
        "objective refuses nothing. The reference is the model at which the training started, for LoRA and full "
        "training alike. The port's layers, states 20 to 31 of a model of 32, are here the last 3/8. The paper's "
        "adversarial hard negatives are left out, as in the port.",
        hyper_parameters={
            "benign": HyperParameter(
                "weight of the benign triplets; 0.5 in the port", "0 leaves benign states to the KL alone"
            ),
            "harmful": HyperParameter(
                "weight of the harmful triplets; 0.4 in the port",
                "too large, or too long, harmful prompts get gibberish and benign ones refusals",
            ),
            "kl": HyperParameter(
                "weight of the divergence from the start on benign text; 0.9 in the port", "0 lets ability drift"
            ),
            "benign_margin": HyperParameter(
                "by how much a benign state is to be nearer to its start than to the harmful centroid, in cosine",
                "states of one layer are often nearly parallel, and a large margin is never met",
            ),
            "harmful_margin": HyperParameter(
                "by how much a harmful state is to be nearer to the centroid than to its start, in cosine",
                "0 asks for nothing that a gathered cloud has not",
            ),
            "layers": HyperParameter(
                "share of the layers, from the last one down, whose outputs count; 0.375 is 12 of 32",
                "early layers carry what all text shares",
            ),
            "align": ALIGN,
        },
        notes="Attackers who search beat it (within 0.04 of undefended models in TamperBench's second version), and "
        "over-refusal was reported. Rows of both kinds are read together, which counts as two passes.",
    )

    def __post_init__(self) -> None:
        check(
            "crl",
            benign=self.benign,
            harmful=self.harmful,
            kl=self.kl,
            benign_margin=self.benign_margin,
            harmful_margin=self.harmful_margin,
            layers=self.layers,
        )
        if not 0 < self.layers <= 1:
            raise ValueError(f"crl: layers is {self.layers}; expected a share above 0, 1 at most")

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self._kinds > 0 or self.kl > 0

    @property
    def term_cost(self) -> Cost:
        """A pass, and a forward at the start, over each kind of rows for the triplets and over benign ones for KL.

        In memory are the start, and either the weights while they are away or the first term while the second is
        computed.
        """
        return Cost(
            own=(self._kinds + (self.kl > 0)) * (1 + FORWARD),
            memory=2,
            activations="the start's hidden states of all answers"
            + (", and its predictions of the benign ones" if self.kl else ""),
        )

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable layers."""
        super().check_model(model)
        if self.active:
            decoder_layers(model)

    @property
    def reads_layers(self) -> bool:
        """The term reads layers' outputs."""
        return self.active

    def term_reads(self) -> dict[str, int]:
        """Harmful rows and benign text."""
        return {
            **({"harmful": 1} if self._kinds else {}),
            **({"general": 1} if self.benign or self.kl else {}),
        }

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """The weighted triplets and the weighted divergence."""
        if not self._kinds:
            return self._divergence(oracle, batch)
        triplets = self._triplets(oracle, batch)
        return triplets + self._divergence(oracle, batch) if self.kl else triplets

    @property
    def _kinds(self) -> int:
        """How many kinds of rows the triplets read: none, harmful ones, or benign ones as well."""
        return 2 if self.benign else int(self.harmful > 0)

    def _triplets(self, oracle: Oracle, batch: Batch) -> Step:
        harmful = batch.need("harmful")
        rows = harmful.beside(batch.need("general")) if self.benign else harmful
        n, parts = int(harmful.supervised().sum()), dict[str, float]()
        here = torch.arange(int(rows.supervised().sum()), device=rows.labels.device) < n
        is_harmful = oracle.gathered(here)

        def read(model: nn.Module, layout: Layout) -> Tensor:
            layers = decoder_layers(model)
            return outputs_at(model, layers[-max(1, round(self.layers * len(layers))) :], layout)

        with oracle.at_start():
            start = oracle.gathered(oracle.features(rows, read, self._kinds))

        def objective(states: Tensor) -> Tensor:
            states, began = _precise(states), _precise(start)
            harm = states[is_harmful]
            gathered = harmful_triplets(harm, began[is_harmful], self.harmful_margin)
            parts["harmful_triplets"] = gathered.item()
            if not self.benign:
                return self.harmful * gathered
            kept = benign_triplets(states[~is_harmful], began[~is_harmful], harm, self.benign_margin)
            parts["benign_triplets"] = kept.item()
            return self.harmful * gathered + self.benign * kept

        step = oracle.gradient_of_features(rows, read, objective, self._kinds)
        return step.log(**parts)

    def _divergence(self, oracle: Oracle, batch: Batch) -> Step:
        rows = batch.need("general")
        with oracle.at_start():
            start = oracle.features(rows, log_probabilities)
        divergence = oracle.gradient(rows, divergence_from(start))
        loss = divergence.loss
        return (self.kl * divergence).log(general_divergence=loss)


def harmful_triplets(states: Tensor, start: Tensor, margin: float) -> Tensor:
    """How far harmful states are from their centroid, less how far from their start: [n, layers, width] each."""
    return torch.relu(distance(states, states.mean(0)) - distance(states, start) + margin).mean()


def benign_triplets(states: Tensor, start: Tensor, harmful: Tensor, margin: float) -> Tensor:
    """How far benign states are from their start, less how far from the harmful states' centroid."""
    return torch.relu(distance(states, start) - distance(states, harmful.mean(0)) + margin).mean()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine over the last dimension."""
    return 1 - nn.functional.cosine_similarity(a, b, dim=-1)


def _precise(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
