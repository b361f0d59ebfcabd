"""EDM's augmentation: the filter, maps in closed form, what the numbers say, and that all belongs to a position."""

from __future__ import annotations

import itertools
import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.image import to_float
from diffexp.dataset.augmentation import Augmentation
from diffexp.dataset.augmented import Augmented, AugmentedSplit
from diffexp.dataset.degradation import CentreMask
from diffexp.dataset.digits import Digits
from diffexp.dataset.loader import DataOrder, TrainingBatches, make_loader
from diffexp.dataset.paired import Degraded
from diffexp.dataset.split import ArraySplit, augment_dim_of
from diffexp.dataset.warp import SYM6, warp

NOTHING = dict.fromkeys(("xflip", "yflip", "scale", "rotate", "aniso", "translate"), 0.0)
MANY = range(1000, 3000)


def only(**kinds: float) -> Augmentation:
    return Augmentation(**{**NOTHING, **kinds})


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def ramps(height: int, width: int) -> Tensor:
    """x and y of every pixel, from the centre: (2, H, W)."""
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    return torch.stack([x, y]).double()


def maps(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64).reshape(1, 2, 3)


def test_the_filter_is_the_orthogonal_one_with_six_vanishing_moments():
    taps = np.array(SYM6)
    assert taps.sum() == pytest.approx(math.sqrt(2.0), abs=1e-12)
    for shift in range(6):
        product = (taps[2 * shift :] * taps[: len(taps) - 2 * shift]).sum()
        assert product == pytest.approx(float(shift == 0), abs=1e-11)
    place = np.arange(12)
    for moment in range(6):
        assert abs((taps * (-1.0) ** place * (place - 5.5) ** moment).sum()) < 1e-8


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (4, 4)])
def test_a_map_that_does_nothing_changes_nothing(height, width):
    images = noise(2, 3, height, width)
    found = warp(images, maps(1, 0, 0, 0, 1, 0).expand(2, 2, 3))
    torch.testing.assert_close(found, images, rtol=0.0, atol=1e-10)


