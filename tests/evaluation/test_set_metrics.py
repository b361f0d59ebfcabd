"""Metrics of sets against torch-fidelity's functions on the same features and subsets, and against closed forms."""

import math

import numpy as np
import pytest
import torch

from diffexp.core import random
from diffexp.core.errors import DiffexpError
from diffexp.evaluation.bank import FeatureBank
from diffexp.evaluation.inception_score import ScoreSums, assign_splits, published_splits
from diffexp.evaluation.kernel_distance import KernelDistance, draw_subsets, subset_plan
from diffexp.evaluation.manifold import Manifold
from diffexp.evaluation.metric import SET_METRICS, meaning, name_in


def _features(seed, count, dim=12, shift=0.0, scale=1.0):
    mixed = random.normal(seed, "features", range(count), (dim,)).double()
    return mixed @ random.normal(0, "mixing", range(dim), (dim,)).double() * scale + shift


def _draws(rng, n, size, count):
    return torch.from_numpy(np.stack([rng.choice(n, size, replace=False) for _ in range(count)]))


def test_kernel_distance_is_that_of_torch_fidelity_on_the_same_subsets():
    oracle = pytest.importorskip("torch_fidelity.metric_kid")
    ours, theirs = _features(1, 150, shift=0.3), _features(2, 130)
    found = oracle.kid_features_to_metric(ours, theirs, kid_subsets=7, kid_subset_size=50, rng_seed=3, verbose=False)
    rng = np.random.RandomState(3)
    pairs = [(rng.choice(150, 50, replace=False), rng.choice(130, 50, replace=False)) for _ in range(7)]
    first, second = (torch.from_numpy(np.stack(column)) for column in zip(*pairs, strict=True))
    distance = KernelDistance(theirs, second)
    assert distance(ours, first) == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-12)
    assert distance(theirs, second) == pytest.approx(distance(theirs, second), rel=0), "what it keeps does not change"


def test_kernel_distance_of_three_points_by_hand():
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [-1.0]])
    within_x = (1 + 1 + 27) / 3  # k(0, 1), k(0, 2), k(1, 2)
    within_y = 1.0  # k(0, -1)
    between = (1 + 1 + 1 + 0 + 1 - 1) / 6
    value = KernelDistance(y, torch.tensor([[0, 1]]))(x, torch.tensor([[0, 1, 2]]))
    assert value == pytest.approx(within_x + within_y - 2 * between, rel=1e-14)


