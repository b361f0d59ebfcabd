"""The bundled digits: values, a stratified split that no seed moves, labels on request."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.digits import Digits

GOLDEN = "pixels-sha256:04aec3ef3f5914cd2db1f2f69e620eda"


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(labels=True)


def test_known_without_reading() -> None:
    assert (Digits().name, Digits().shape, Digits().num_classes) == ("digits", (1, 8, 8), 0)
    assert Digits(labels=True).num_classes == 10


def test_the_two_splits_are_a_partition_of_the_original(digits: Digits) -> None:
    train, test = digits.split("train"), digits.split("test")
    assert (len(train), len(test)) == (901, 896)
    images = torch.cat([train.images(range(901)), test.images(range(896))]).flatten(1).numpy()
    labels = torch.cat([train.labels(range(901)), test.labels(range(896))]).numpy()
    bunch = load_digits()
    # 16 levels are stored, 0 and 16 become black and white; the nearest level is at most half a grey level away.
    assert (images.min(), images.max()) == (0, 255)
    ours = np.column_stack([np.rint(images * (16 / 255)), labels])
    theirs = np.column_stack([bunch.data, bunch.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert np.abs(images - np.rint(images * (16 / 255)) * (255 / 16)).max() <= 0.5


def test_classes_are_held_out_in_proportion(digits: Digits) -> None:
    total = np.bincount(load_digits().target)
    held_out = torch.bincount(digits.split("test").labels(range(896))).numpy()
    assert np.abs(held_out - total * 896 / 1797).max() < 1


def test_the_split_is_fixed(digits: Digits) -> None:
    """Published numbers depend on it: this hash may only change together with the protocol."""
    again = Digits()
    for name in ("train", "test"):
        assert again.split(name).fingerprint == digits.split(name).fingerprint
        assert again.split(name).labels([0, 1]) is None
    assert digits.split("test").fingerprint == GOLDEN
    assert digits.split("train").fingerprint != GOLDEN
    assert Digits(held_out=500).split("test").fingerprint != GOLDEN


@pytest.mark.parametrize("held_out", [10, 333, 1787])
def test_other_sizes(held_out: int) -> None:
    digits = Digits(labels=True, held_out=held_out)
    assert (len(digits.split("train")), len(digits.split("test"))) == (1797 - held_out, held_out)
    for name in ("train", "test"):
        split = digits.split(name)
        assert torch.bincount(split.labels(range(len(split))), minlength=10).min() >= 1


def test_refusals(digits: Digits) -> None:
    with pytest.raises(ConfigError, match=r"held_out=1797 .* did you mean 1787"):
        Digits(held_out=1797)
    with pytest.raises(DataError, match="no split 'tset': did you mean 'test'"):
        digits.split("tset")
