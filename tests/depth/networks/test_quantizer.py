"""The quantiser: dead codes are replaced, and diversity is the entropy of a batch."""

from __future__ import annotations

import pytest
import torch

from perceptok.depth.networks.quantizer import Quantizer, QuantizerConfig


def test_reference_quantiser_is_a_configuration() -> None:
    reference = QuantizerConfig(
        kmeans_init=False, threshold_ema_dead_code=0, rotation_trick=False, codebook_diversity_loss_weight=0
    )
    assert (reference.decay, reference.commitment_weight) == (0.99, 0.25)


def test_dead_codes_are_replaced_until_it_is_switched_off() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(kmeans_init=False, threshold_ema_dead_code=2), 8, 4).train()
    features = torch.randn(2, 10, 10, 4)

    def unused() -> torch.Tensor:
        """The vector of a code that no feature is near, after it has been placed far away and a batch gone by."""
        with torch.no_grad():
            quantizer.codebook[0] = 1e3
            quantizer.quantize._codebook.embed_avg[0, 0] = 1e3
            quantizer.quantize._codebook.cluster_size[0, 0] = 1.0
        quantizer(features)
        return quantizer.codebook[0].clone()

    quantizer.replace_dead_codes(False)
    assert unused().min() > 100
    quantizer.replace_dead_codes(True)
    assert unused().abs().max() < 10


def test_diversity_is_the_entropy_of_the_batch() -> None:
    torch.manual_seed(0)
    config = QuantizerConfig(
        kmeans_init=False,
        threshold_ema_dead_code=0,
        commitment_weight=0,
        codebook_diversity_loss_weight=0.5,
        codebook_diversity_temperature=3,
    )
    quantizer = Quantizer(config, 8, 4).train()
    codebook = quantizer.codebook.clone()
    features = torch.randn(2, 10, 10, 4, requires_grad=True)
    loss = quantizer(features).loss
    probabilities = (-3 * torch.cdist(features.detach().view(-1, 4), codebook)).softmax(-1).mean(0)
    assert loss.item() == pytest.approx(float(0.5 * (probabilities * probabilities.log()).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, features)
    further = Quantizer(config, 8, 4).train()
    with torch.no_grad():
        further.codebook.copy_(codebook)
        assert further(features - 0.1 * gradient / gradient.norm()).loss < loss
        assert quantizer.eval()(features).loss == 0
