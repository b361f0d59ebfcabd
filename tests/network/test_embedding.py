"""Time and label embeddings against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffexp.network.embedding import (
    Embedding,
    FourierFeatures,
    LabelEmbedding,
    PositionalFeatures,
    TimestepFeatures,
)


def test_positional_features_follow_the_formula():
    time = torch.tensor([0.0, 1.0, 123.4, 1000.0], dtype=torch.float64)
    frequencies = np.array([10000.0 ** (-k / 7) for k in range(8)])  # half - 1 = 7; from 1 down to 1e-4
    angles = time.numpy()[:, None] * frequencies
    want = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(PositionalFeatures(16)(time).numpy(), want, rtol=0, atol=1e-11)


def test_positional_features_in_float32_are_exact_to_the_spacing_of_the_angle():
    time = torch.linspace(0.0, 1000.0, 101)
    got = PositionalFeatures(256)(time).double()
    assert (got - PositionalFeatures(256)(time.double())).abs().max() < 2e-4  # float32 spacing at 1000 rad is 6e-5


@pytest.mark.parametrize("width", [16, 17])
def test_timestep_features_have_cosines_first_and_half_in_the_denominator(width):
    time = torch.tensor([0.0, -2302.6, 1.0, 1000.0], dtype=torch.float64)
    angles = time.numpy()[:, None] * np.array([10000.0 ** (-k / 8) for k in range(8)])
    want = np.concatenate([np.cos(angles), np.sin(angles), np.zeros((4, width % 2))], axis=1)
    np.testing.assert_allclose(TimestepFeatures(width)(time).numpy(), want, rtol=0, atol=1e-11)


def test_fourier_features_see_the_logarithm_of_time():
    features = FourierFeatures(32, scale=16.0).double()
    time = torch.tensor([0.01, 1.0, 999.0], dtype=torch.float64)
    angles = 2.0 * math.pi * np.log(time.numpy())[:, None] * features.frequencies.numpy()
    want = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(features(time).numpy(), want, rtol=0, atol=1e-10)
    assert torch.equal(features(time)[1], torch.tensor([0.0] * 16 + [1.0] * 16, dtype=torch.float64))


def test_fourier_frequencies_are_saved_not_trained_and_have_the_scale():
    torch.manual_seed(0)
    features = FourierFeatures(20_000, scale=16.0)
    assert list(features.parameters()) == []
    assert list(features.state_dict()) == ["frequencies"]
    # 10,000 draws: three standard errors of the deviation are 2 %.
    assert features.frequencies.std().item() == pytest.approx(16.0, rel=0.03)


def test_label_embedding_is_a_dense_layer_on_the_one_hot_label():
    layer = LabelEmbedding(5, 7)
    labels = torch.tensor([4, 0, 4, 2])
    want = torch.nn.functional.one_hot(labels, 5).float() @ layer.weight.t() + layer.bias
    torch.testing.assert_close(layer(labels), want)


def test_a_label_without_bias_is_a_row_of_a_table_and_none_is_nothing():
    layer = LabelEmbedding(5, 7, bias=False)
    got = layer(torch.tensor([4, -1, 2]))
    assert torch.equal(got, torch.stack([layer.weight[:, 4], torch.zeros(7), layer.weight[:, 2]]))


def test_the_label_is_added_after_the_second_dense_layer():
    embedding = Embedding(PositionalFeatures(8), 6, num_classes=3).double()
    time, labels = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([2, 0])
    silu = torch.nn.functional.silu
    h = embedding.dense2(silu(embedding.dense1(embedding.features(time))))
    torch.testing.assert_close(embedding(time, labels), silu(h + embedding.label(labels)))
