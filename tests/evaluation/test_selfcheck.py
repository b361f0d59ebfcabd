"""diffexp and torch-fidelity on the same pictures, each its own way; and a difference that is noticed."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from diffexp.core.errors import DataError
from diffexp.evaluation.features import DigitsFeatures
from diffexp.evaluation.fidelity import FidelityDraws
from diffexp.evaluation.inception_score import ScoreSums
from diffexp.evaluation.selfcheck import Line, compare, noised, read_pictures, write_pngs
from tests.evaluation.test_inception import needs_fidelity


def _patches(count, side):
    """Patches of two photographs: uint8 (count, 3, side, side)."""
    photos = [np.array(image) for image in load_sample_images().images]
    places = np.random.default_rng(0).integers(0, 380, (count, 2))
    cut = [photos[i % 2][y : y + side, x : x + side] for i, (y, x) in enumerate(places)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()


def _halves():
    """Grey patches with noise, and other ones: 80 and 70."""
    images = _patches(150, 8)[:, 1:2].contiguous()
    return noised(images[:80]), images[80:]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    return compare(*_halves(), DigitsFeatures().prepare(), tmp_path_factory.mktemp("work"), 32)


@needs_fidelity
def test_both_have_the_same_numbers(lines):
    assert [line.metric for line in lines] == [f"{kind}_digits" for kind in ("fd", "kid", "precision", "recall", "is")]
    assert [line.good for line in lines] == [True] * 5
    value = {line.metric: line.ours for line in lines}
    assert value["fd_digits"] > 0.1, "there is something to measure"
    assert abs(value["kid_digits"]) > 1e-3
    assert 0.05 < value["precision_digits"] < 1
    assert value["is_digits"] > 1.2
    assert max(line.difference for line in lines if line.metric[:2] in ("fd", "is")) < 1e-9


@needs_fidelity
def test_the_numbers_depend_on_the_draws(lines, monkeypatch, tmp_path):
    """Without torch-fidelity's own splits the scores differ: the comparison would notice."""
    monkeypatch.setattr(FidelityDraws, "splits", lambda self, n: torch.arange(n) * 10 // n)
    found = compare(*_halves(), DigitsFeatures().prepare(), tmp_path, 32)
    assert [line.metric for line in found if not line.good] == ["is_digits"]


def test_a_difference_is_relative_and_nan_is_never_good():
    assert Line("fid", 2.001, 2.0, 1e-3).good
    assert not Line("fid", 2.003, 2.0, 1e-3).good
    assert Line("recall", 0.0, 0.0, 1e-6).good
    assert not Line("recall", 0.1, 0.0, 1e-6).good
    assert not Line("kid", float("nan"), 1.0, 1e-4).good


def test_splits_of_torch_fidelity_have_its_sizes():
    splits = FidelityDraws().splits(103)
    order = np.random.RandomState(2020).permutation(103)
    assert splits[order[:10]].tolist() == [0] * 10
    first, second = FidelityDraws().subsets(40, 30)
    assert (first.shape, second.shape) == ((100, 30), (100, 30))
    assert int(first.max()) > 29 >= int(second.max())
    ScoreSums(3, splits)


def test_noise_is_seeded_and_clipped():
    images = _patches(24, 8)
    copies = noised(images)
    assert torch.equal(copies, noised(images))
    inner = (images > 60) & (images < 195)
    difference = (copies.double() - images.double())[inner]
    assert float(difference.std()) == pytest.approx(0.12 * 127.5, rel=0.05)


def test_pictures_that_cannot_be_compared_are_refused(tmp_path):
    write_pngs(_patches(24, 8), tmp_path / "a")
    files = sorted(str(path) for path in (tmp_path / "a").iterdir())
    assert torch.equal(read_pictures(files, 3), _patches(24, 8))
    with pytest.raises(DataError, match="3 pictures are too few to compare metrics on, 20 are the least"):
        read_pictures(files[:3], 3)
    write_pngs(_patches(24, 6), tmp_path / "b")
    others = sorted(str(path) for path in (tmp_path / "b").iterdir())
    with pytest.raises(DataError, match=r"images: .*b/000000.png: .*24 such; all need one size"):
        read_pictures(files + others, 3)
