"""Pairs from two folders, from halves of one file, and from degradations: exact pixels, joint flips, refusals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.core import random
from diffexp.core.errors import ConfigError, DataError
from diffexp.core.image import to_float
from diffexp.dataset.degradation import CentreMask, Downscale, Outline
from diffexp.dataset.digits import Digits
from diffexp.dataset.image_folder import ImageFolder
from diffexp.dataset.loader import DataOrder, TrainingBatches, make_loader
from diffexp.dataset.paired import Degraded, PairedFolders, SideBySide
from diffexp.dataset.split import Dataset, PairedSplit, conditions_of


def _pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five training pairs and two test pairs; target k is `_pixels(k)`, its source `_pixels(100 + k)`."""
    target, source = tmp_path / "rgb", tmp_path / "normal"
    for number in range(7):
        split = "train" if number < 5 else "test"
        _write(target / split / f"room/{number}.png", _pixels(number))
        _write(source / split / f"room/{number}.bmp", _pixels(100 + number))
    return target, source


@pytest.mark.parametrize("in_memory", [True, False])
def test_two_folders_are_matched_by_name(folders: tuple[Path, Path], in_memory: bool) -> None:
    data = PairedFolders(str(folders[0]), str(folders[1]), 8, name="rooms", in_memory=in_memory, flip=True)
    assert (data.name, data.shape, data.num_classes) == ("rooms", (3, 8, 8), 0)
    assert isinstance(data, Dataset)
    assert conditions_of(data) == {"endpoint"}
    train, test = data.split("train"), data.split("test")
    assert isinstance(train, PairedSplit)
    assert (len(train), len(test), train.flip, test.flip) == (5, 2, True, False)
    image, endpoint, mask = train.pairs([3, 0])
    assert torch.equal(image, torch.stack([_chw(_pixels(3)), _chw(_pixels(0))]))
    assert torch.equal(endpoint, to_float(torch.stack([_chw(_pixels(103)), _chw(_pixels(100))])))
    assert mask is None
    assert torch.equal(test.images([1]), _chw(_pixels(6))[None])


def test_the_fingerprint_covers_both_images(folders: tuple[Path, Path]) -> None:
    def prints(*options: bool) -> list[str]:
        data = PairedFolders(str(folders[0]), str(folders[1]), 8, in_memory=options[0])
        return [data.split(name).fingerprint for name in ("train", "test")]

    before = prints(True)
    assert prints(False) == before
    _write(folders[1] / "train/room/4.bmp", _pixels(999))
    assert prints(True)[0] != before[0]
    assert prints(True)[1] == before[1]


