"""The Frechet distance against closed forms and scipy, and its moments against numpy."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.frechet import FrechetMoments, frechet_distance


def _spd(seed: int, dim: int, rank: int | None = None) -> torch.Tensor:
    factor = torch.from_numpy(np.random.default_rng(seed).standard_normal((dim, rank or dim + 5)))
    return factor @ factor.T / dim


def _features(seed: int, count: int, dim: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + 3.0)


def _rotation(seed: int, dim: int) -> torch.Tensor:
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).standard_normal((dim, dim))))[0]


def test_one_dimension_is_squared_difference_of_means_and_deviations():
    value = frechet_distance(
        torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([-2.5]), torch.tensor([[0.25]])
    )
    assert value == pytest.approx(3.5**2 + (2.0 - 0.5) ** 2, rel=1e-14)


def test_diagonal_covariances():
    mean1, mean2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, -1.0])
    var1, var2 = torch.tensor([1.0, 9.0, 0.04]), torch.tensor([4.0, 0.0, 2.25])
    expected = 1.0 + 9.0 + (1 - 2) ** 2 + (3 - 0) ** 2 + (0.2 - 1.5) ** 2
    assert frechet_distance(mean1, var1.diag(), mean2, var2.diag()) == pytest.approx(expected, rel=1e-7)


def test_commuting_covariances():
    basis = _rotation(3, 12)
    root1, root2 = torch.linspace(0.1, 2.0, 12).double(), torch.linspace(3.0, 0.5, 12).double()
    cov1, cov2 = basis @ root1.square().diag() @ basis.T, basis @ root2.square().diag() @ basis.T
    zero = torch.zeros(12)
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(float((root1 - root2).square().sum()), rel=1e-12)


@pytest.mark.parametrize(("rank1", "rank2"), [(None, None), (7, None), (None, 7), (5, 9), (1, 1)])
def test_distance_to_itself_is_zero_and_order_does_not_matter(rank1, rank2):
    mean = torch.linspace(-5, 5, 40).double()
    cov1, cov2 = 50 * _spd(1, 40, rank1), 50 * _spd(2, 40, rank2)
    assert frechet_distance(mean, cov1, mean, cov1) < 1e-6
    there, back = frechet_distance(mean, cov1, -mean, cov2), frechet_distance(-mean, cov2, mean, cov1)
    assert there == pytest.approx(back, rel=1e-9)
    assert there > 100


def test_agrees_with_scipy_sqrtm_on_random_covariances():
    for seed in range(5):
        cov1, cov2 = _spd(10 + seed, 48), _spd(20 + seed, 48)
        root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
        expected = 0.25 * 48 + float(cov1.trace() + cov2.trace()) - 2 * np.trace(root)
        value = frechet_distance(torch.zeros(48), cov1, torch.full((48,), 0.5), cov2)
        assert value == pytest.approx(expected, rel=1e-8)


def test_rotating_both_sets_changes_nothing():
    cov1, cov2, basis = _spd(5, 20), _spd(6, 20), _rotation(7, 20)
    mean1, mean2 = torch.linspace(0, 1, 20).double(), torch.linspace(2, -1, 20).double()
    plain = frechet_distance(mean1, cov1, mean2, cov2)
    turned = frechet_distance(basis @ mean1, basis @ cov1 @ basis.T, basis @ mean2, basis @ cov2 @ basis.T)
    assert turned == pytest.approx(plain, rel=1e-12)


def test_zero_covariance_leaves_the_trace_of_the_other():
    covariance = _spd(8, 16)
    value = frechet_distance(torch.zeros(16), torch.zeros(16, 16), torch.ones(16), covariance)
    assert value == pytest.approx(16 + float(covariance.trace()), rel=1e-12)


def test_moments_are_the_unbiased_ones_of_numpy():
    features = _features(1, 37, 6)
    moments = FrechetMoments(6)
    for part in features.split(10):
        moments.update(part)
    gaussian = moments.compute()
    np.testing.assert_allclose(gaussian.mean, features.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(gaussian.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-11, atol=1e-12)
    assert gaussian.count == 37


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_of_unequal_size_add_up(shards):
    features = _features(2, 101, 8)
    whole = FrechetMoments(8)
    whole.update(features)
    parts = [FrechetMoments(8) for _ in range(shards)]
    for index, part in enumerate(parts):
        part.update(features[index::shards])
    merged = parts[0]
    for name, reduce in merged._reductions.items():  # what torchmetrics does with gathered states
        setattr(merged, name, reduce(torch.stack([getattr(part, name) for part in parts])))
    expected, gaussian = whole.compute(), merged.compute()
    assert gaussian.count == 101
    torch.testing.assert_close(gaussian.mean, expected.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(gaussian.covariance, expected.covariance, rtol=1e-11, atol=1e-12)


def test_shift_keeps_the_digits_of_a_small_covariance_on_a_large_mean():
    small = torch.from_numpy(np.random.default_rng(3).standard_normal((500, 4))) * 1e-4
    features = small + 1e6
    moments = FrechetMoments(4, shift=torch.full((4,), 1e6))
    moments.update(features)
    expected = np.cov((features - 1e6).numpy(), rowvar=False)
    np.testing.assert_allclose(moments.compute().covariance, expected, rtol=1e-9, atol=1e-18)
    unshifted = FrechetMoments(4)
    unshifted.update(features)
    assert not np.allclose(unshifted.compute().covariance, expected, rtol=0.1, atol=0), "the shift would be needless"


def test_batches_are_float64_sums_whatever_the_features():
    features = _features(4, 64, 5).float()
    moments = FrechetMoments(5)
    moments.update(features)
    expected = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(moments.compute().covariance, expected, rtol=1e-11, atol=1e-12)


def test_too_few_and_non_finite_features_are_refused():
    moments = FrechetMoments(3)
    moments.update(torch.ones(1, 3))
    with pytest.raises(DiffexpError, match="at least 2 images, got 1"):
        moments.compute()
    moments.update(torch.tensor([[1.0, math.nan, 0.0]]))
    with pytest.raises(DiffexpError, match="not finite"):
        moments.compute()