def test_kernel_distance_is_unbiased():
    """Sets of one law: the mean over 60 pairs of sets is 0 within its error; a biased estimate is far outside."""
    sets = [_features(seed, 25, dim=3) for seed in range(120)]
    everything = torch.arange(25)[None]
    values = [KernelDistance(a, everything)(b, everything) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    bias = np.mean([2 * float((((x @ x.T / 3 + 1) ** 3).diagonal()).mean()) / 25 for x in sets])
    assert abs(np.mean(values)) < 3 * error
    assert bias > 6 * error


def test_subsets_are_the_published_ones_and_smaller_where_images_are_few():
    assert subset_plan(50_000, 10_000) == (100, 1000)
    assert subset_plan(768, 901) == (100, 768)
    assert subset_plan(300, 300) == (1, 300)
    first = draw_subsets("images", 40, 3, 30)
    assert all(len(set(rows.tolist())) == 30 for rows in first)
    assert torch.equal(first, draw_subsets("images", 40, 3, 30))
    assert not torch.equal(first, draw_subsets("reference", 40, 3, 30))
    assert not torch.equal(first[0], first[1])


def test_precision_and_recall_are_those_of_torch_fidelity():
    oracle = pytest.importorskip("torch_fidelity.metric_prc")
    made, real = _features(3, 170, scale=1.4, shift=0.5), _features(4, 140)
    precision, recall = oracle.calculate_precision_recall_full(made, real, 3, 50)
    found = Manifold(real)(made)
    assert (found["precision"], found["recall"]) == pytest.approx((precision, recall), rel=1e-6)  # float32 means
    assert 0.2 < precision < 0.9
    assert 0.2 < recall < 0.98


def test_density_and_coverage_are_their_definitions(monkeypatch):
    made, real = _features(3, 170, scale=1.4, shift=0.5), _features(4, 140)
    own = np.sort(np.linalg.norm(real[:, None] - real[None], axis=-1), axis=1)[:, 5]
    across = np.linalg.norm(real[:, None] - made[None], axis=-1)
    found = Manifold(real)(made)
    assert found["density"] == pytest.approx((across < own[:, None]).sum() / (5 * 170), rel=1e-12)
    assert found["coverage"] == pytest.approx((across.min(axis=1) < own).mean(), rel=1e-12)
    monkeypatch.setattr("diffexp.evaluation.manifold._CELLS", 1000)  # blocks of 7 rows
    assert Manifold(real)(made) == found


def test_balls_on_a_line_by_hand():
    """Reference 0, 1, ..., 9: the third neighbours of 0 and 9 are 3 away, of 1 and 8 two, of all others two."""
    real = torch.arange(10.0)[:, None]
    made = torch.tensor([[-3.0], [-3.5], [4.2], [4.3], [4.4], [11.9]])
    found = Manifold(real)(made)
    assert found["precision"] == 5 / 6  # -3 lies on the surface of the ball of 0, -3.5 outside of all
    # Fifth neighbours: 5 from 0 and 9, 4 from 1 and 8, 3 from the others. The ball of 0 holds -3, -3.5, 4.2, 4.3, 4.4,
    # that of 1 the last three and of -3 the surface only; 2 .. 7 hold the three; 8 holds the three and 11.9, 9 too.
    assert found["density"] == pytest.approx((5 + 3 + 6 * 3 + 4 + 4) / (5 * 6))
    assert found["coverage"] == 1.0
    # Third neighbours of the made ones: -3 -> 7.3, -3.5 -> 7.8, 4.2 -> 7.2, 4.3 -> 7.3, 4.4 -> 7.4, 11.9 -> 7.6.
    assert found["recall"] == 1.0
    far = Manifold(real)(made + 100)
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_equal_images_are_at_distance_zero_whatever_rounding_does():
    real = _features(5, 60, dim=40, shift=1e3)
    same = real[:1].expand(50, -1)
    found = Manifold(same)(same)
    assert (found["precision"], found["recall"]) == (1.0, 1.0), "balls of radius 0 hold their centre"
    assert (found["density"], found["coverage"]) == (0.0, 0.0), "open balls of radius 0 hold nothing"
    own = Manifold(real)(real)
    assert (own["precision"], own["recall"], own["coverage"]) == (1.0, 1.0, 1.0)


def test_score_of_classes_is_that_of_torch_fidelity_on_the_same_splits():
    oracle = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * _features(6, 203, dim=7, scale=0.5)
    found = oracle.isc_features_to_metric(logits, 10, True, 2020)
    order = torch.from_numpy(np.random.RandomState(2020).permutation(203))
    sums = ScoreSums(7, assign_splits(order))
    for rows in torch.arange(203).split(40):
        sums.update(logits[rows], rows.tolist())
    scores = sums.compute()
    assert float(scores.mean()) == pytest.approx(found["inception_score_mean"], rel=1e-12)
    assert float(scores.std(correction=0)) == pytest.approx(found["inception_score_std"], rel=1e-9)
    assert 1.5 < float(scores.mean()) < 7


def test_score_of_certain_even_classes_is_their_number_and_of_equal_ones_is_one():
    certain = 1e4 * torch.eye(5)[torch.arange(100) % 5]
    sums = ScoreSums(5, torch.arange(100) // 50)
    sums.update(certain, range(100))
    assert sums.compute().tolist() == pytest.approx([5.0, 5.0], rel=1e-12)
    alike = ScoreSums(5, torch.arange(100) % 10)
    alike.update(torch.linspace(0, 3, 5).expand(100, 5), range(100))
    assert alike.compute().tolist() == pytest.approx([1.0] * 10, rel=1e-12)


def test_splits_are_even_and_shuffled():
    splits = published_splits(103)
    assert sorted(splits.bincount().tolist()) == [10] * 7 + [11] * 3
    assert len(splits[:10].unique()) > 3
    sums = ScoreSums(3, published_splits(20))
    sums.update(torch.zeros(4, 3), range(4))
    with pytest.raises(DiffexpError, match="no images"):
        sums.compute()


@pytest.mark.parametrize("shards", [2, 3])
def test_states_of_processes_reduce_to_those_of_one(shards):
    """What torchmetrics does with states that were gathered: sums are added, lists concatenated."""
    logits, indices = _features(7, 101, dim=6), list(range(101))

    def merged(make):
        whole, parts = make(), [make() for _ in range(shards)]
        whole.update(logits, indices)
        for rank, part in enumerate(parts):
            part.update(logits[rank::shards], indices[rank::shards])
        for name, reduce in parts[0]._reductions.items():
            states = [getattr(part, name) for part in parts]
            gathered = torch.stack(states) if torch.is_tensor(states[0]) else [x for state in states for x in state]
            setattr(parts[0], name, reduce(gathered))
        return whole.compute(), parts[0].compute()

    scores = merged(lambda: ScoreSums(6, published_splits(101)))
    torch.testing.assert_close(*scores, rtol=1e-12, atol=0)
    assert torch.equal(*merged(FeatureBank))


def test_the_bank_sorts_by_index_and_refuses_repeats_and_nan():
    bank = FeatureBank()
    bank.update(torch.tensor([[3.0], [1.0]]), [3, 1])
    bank.update(torch.tensor([[0.0], [2.0]]), range(0, 4, 2))
    assert bank.compute().flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    bank.update(torch.tensor([[5.0]]), [2])
    with pytest.raises(DiffexpError, match="more than once"):
        bank.compute()
    broken = FeatureBank()
    broken.update(torch.tensor([[math.nan]]), [0])
    with pytest.raises(DiffexpError, match="not finite"):
        broken.compute()


def test_only_the_published_weights_give_plain_names():
    assert [name_in(kind, "fid") for kind in ("fd", *SET_METRICS)] == ["fid", *SET_METRICS]
    assert name_in("kid", "fd_digits") == "kid_digits"
    assert name_in("fd", "fd_inception_0abc") == "fd_inception_0abc"
    assert meaning("is").title == "Inception Score"
    assert "Inception" not in meaning("is_digits").title + meaning("kid_inception_0abc").title
    assert (meaning("kid_digits").higher, meaning("recall_digits").higher) == (False, True)
    assert meaning("fd_digits").distance
    assert not meaning("kid_digits").distance