def test_whole_shifts_are_exact_and_what_enters_is_mirrored():
    images = noise(1, 2, 7, 9)
    found = warp(images, maps(1, 0, -2, 0, 1, 1))  # two to the right, one up
    torch.testing.assert_close(found[..., :-1, 2:], images[..., 1:, :-2], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(found[..., :-1, :2], images[..., 1:, 1:3].flip(-1), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(found[..., -1, 2:], images[..., -2, :-2], rtol=0.0, atol=1e-10)


def test_a_quarter_turn_of_a_smooth_image_turns_it():
    x, y = ramps(24, 24) / 8.0
    image = torch.exp(-((x - 0.4) ** 2) - 2.0 * (y + 0.3) ** 2)[None, None]
    found = warp(image, maps(0, 1, 0, -1, 0, 0))  # the result at (x, y) is the image at (y, -x)
    assert (found - torch.rot90(image, -1, (2, 3))).abs().max() < 0.02  # the filter is not quite symmetric: 1/20 pixel
    assert (found - torch.rot90(image, 1, (2, 3))).abs().max() > 0.3


def test_a_plane_is_read_where_the_map_says():
    """Linear images are doubled, read and halved exactly, but for the filter's centre: 5.098 for 5."""
    angle, size = 0.7, 1.3
    matrix = torch.tensor([[math.cos(angle) / size, -math.sin(angle), 0.8], [math.sin(angle), math.cos(angle), -1.7]])
    found = warp(ramps(32, 36)[None], matrix.double()[None])[0]
    x, y = ramps(32, 36)
    wanted = torch.einsum("ij,jhw->ihw", matrix.double(), torch.stack([x, y, torch.ones_like(x)]))
    inner = (slice(None), slice(13, 19), slice(14, 22))  # what is read there is no mirror image
    offset = (found - wanted)[inner]
    assert offset.abs().max() < 0.1
    assert offset.flatten(1).std(1).max() < 1e-9


def test_what_happened_is_what_the_numbers_say():
    """The maps rebuilt from the labels, for all kinds together."""
    law = Augmentation(p=1.0, xflip=0.5, scale_std=0.1, aniso_std=0.1, translate_std=0.02)
    planes = (ramps(40, 40) / 40.0).float().expand(8, 2, 40, 40).clone()
    images, told = law(planes, 3, range(8))
    assert told.shape == (8, 9)
    places = torch.cat([ramps(40, 40), torch.ones(1, 40, 40, dtype=torch.float64)])[:, 18:22, 18:22]
    for image, numbers in zip(images, told.double().tolist(), strict=True):
        # A stretch along a direction and a shrinking along its opposite have the same numbers, as in EDM.
        wanted = [torch.from_numpy(rebuilt(numbers, sign))[:2] for sign in (1.0, -1.0)]
        shown = [torch.einsum("ij,jhw->ihw", matrix, places) / 40.0 for matrix in wanted]
        errors = [float((image[:, 18:22, 18:22] - plane).abs().max()) for plane in shown]
        assert min(errors) < 0.15 / 40.0  # the filter's centre, as above


def rebuilt(numbers: list[float], sign: float) -> np.ndarray:
    """The map from places in the result to places in the image, 3x3."""
    xflip, yflip, scale, cosine, sine, across, along, right, down = numbers
    w, turn = sign * math.hypot(across, along), math.atan2(sign * along, sign * across)
    size, stretch, angle = 2 ** (0.1 * scale), 2 ** (0.1 * w), math.atan2(sine, cosine + 1.0)
    flipped = np.diag([1.0 - 2.0 * xflip, 1.0 - 2.0 * yflip, 1.0])
    stretched = rotation(-turn) @ np.diag([1.0 / stretch, stretch, 1.0]) @ rotation(turn)
    shifted = np.array([[1, 0, -0.02 * 40 * right], [0, 1, -0.02 * 40 * down], [0, 0, 1]])
    return flipped @ np.diag([1.0 / size, 1.0 / size, 1.0]) @ rotation(angle) @ stretched @ shifted


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def test_flips_are_exact_and_told():
    plain = noise(2000, 1, 2, 3).float()
    images, told = only(xflip=1e8, yflip=1.0)(plain, 0, MANY)
    for flipped, axis, share in ((told[:, 0], -1, 0.5), (told[:, 1], -2, 0.06)):
        assert set(flipped.tolist()) == {0.0, 1.0}
        assert flipped.mean().item() == pytest.approx(share, abs=4.0 * math.sqrt(share * (1 - share) / 2000))
        plain = torch.where(flipped[:, None, None, None] == 1.0, plain.flip(axis), plain)
    assert torch.equal(images, plain)


@pytest.mark.parametrize(
    ("kind", "column", "variance"),
    [("scale", 0, 1.0), ("rotate", 1, 0.5), ("aniso", 0, 0.75), ("aniso", 1, 0.25), ("translate", 1, 1.0)],
)
def test_each_kind_happens_with_its_probability_and_has_its_law(kind, column, variance):
    plain = torch.zeros(2000, 1, 2, 2)
    told = only(**{kind: 2.0}, p=0.2)(plain, 0, MANY)[1].double()
    happened = told.abs().sum(1) > 0.0
    # Four standard errors: of a share of 2000, and of a second moment of about 800 draws of kurtosis 3 or so.
    assert happened.double().mean().item() == pytest.approx(0.4, abs=0.044)
    assert told[happened, column].square().mean().item() == pytest.approx(variance, rel=0.3)
    every = only(**{kind: 1e8})(plain, 0, MANY)[1]
    assert bool((every.abs().sum(1) > 0.0).all())
    assert torch.equal(every[happened], told[happened].float())  # only whether it happens depends on p


def test_images_to_which_nothing_happens_are_untouched_and_kinds_are_independent():
    plain = noise(400, 1, 4, 4).float()
    images, told = only(scale=1.0, translate=1.0, p=0.3)(plain, 0, range(400))
    moved = told.abs().sum(1) > 0.0
    assert torch.equal(images[~moved], plain[~moved])
    assert bool(((images - plain).abs().amax((1, 2, 3)) > 1e-4)[moved].all())
    both = ((told[:, 0] != 0.0) & (told[:, 1] != 0.0)).double().mean().item()
    assert both == pytest.approx(0.09, abs=0.06)


def test_what_happens_belongs_to_the_position_and_the_seed():
    plain = noise(12, 3, 6, 6).float()
    law, order = Augmentation(p=0.6), [7, 2, 11, 0]
    images, told = law(plain, 5, range(12))
    some, said = law(plain[order], 5, order)
    assert torch.equal(some, images[order])
    assert torch.equal(said, told[order])
    assert not torch.equal(law(plain, 6, range(12))[1], told)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"p": 1.5}, r"dataset\.augmentation\.p=1\.5: at most 1"),
        ({"scale": -1.0}, r"dataset\.augmentation\.scale=-1\.0: a number >= 0"),
        ({"aniso_std": math.nan}, r"dataset\.augmentation\.aniso_std=nan: a number >= 0"),
        ({"p": 0.0}, "nothing happens with p=0"),
        (NOTHING, "nothing happens with p=0 or all factors 0"),
    ],
)
def test_wrong_options_are_refused(changes, fix):
    with pytest.raises(ConfigError, match=fix):
        Augmentation(**changes)