def test_a_share_of_the_pairs_is_held_out_together(tmp_path: Path) -> None:
    for number in range(40):
        _write(tmp_path / f"a/{number}.png", _pixels(number, 2, 2))
        _write(tmp_path / f"b/{number}.jpeg", np.full((2, 2, 3), number, np.uint8))
    data = PairedFolders(str(tmp_path / "a"), str(tmp_path / "b"), 2, held_out=0.3)
    train, test = data.split("train"), data.split("test")
    assert (len(train) + len(test), 5 <= len(test) <= 19) == (40, True)
    numbers = []
    for split in (train, test):
        image, endpoint, _ = split.pairs(range(len(split)))
        shown = ((endpoint.mean((1, 2, 3)) + 1) * 127.5).round().int().tolist()
        assert torch.equal(image, torch.stack([_chw(_pixels(number, 2, 2)) for number in shown]))
        numbers += shown
    assert sorted(numbers) == list(range(40))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, s: (s / "train/room/2.bmp").unlink(), r"1 of the images in '.*rgb/train' .* '.*2.png'$"),
        (lambda t, s: [(t / f"train/room/{n}.png").unlink() for n in range(4)],
         r"4 of the images in '.*normal/train' have no .* '.*rgb/train': '.*0.bmp', '.*1.bmp', '.*2.bmp', \.\.\."),
        (lambda t, s: _write(s / "test/room/5.png", _pixels(1)), r"5.bmp' and '.*5.png' would be one image"),
        (lambda t, s: (s / "test").rename(s / "tset"), r"normal' is not$|has 'train' but no 'test'"),
    ],
)  # fmt: skip
def test_unpaired_files_are_named(
    folders: tuple[Path, Path], spoil: Callable[[Path, Path], object], message: str
) -> None:
    spoil(*folders)
    with pytest.raises(DataError, match=message) as caught:
        PairedFolders(str(folders[0]), str(folders[1]), 8).prepare()
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named_by_its_key(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match=r"dataset\.source: '.*nothing' does not exist"):
        PairedFolders(str(folders[0]), str(tmp_path / "nothing"), 8).prepare()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three training files and one of `val/`, 16x8: number k is `_pixels(k, 8, 16)`."""
    for number in range(4):
        _write(tmp_path / "bags" / ("train" if number < 3 else "val") / f"{number}_AB.png", _pixels(number, 8, 16))
    return tmp_path / "bags"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("source", ["left", "right"])
def test_halves(archive: Path, source: str, in_memory: bool) -> None:
    data = SideBySide(str(archive), 8, name="bags", source=source, in_memory=in_memory)
    assert (len(data.split("train")), len(data.split("test"))) == (3, 1)
    image, endpoint, mask = data.split("train").pairs([1])
    left, right = _chw(_pixels(1, 8, 16)[:, :8]), _chw(_pixels(1, 8, 16)[:, 8:])
    wanted = (right, left) if source == "left" else (left, right)
    assert torch.equal(image[0], wanted[0])
    assert torch.equal(endpoint[0], to_float(wanted[1]))
    assert mask is None
    assert data.split("train").fingerprint != data.split("test").fingerprint


def test_the_half_that_is_the_source_enters_the_fingerprint(archive: Path) -> None:
    prints = {SideBySide(str(archive), 8, source=source).split("train").fingerprint for source in ("left", "right")}
    assert len(prints) == 2


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_halves_are_cut_before_they_are_resized(archive: Path, method: str) -> None:
    """Resizing first would mix the columns at the middle."""
    image, endpoint, _ = SideBySide(str(archive), 4, resize=method).split("train").pairs([2])
    whole, filter_ = Image.fromarray(_pixels(2, 8, 16)), Image.Resampling[method.upper()]
    left, right = (whole.crop(box).resize((4, 4), filter_) for box in ((0, 0, 8, 8), (8, 0, 16, 8)))
    assert torch.equal(image[0], _chw(np.asarray(right)))
    assert torch.equal(endpoint[0], to_float(_chw(np.asarray(left))))


def test_unusable_halves_are_refused(archive: Path) -> None:
    with pytest.raises(DataError, match=r"4 of 4 .* is 16x8, not 8x4"):
        SideBySide(str(archive), 4).prepare()
    _write(archive / "train/0_AB.png", _pixels(0, 8, 15))
    for verify in ("full", "header"):
        with pytest.raises(DataError, match=r"1 of 4 .* is 15 pixels wide, which makes no two halves"):
            SideBySide(str(archive), 4, resize="bicubic", verify=verify, in_memory=False).prepare()


def test_sources_may_be_resized_otherwise_than_targets(tmp_path: Path) -> None:
    """Nearest keeps the values of a map of normals; a straight stretch, as the shape says."""
    for number in range(3):
        _write(tmp_path / f"rgb/{number}.png", _pixels(number, 12, 16))
        _write(tmp_path / f"normal/{number}.png", _pixels(50 + number, 12, 16) // 64 * 64)
    names = str(tmp_path / "rgb"), str(tmp_path / "normal")
    data = PairedFolders(*names, 4, resize="bicubic", resize_source="nearest", held_out=0.4)
    image, endpoint, _ = data.split("train").pairs([0])
    number = next(n for n in range(3) if torch.equal(image[0], _resized(_pixels(n, 12, 16), "BICUBIC")))
    assert torch.equal(endpoint[0], to_float(_resized(_pixels(50 + number, 12, 16) // 64 * 64, "NEAREST")))
    levels = set(((endpoint + 1) * 127.5).round().int().flatten().tolist())
    assert levels <= {0, 64, 128, 192}


def _resized(pixels: np.ndarray, method: str) -> torch.Tensor:
    return _chw(np.asarray(Image.fromarray(pixels).resize((4, 4), Image.Resampling[method])))


def test_the_centre_of_an_image_is_that_of_torchvision(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    reference = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32)])
    for number, (height, width) in enumerate([(40, 61), (57, 33), (32, 32), (20, 31), (65, 32)]):
        _write(tmp_path / f"{number}.png", _pixels(number, height, width))
    data = ImageFolder(str(tmp_path), 32, resize="bilinear", held_out=1e-9)
    images = torch.cat([data.split(name).images(range(len(data.split(name)))) for name in ("train", "test")])
    for number in range(5):
        with Image.open(tmp_path / f"{number}.png") as image:
            wanted = _chw(np.asarray(reference(image)))
        assert any(torch.equal(wanted, found) for found in images)


def test_outlines_are_the_steep_places_of_a_step() -> None:
    """A step of height h has Sobel gradient h / 2 on both of its sides."""
    step = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    step[..., 3:] = 255
    source, mask = Outline(0.3)(step)
    assert mask is None
    assert source.dtype == torch.float32
    wanted = torch.ones(1, 3, 6, 6)
    wanted[..., 2:4] = -1.0
    assert torch.equal(source, wanted)
    weak = step // 2  # a gradient of 0.249
    assert torch.equal(Outline(0.3)(weak)[0], torch.ones(1, 3, 6, 6))
    assert torch.equal(Outline(0.24)(weak)[0], wanted)


def test_outlines_of_digits_are_thin_and_none_is_empty() -> None:
    _, endpoint, _ = Degraded(Digits(), Outline()).split("train").pairs(range(901))
    ink = (endpoint < 0).float().mean((1, 2, 3))
    assert set(endpoint.unique().tolist()) == {-1.0, 1.0}
    assert 0.2 < float(ink.mean()) < 0.4
    assert float(ink.min()) > 0.0


def test_the_hole_holds_grey_and_the_mask_one() -> None:
    data = Degraded(Digits(labels=True), CentreMask(4), "holes")
    assert (data.name, data.shape, data.num_classes) == ("holes", (1, 8, 8), 10)
    assert conditions_of(data) == {"endpoint", "mask"}
    assert conditions_of(Degraded(Digits(), Outline())) == {"endpoint"}
    assert conditions_of(Digits()) == set()
    image, endpoint, mask = data.split("test").pairs([0, 5])
    assert mask.shape == (2, 1, 8, 8)
    assert mask.sum((1, 2, 3)).tolist() == [16.0, 16.0]
    assert torch.equal(mask[:, :, 2:6, 2:6], torch.ones(2, 1, 4, 4))
    assert torch.equal(endpoint[:, :, 2:6, 2:6], torch.zeros(2, 1, 4, 4))  # 0 and not white: between two grey levels
    known = mask.expand(2, 1, 8, 8) == 0
    assert torch.equal(endpoint[known], to_float(image)[known])
    assert data.split("test").labels([0, 5]).tolist() == Digits(labels=True).split("test").labels([0, 5]).tolist()


def test_downscaled_images_are_means_of_squares() -> None:
    images = torch.arange(2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    source, _ = Downscale(2)(images)
    means = to_float(images).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(source, means.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert Downscale(2, "bicubic")(images)[0].shape == images.shape


def test_the_fingerprint_names_the_degradation() -> None:
    prints = [Degraded(Digits(), kind).split("train").fingerprint for kind in (Outline(), Outline(0.2), CentreMask(4))]
    assert len(set(prints)) == 3
    assert Degraded(Digits(), Outline(0.3)).split("train").fingerprint == prints[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_mirror_target_source_and_mask_together(workers: int) -> None:
    data = Degraded(Digits(labels=True), CentreMask(4))
    split = data.split("train")
    split.flip = True
    batch = next(islice(make_loader(split, batch_size=64, seed=3, start_step=40, workers=workers), 1))
    assert batch.keys() == {"image", "endpoint", "mask", "label", "position"}
    positions = range(40 * 64, 41 * 64)
    image, endpoint, mask = split.pairs(DataOrder(901, 3).indices(positions))
    mirrored = random.uniform(3, "flip", positions) < 0.5
    assert 20 < int(mirrored.sum()) < 44
    for key, plain in (("image", to_float(image)), ("endpoint", endpoint), ("mask", mask)):
        assert batch[key].dtype == torch.float32
        assert torch.equal(batch[key][~mirrored], plain[~mirrored])
        assert torch.equal(batch[key][mirrored], plain[mirrored].flip(-1))
    assert not torch.equal(to_float(image)[mirrored], batch["image"][mirrored])


def test_a_batch_does_not_write_into_the_data(archive: Path) -> None:
    split = SideBySide(str(archive), 8, flip=True).split("train")
    before = split.pairs([0, 1, 2])
    batches = TrainingBatches(split, 0)
    for start in range(0, 60, 3):
        batches.__getitems__(range(start, start + 3))
    for kept, now in zip(before[:2], split.pairs([0, 1, 2])[:2], strict=True):
        assert torch.equal(kept, now)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outline(0.5), "threshold=0.5"),
        (lambda: Degraded(Digits(), CentreMask(3)), r"size=3 leaves no even frame in 8x8 pixels: did you mean 4"),
        (lambda: Degraded(Digits(), CentreMask(8)), r"size=8 .* did you mean 4"),
        (lambda: Degraded(Digits(), Downscale(3)), "factor=3: must be at least 2 and divide 8 and 8"),
        (lambda: Downscale(2, "cubic"), "back=cubic"),
        (lambda: SideBySide("x", 8, source="top"), "source=top"),
        (lambda: SideBySide("x", 8, resize="bicubc"), "resize=bicubc .* did you mean 'bicubic'"),
        (lambda: PairedFolders("x", "y", 8, fit="fill"), "dataset.fit=fill"),
        (lambda: PairedFolders("x", "y", 8, held_out=0.0), "dataset.held_out=0.0"),
    ],
)
def test_arguments_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
