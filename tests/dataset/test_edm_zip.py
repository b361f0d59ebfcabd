"""EDM's zip archives: exact pixels and labels without unpacking, in memory or not; faulty archives are named."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffexp.core.errors import ConfigError, DataError
from diffexp.dataset.edm_zip import EdmZip
from diffexp.dataset.loader import make_loader
from diffexp.dataset.split import Dataset

_SIZE, _COUNT = 8, 40


def _pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8)


def _name(number: int) -> str:
    return f"{number // 30:05d}/img{number:08d}.png"


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _labels() -> list[list[object]]:
    return [[_name(number), number % 4] for number in range(_COUNT)]


def _write(path: Path, labels: object = "all", start: int = 0, count: int = _COUNT, **changed: bytes) -> Path:
    """An archive as dataset_tool writes it: stored, images in order, then dataset.json."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(start, start + count):
            archive.writestr(_name(number), changed.get(str(number), _png(_pixels(number))))
        told = json.dumps({"labels": _labels() if labels == "all" else labels})
        archive.writestr("dataset.json", changed.get("json", told.encode()))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return _write(tmp_path / "cifar10-8x8.zip")


def _data(path: Path, **options: object) -> EdmZip:
    return EdmZip(str(path), _SIZE, **options)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("verify", ["full", "header"])
def test_pixels_and_labels(archive: Path, in_memory: bool, verify: str) -> None:
    data = _data(archive, labels=True, in_memory=in_memory, verify=verify, flip=True, held_out=0.25)
    assert isinstance(data, Dataset)
    assert (data.name, data.shape, data.num_classes) == ("cifar10-8x8", (3, 8, 8), 4)
    train, test = data.split("train"), data.split("test")
    assert (train.flip, test.flip) == (True, False)
    assert len(train) + len(test) == _COUNT
    assert 3 <= len(test) <= 18
    images = [split.images(range(len(split))).numpy() for split in (train, test)]
    seen = {image.tobytes(): int(label) for split, found in zip((train, test), images, strict=True)
            for image, label in zip(found, split.labels(range(len(split))), strict=True)}  # fmt: skip
    assert seen == {_pixels(number).transpose(2, 0, 1).tobytes(): number % 4 for number in range(_COUNT)}
    assert np.array_equal(train.images([2, 0]).numpy(), images[0][[2, 0]])


def test_fingerprint_is_that_of_the_pixels_or_of_the_directory(archive: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path, **options: object) -> str:
        return _data(path, **options).split("train").fingerprint

    whole = fingerprint(archive)
    assert whole.startswith("pixels-sha256:")
    assert fingerprint(archive, in_memory=False) == whole
    header = fingerprint(archive, in_memory=False, verify="header")
    assert header.startswith("files-sha256:")
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / archive.name
    copy.write_bytes(archive.read_bytes())
    assert fingerprint(copy, in_memory=False, verify="header") == header, "names, sizes and checksums, not times"
    assert fingerprint(_write(copy, **{"0": _png(_pixels(77))}), in_memory=False, verify="header") != header


def test_another_archive_is_the_test_split(archive: Path, tmp_path: Path) -> None:
    other = _write(tmp_path / "test.zip", start=40, count=7, labels=[[_name(40 + n), n % 3] for n in range(7)])
    data = _data(archive, labels=True, test=str(other))
    assert (len(data.split("train")), len(data.split("test"))) == (40, 7)
    assert np.array_equal(data.split("test").images([3]).numpy()[0], _pixels(43).transpose(2, 0, 1))
    assert data.split("test").labels([3, 5]).tolist() == [0, 2]


def test_loader_processes_read_for_themselves(archive: Path) -> None:
    """An archive that was opened before the fork is opened anew, whoever reads at the same time."""
    data = _data(archive, in_memory=False)
    train = data.split("train")
    train.images([0])
    (alone, shared) = (iter(make_loader(train, 8, seed=1, workers=workers)) for workers in (0, 2))
    for _ in range(6):
        assert np.array_equal(next(alone)["image"].numpy(), next(shared)["image"].numpy())
    again = pickle.loads(pickle.dumps(train))
    assert np.array_equal(again.images([1]).numpy(), train.images([1]).numpy())


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "dataset.labels=true, but dataset.json of '{}' has no labels"),
        (_labels()[:-2], "'{}': dataset.json has no label of '00001/img0000003"),
        ([[_name(0), 1.5]], "'{}': dataset.json: the label of '00000/img00000000.png' is 1.5, not a class"),
        ([[_name(0), [0, 1]]], "the label of '00000/img00000000.png' is [0, 1], not a class"),
        ([[_name(0), -1]], "is -1, not a class 0, 1, ..."),
        ([3], "'{}': dataset.json is not a file of labels"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: object, told: str) -> None:
    archive = _write(tmp_path / "x.zip", labels)
    with pytest.raises(DataError) as refused:
        _data(archive, labels=True).prepare()
    assert told.format(archive) in str(refused.value)
    _data(archive).prepare()


def test_a_label_outside_the_classes_is_refused(archive: Path) -> None:
    assert _data(archive, labels=True, classes=4).num_classes == 4
    with pytest.raises(DataError, match="has a label 3, and there are 3 classes"):
        _data(archive, labels=True, classes=3).prepare()


@pytest.mark.parametrize("in_memory", [True, False])
def test_faulty_images_are_named_and_counted(tmp_path: Path, in_memory: bool) -> None:
    large = _png(np.zeros((9, 9, 3), np.uint8))
    archive = _write(tmp_path / "x.zip", **{"12": b"no picture", "15": large, "20": _png(_pixels(1))[:-30]})
    with pytest.raises(DataError) as refused:
        _data(archive, in_memory=in_memory).prepare()
    first = f"'{archive}/00000/img00000012.png' is empty, damaged, or not an image"
    assert first in str(refused.value) or "img00000015.png' is 9x9, not 8x8" in str(refused.value)
    assert str(refused.value).startswith(f"3 of 40 images in '{archive}' cannot be used; the first: ")


def test_a_flipped_bit_is_found_by_the_checksum(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    place = data.index(_png(_pixels(5))) + 60
    data[place] ^= 1
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"img00000005.png' is damaged: Bad CRC-32"):
        _data(archive).prepare()


def test_what_is_no_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.zip"
    half.write_bytes(archive.read_bytes()[:3000])
    empty = _write(tmp_path / "empty.zip", count=0)
    for path, told in (
        (half, "half.zip' is damaged, or not a zip archive: File is not a zip file"),
        (empty, "no images in "),
        (tmp_path / "none.zip", "dataset.path: .*none.zip' does not exist"),
        (tmp_path, "is a folder, not a zip archive: use dataset=image_folder"),
    ):
        with pytest.raises(DataError, match=told):
            _data(path).prepare()
    with pytest.raises(DataError, match=r"dataset.test: .*none.zip' does not exist"):
        _data(archive, test=str(tmp_path / "none.zip")).prepare()
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as bare:
        for name in "ab":
            bare.writestr(f"{name}.png", _png(_pixels(0)))
    with pytest.raises(DataError, match=r"has no dataset.json"):
        _data(tmp_path / "bare.zip", labels=True).prepare()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"channels": 2}, "dataset.channels=2"),
        ({"held_out": 0.0}, "dataset.held_out=0.0"),
        ({"classes": 3}, "dataset.classes=3: needs dataset.labels=true"),
        ({"verify": "maybe"}, "dataset.verify=maybe"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _data(Path("x.zip"), **options)
