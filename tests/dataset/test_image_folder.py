"""Image folders: exact pixels from every format, classes, memory or disk, and unusable files named and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.decode import decode
from diffexp.dataset.files import FileSplit
from diffexp.dataset.image_folder import ImageFolder
from diffexp.dataset.split import ArraySplit, Dataset, Split

_SIZE = 8


def _pixels(seed: int, size: int = _SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _write(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in each of two classes of two splits; pixel values are `_pixels` of a running number."""
    number = 0
    for split in ("train", "test"):
        for label in ("ant", "bee"):
            for name in ("0.png", "1.bmp", "2.webp"):
                options = {"lossless": True} if name.endswith("webp") else {}
                _write(tmp_path / "insects" / split / label / name, _pixels(number), **options)
                number += 1
    return tmp_path / "insects"


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_pixels_and_labels(folder: Path, in_memory: bool | None) -> None:
    data = ImageFolder(str(folder), _SIZE, labels=True, in_memory=in_memory, flip=True)
    assert (data.name, data.shape, data.num_classes) == ("insects", (3, 8, 8), 2)
    assert isinstance(data, Dataset)
    train, test = data.split("train"), data.split("test")
    assert isinstance(train, FileSplit if in_memory is False else ArraySplit)
    assert isinstance(train, Split)
    assert (train.flip, test.flip) == (True, False)
    assert test.labels([5, 0, 3]).tolist() == [1, 0, 1]
    images = test.images([5, 0, 3])
    assert images.dtype == torch.uint8
    expected = np.stack([_pixels(number).transpose(2, 0, 1) for number in (11, 6, 9)])
    assert np.array_equal(images.numpy(), expected)


def test_fingerprint_is_that_of_the_pixels(folder: Path, tmp_path: Path) -> None:
    def prints(path: Path, **options: object) -> list[str]:
        data = ImageFolder(str(path), _SIZE, **options)
        return [data.split(name).fingerprint for name in ("train", "test")]

    memory = prints(folder, in_memory=True)
    assert memory[0] != memory[1]
    assert prints(folder, in_memory=False) == memory
    assert prints(folder, labels=True) == memory
    headers = prints(folder, in_memory=False, verify="header")
    assert headers == prints(folder, in_memory=False, verify="header")
    assert headers[0].startswith("files-sha256:")
    changed = _pixels(7)
    changed[3, 4, 1] ^= 1
    _write(folder / "test/ant/1.bmp", changed)
    assert prints(folder)[0] == memory[0]
    assert prints(folder)[1] != memory[1]
    assert prints(folder, in_memory=False, verify="header")[1] != headers[1]


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for number in range(2):
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    for channels in (1, 3):
        images = ImageFolder(str(tmp_path), 8, channels=channels, held_out=0.5).split("train").images([0])
        assert np.array_equal(images[0].numpy(), np.stack([grey] * channels))
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "1.png")
    assert decode([str(tmp_path / "1.png")], np.zeros((1, 3, 8, 8), np.uint8)) == []


def test_large_images_are_decoded_in_threads(tmp_path: Path) -> None:
    expected = np.stack([_pixels(number, 64) for number in range(70)])
    for number, pixels in enumerate(expected):
        _write(tmp_path / f"{number:02d}.png", pixels)
    out = np.zeros((70, 3, 64, 64), np.uint8)
    assert decode([str(tmp_path / f"{number:02d}.png") for number in range(70)], out) == []
    assert np.array_equal(out, expected.transpose(0, 3, 1, 2))


def _truncate(path: Path) -> None:
    Image.fromarray(_pixels(0)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-40])


def _break_png(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "is damaged: "),
        (_break_png, "is damaged: "),
        (lambda path: path.write_bytes(b""), "is empty, damaged, or not an image"),
        (lambda path: path.write_text("<html>"), "is empty, damaged, or not an image"),
        (lambda path: Image.new("RGB", (9, 8)).save(path), "is 9x8, not 8x8"),
        (lambda path: Image.new("I;16", (8, 8)).save(path), "has pixels of type I;16, not 8 bits a channel"),
    ],
)
def test_unusable_files_are_named_and_counted(
    folder: Path, spoil: Callable[[Path], object], reason: str, in_memory: bool
) -> None:
    spoil(folder / "train/bee/0.png")
    spoil(folder / "test/ant/0.png")
    with pytest.raises(DataError) as caught:
        ImageFolder(str(folder), _SIZE, in_memory=in_memory).prepare()
    message = str(caught.value)
    assert message.startswith(
        f"2 of 12 images in '{folder}' cannot be used; the first: '{folder}/train/bee/0.png' {reason}"
    )
    assert "\n" not in message


def test_headers_alone_show_wrong_sizes_and_reading_shows_the_rest(folder: Path) -> None:
    data = ImageFolder(str(folder), 16, in_memory=False, verify="header")
    with pytest.raises(DataError, match=r"12 of 12 .* is 8x8, not 16x16"):
        data.prepare()
    data = ImageFolder(str(folder), _SIZE, in_memory=False, verify="header")
    _truncate(folder / "train/ant/1.bmp")
    data.prepare()
    with pytest.raises(DataError, match=r"train/ant/1.bmp' is damaged"):
        data.split("train").images([0, 1])
    (folder / "train/ant/0.png").unlink()
    with pytest.raises(DataError, match=r"train/ant/0.png' no such file"):
        data.split("train").images([0])


def test_nothing_is_read_before_prepare(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    assert ImageFolder(absent, 32).num_classes == 0
    with pytest.raises(DataError, match="does not exist"):
        ImageFolder(absent, 32).prepare()
    with pytest.raises(DataError, match="does not exist"):
        _ = ImageFolder(absent, 32, labels=True).num_classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "dataset.resolution=0"),
        ({"resolution": 8, "channels": 2}, "dataset.channels=2"),
        ({"resolution": 8, "held_out": 1.0}, "dataset.held_out=1.0"),
        ({"resolution": 8, "verify": "none"}, "dataset.verify=none .* choose from full, header"),
    ],
)
def test_arguments_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageFolder("anywhere", **options)