class Pictures:
    """Random colours, without a file."""

    name, shape, num_classes = "pictures", (3, 6, 6), 0

    def prepare(self) -> None: ...

    def split(self, name: str) -> ArraySplit:
        return ArraySplit(np.random.default_rng(0).integers(0, 256, (23, 3, 6, 6), np.uint8), None, flip=True)


def test_only_training_batches_are_augmented_and_the_data_set_stays_what_it_is():
    law, plain = Augmentation(p=0.5), Pictures()
    dataset = Augmented(plain, law)
    assert (dataset.name, dataset.shape, dataset.num_classes) == (plain.name, plain.shape, 0)
    assert (augment_dim_of(dataset), augment_dim_of(plain)) == (9, 0)
    train, test = dataset.split("train"), dataset.split("test")
    assert isinstance(train, AugmentedSplit)
    assert not isinstance(test, AugmentedSplit)
    assert train.fingerprint == plain.split("train").fingerprint
    assert len(train) == 23
    assert torch.equal(train.images([3, 1]), plain.split("train").images([3, 1]))
    before = TrainingBatches(plain.split("train"), 5).__getitems__(range(40))
    after = TrainingBatches(train, 5).__getitems__(range(40))
    images, told = law(before["image"], 5, range(40))  # after the split's own flips
    assert torch.equal(after["image"], images)
    assert torch.equal(after["augment"], told)
    assert after["augment"].dtype == torch.float32
    indices = DataOrder(23, 5).indices(range(40))
    assert (before["image"] - to_float(plain.split("train").images(indices))).abs().amax((1, 2, 3)).count_nonzero() > 9


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_late_starts_see_the_same_batches(workers):
    split = Augmented(Pictures(), Augmentation(p=0.5)).split("train")

    def take(count: int, **options: int) -> list[dict[str, Tensor]]:
        return list(islice(make_loader(split, 6, 5, **options), count))

    alone = take(4)
    ranks = [take(3, start_step=1, rank=rank, world_size=2, workers=workers) for rank in range(2)]
    for whole, *shares in zip(alone[1:], *ranks, strict=True):
        for key, value in whole.items():
            assert torch.equal(value, torch.cat([share[key] for share in shares])), key


def test_pairs_are_refused():
    pairs = Degraded(Digits(), CentreMask(4), "pairs")
    with pytest.raises(ConfigError, match=r"dataset\.images=pairs: pairs cannot be augmented so"):
        Augmented(pairs, Augmentation())


def test_images_smaller_than_the_filter_are_refused():
    small = Pictures()
    small.shape = (3, 3, 6)
    with pytest.raises(ConfigError, match=r"pictures: images of 3x6 pixels are too small .* 4 a side are needed"):
        Augmented(small, Augmentation())


def test_numbers_follow_the_kinds():
    sizes = {"xflip": 1, "yflip": 1, "scale": 1, "rotate": 2, "aniso": 2, "translate": 2}
    for kinds in itertools.combinations(sizes, 2):
        law = only(**dict.fromkeys(kinds, 1.0))
        assert law.kinds == kinds
        assert law.numbers == sum(sizes[kind] for kind in kinds)
        assert law(torch.zeros(2, 1, 4, 4), 0, [0, 1])[1].shape == (2, law.numbers)
