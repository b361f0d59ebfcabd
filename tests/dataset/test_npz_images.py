"""Images in npz files: exact pixels and labels, a held-out share that does not move, faulty files named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.npz_images import NpzImages
from diffexp.dataset.split import Dataset

_IMAGES = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3), dtype=np.uint8)
_LABELS = np.arange(50) % 7


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "cats.npz", _IMAGES, _LABELS)  # as ADM's sampler does: arr_0 and arr_1
    return tmp_path / "cats.npz"


def _data(path: Path, **options: object) -> NpzImages:
    return NpzImages(str(path), 6, **options)


def test_pixels_and_labels(file: Path) -> None:
    data = _data(file, labels=True, classes=7, flip=True, held_out=0.3)
    assert isinstance(data, Dataset)
    assert (data.name, data.shape, data.num_classes) == ("cats", (3, 6, 6), 7)
    train, test = data.split("train"), data.split("test")
    assert (train.flip, test.flip) == (True, False)
    images = np.concatenate([split.images(range(len(split))).numpy() for split in (train, test)])
    labels = np.concatenate([split.labels(range(len(split))).numpy() for split in (train, test)])
    seen = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    expected = {image.tobytes(): label for image, label in zip(_IMAGES.transpose(0, 3, 1, 2), _LABELS, strict=True)}
    assert seen == expected
    assert 5 <= len(test) <= 25


def test_further_images_move_none_to_the_other_side(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "fewer.npz", images=_IMAGES[:30])
    whole, fewer = _data(file).split("test"), _data(tmp_path / "fewer.npz").split("test")
    assert 0 < len(fewer) <= len(whole)
    assert np.array_equal(whole.images(range(len(fewer))).numpy(), fewer.images(range(len(fewer))).numpy())


def test_another_file_is_the_test_split(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=_IMAGES[:4], labels=_LABELS[:4])
    data = _data(file, test=str(tmp_path / "test.npz"), labels=True, classes=7)
    assert (len(data.split("train")), len(data.split("test"))) == (50, 4)
    assert data.split("test").labels([3]).tolist() == [3]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": _IMAGES[:, :5]}, "holds images of shape 3x5x6 (C, H, W), not 3x6x6: compare dataset.resolution"),
        ({"images": _IMAGES / 255}, "array 'images' is float64, not uint8"),
        ({"images": _IMAGES[0]}, "array 'images' has shape 6x6x3, not (N, H, W, C)"),
        ({"pictures": _IMAGES}, "has no array 'images' or 'arr_0' (it holds pictures)"),
        ({"images": _IMAGES}, "has no array 'labels' or 'arr_1' (it holds images)"),
        ({"images": _IMAGES, "labels": _LABELS[1:]}, "labels are int64 of shape (49,), not 50 integers"),
        ({"images": _IMAGES, "labels": _LABELS + 1}, "labels are 1 to 7, outside 0 to 6"),
        ({"images": _IMAGES, "labels": _LABELS / 2}, "labels are float64 of shape (50,), not 50 integers"),
        ({"images": np.array([{}])}, "is damaged, or not an npz file"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], told: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as refused:
        _data(path, labels=True, classes=7).prepare()
    assert told in str(refused.value)
    assert str(path) in str(refused.value)


def test_damaged_and_missing_files_are_refused_by_name(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"cats.npz' is damaged, or not an npz file: Bad CRC-32"):
        _data(file).prepare()
    np.save(tmp_path / "one.npz.npy", _IMAGES)
    (tmp_path / "one.npz.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"one.npz' is damaged, or not an npz file: a single array"):
        _data(tmp_path / "one.npz").prepare()
    with pytest.raises(DataError, match=r"none.npz' does not exist"):
        _data(tmp_path / "none.npz").prepare()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"labels": True}, "dataset.classes=None"), ({"classes": 3}, "classes=3"), ({"channels": 4}, "channels=4")],
)
def test_arguments_out_of_range_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _data(Path("x.npz"), **options)
