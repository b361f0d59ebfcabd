"""ImageNet's npz form: exact pixels from stored and compressed files, each read once, and faulty ones named."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError, DataError
from diffexp.core.image import to_float
from diffexp.dataset import npz
from diffexp.dataset.imagenet_npz import ImageNetNpz
from diffexp.dataset.loader import make_loader
from diffexp.dataset.split import ArraySplit, Dataset, Split

_SIZE = 4
_WIDTH = 3 * _SIZE**2
_COUNTS = [3, 1, 2, 4, 1, 1, 5, 1, 1, 2, 6]  # rows of the ten training files and of the validation file
_NAMES = [f"train_data_batch_{number}" for number in range(1, 11)] + ["val_data"]


def _rows(place: int) -> np.ndarray:
    return np.random.default_rng(place).integers(0, 256, (_COUNTS[place], _WIDTH), dtype=np.uint8)


def _labels(place: int) -> np.ndarray:
    """Both ends of 1 .. 1000 occur."""
    return (np.arange(_COUNTS[place]) * 333 + place * 100) % 1000 + 1


def _write(folder: Path, place: int, compressed: bool, **changes: object) -> Path:
    arrays = {"data": _rows(place), "labels": _labels(place), "mean": np.zeros(_WIDTH), **changes}
    path = folder / f"{_NAMES[place]}.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def _reader(folder: Path, **options: object) -> ImageNetNpz:
    return ImageNetNpz(str(folder), _SIZE, **options)


def _caches(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".npz" and path.name != npz.RECORD)


@pytest.fixture(params=[False, True], ids=["stored", "compressed"])
def compressed(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, compressed: bool) -> Path:
    for place in range(11):
        _write(tmp_path, place, compressed)
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives whose pixels are read, as it happens."""
    names: list[str] = []
    blocks = npz.Source.blocks

    def noted(source: npz.Source) -> object:
        names.append(source.rows.path.stem)
        return blocks(source)

    monkeypatch.setattr(npz.Source, "blocks", noted)
    return names


def test_pixels_and_labels(folder: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_BLOCK", 2 * _WIDTH)  # several blocks a file
    data = _reader(folder, labels=True)
    assert (data.name, data.shape, data.num_classes) == ("imagenet4_npz", (3, 4, 4), 1000)
    assert isinstance(data, Dataset)
    train, test = data.split("train"), data.split("test")
    assert isinstance(train, Split)
    assert (len(train), len(test), train.flip, test.flip) == (21, 6, True, False)
    rows = np.concatenate([_rows(place) for place in range(10)])
    red, green, blue = (rows[:, start : start + 16].reshape(-1, 4, 4) for start in (0, 16, 32))
    expected = np.stack([red, green, blue], axis=1)
    order = [20, 0, 3, 2, 3, 11, 10]
    images = train.images(order)
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), expected[order])
    assert np.array_equal(train.images(torch.arange(21)).numpy(), expected)
    assert np.array_equal(test.images(np.arange(6)).numpy().reshape(6, -1), _rows(10))
    labels = np.concatenate([_labels(place) for place in range(10)])
    assert train.labels(np.arange(21)).tolist() == (labels - 1).tolist()
    assert (labels.min(), test.labels([0]).tolist(), test.labels([0]).dtype) == (1, [0], torch.int64)
    assert train.fingerprint == ArraySplit(expected, None).fingerprint != test.fingerprint
    unlabelled = _reader(folder, flip=False)
    assert (unlabelled.num_classes, unlabelled.split("train").labels([0])) == (0, None)
    assert (unlabelled.split("train").fingerprint, unlabelled.split("train").flip) == (train.fingerprint, False)
    assert _caches(folder) == ([f"{name}.pixels.npy" for name in sorted(_NAMES)] if compressed else [])
    for index in (-1, 21):
        with pytest.raises(IndexError, match="numbered 0 to 20"):
            train.images([0, index])
    assert train.images([]).shape == (0, 3, 4, 4)


def test_labels_of_both_ends(folder: Path, compressed: bool) -> None:
    _write(folder, 10, compressed, labels=np.array([1, 1000, 2, 999, 500, 1], np.uint16))
    assert _reader(folder, labels=True).split("test").labels(range(6)).tolist() == [0, 999, 1, 998, 499, 0]
    _write(folder, 10, compressed, labels=None)
    assert len(_reader(folder).split("test")) == 6  # they are not asked for
    with pytest.raises(DataError, match=r"val_data.npz' has no array 'labels' \(it holds data, mean\)"):
        _reader(folder, labels=True).prepare()


def test_nothing_is_read_twice(folder: Path, read: list[str]) -> None:
    data = _reader(folder, labels=True)
    assert read == []
    data.prepare()
    data.prepare()
    assert read == _NAMES
    found = [_reader(folder).split(name).fingerprint for name in ("train", "test")]
    assert read == _NAMES
    assert found == [data.split(name).fingerprint for name in ("train", "test")]
    (folder / npz.RECORD).write_text("[no record")  # an unreadable record is none
    assert _reader(folder).split("train").fingerprint == found[0]
    assert read == _NAMES * 2


def test_a_split_maps_its_files_in_every_process(folder: Path) -> None:
    split = _reader(folder, labels=True).split("train")
    before = split.images([5, 20])
    pickled = pickle.dumps(split)
    assert len(pickled) < len(pickle.dumps(split._rows)) + 1500  # no pixels
    assert torch.equal(pickle.loads(pickled).images([5, 20]), before)
    batch = next(iter(make_loader(split, batch_size=21, seed=3)))
    assert sorted(batch["label"].tolist()) == sorted(split.labels(range(21)).tolist())
    found = {tuple(image.flatten().tolist()) for image in batch["image"]}
    plain = to_float(split.images(range(21)))
    either = [{tuple(each.flatten().tolist()) for each in (image, image.flip(-1))} for image in plain]
    assert all(len(pair & found) == 1 for pair in either)


def test_an_interrupted_copy_goes_on(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(11):
        _write(tmp_path, place, True)
    noted = npz.Source.blocks

    def stop_at_the_fifth(source: npz.Source) -> object:
        for block in noted(source):
            if source.rows.path.stem == _NAMES[4]:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(npz.Source, "blocks", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        _reader(tmp_path).prepare()
    assert _caches(tmp_path) == [f"{name}.pixels.npy" for name in _NAMES[:4]]  # nor a part of the fifth
    monkeypatch.setattr(npz.Source, "blocks", noted)
    read.clear()
    split = _reader(tmp_path).split("train")
    assert read == _NAMES[4:]
    rows = np.concatenate([_rows(place) for place in range(10)]).reshape(-1, 3, 4, 4)
    assert np.array_equal(split.images(range(21)).numpy(), rows)
    assert split.fingerprint == ArraySplit(rows, None).fingerprint


def test_a_file_that_changed_is_read_again(folder: Path, compressed: bool, read: list[str]) -> None:
    old = _reader(folder).split("train")
    path = _write(folder, 2, compressed, data=255 - _rows(2))
    os.utime(path, ns=(0, 10**9))  # clocks of file systems tick slowly
    read.clear()
    new = _reader(folder).split("train")
    assert read == ([_NAMES[2]] if compressed else _NAMES[:10])  # the others' rows come from their copies
    assert np.array_equal(new.images([4, 5]).numpy().reshape(2, -1), 255 - _rows(2))
    assert new.fingerprint != old.fingerprint
    with pytest.raises(DataError, match=r"train_data_batch_3.* has changed since it was verified"):
        old.images([4])  # not mapped before
    os.utime(path, ns=(0, 0))
    read.clear()
    assert _reader(folder).split("train").fingerprint == new.fingerprint
    assert _NAMES[2] in read


def test_a_copy_that_changed_is_made_again(tmp_path: Path, read: list[str]) -> None:
    for place in range(11):
        _write(tmp_path, place, True)
    _reader(tmp_path).prepare()
    (tmp_path / "train_data_batch_7.pixels.npy").write_bytes(b"")
    (tmp_path / "val_data.pixels.npy").unlink()
    read.clear()
    data = _reader(tmp_path)
    assert np.array_equal(data.split("train").images(range(12, 17)).numpy().reshape(5, -1), _rows(6))
    assert read == [_NAMES[6], _NAMES[10]]


def test_the_same_copy_by_another_process_is_no_change(tmp_path: Path) -> None:
    for place in range(11):
        _write(tmp_path, place, True)
    split = _reader(tmp_path).split("test")
    (tmp_path / npz.RECORD).unlink()
    _reader(tmp_path).prepare()
    assert np.array_equal(split.images([5]).numpy().reshape(-1), _rows(10)[5])


def test_a_folder_that_cannot_be_written(folder: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves for stored files; compressed ones need room."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(npz, "atomic_path", refuse)
    monkeypatch.setattr(npz, "write_json_atomic", refuse)
    if not compressed:
        assert np.array_equal(_reader(folder).split("test").images([1]).numpy().reshape(-1), _rows(10)[1])
        return
    with pytest.raises(DataError, match=r"batch_1.pixels.npy' cannot be written \(No space left on device\): .* GB"):
        _reader(folder).prepare()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flip_a_bit(path: Path) -> None:
    """Of a pixel in the middle of the array."""
    content = bytearray(path.read_bytes())
    source = npz.examine(path, _WIDTH)
    content[source.rows.offset + (100 if source.stored else 20)] ^= 4
    path.write_bytes(content)


def _save(**changes: object) -> Callable[[Path], object]:
    return lambda path: _write(path.parent, _NAMES.index(path.stem), True, **changes)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), r"' is missing \(1 of 11 files are\): .*dataset.path.*DIFFEXP_DATA"),
        (_truncate, "' is damaged, or not an npz file: File is not a zip file"),
        (_flip_a_bit, "' is damaged, or not an npz file: "),
        (lambda path: path.write_text("<html>"), "' is damaged, or not an npz file: "),
        (_save(data=None), r"' has no array 'data' \(it holds labels, mean\)"),
        (_save(data=_rows(6)[:, :-3]), "': data are uint8 of shape 5x45, not uint8 rows of 48 bytes"),
        (_save(data=_rows(6).reshape(5, 3, 4, 4)), "': data are uint8 of shape 5x3x4x4, not uint8 rows"),
        (_save(data=_rows(6)[:0]), "': data are uint8 of shape 0x48, not uint8 rows"),
        (_save(data=_rows(6) / 255), "': data are float64 of shape 5x48, not uint8 rows"),
        (_save(data=np.asfortranarray(_rows(6))), "': data are stored column by column"),
        (_save(labels=np.arange(5)), "': labels are 0 to 4, outside 1 to 1000"),
        (_save(labels=np.full(5, 1001)), "': labels are 1001 to 1001, outside 1 to 1000"),
        (_save(labels=np.ones(4, int)), r"': labels are int64 of shape \(4,\), not 5 integers"),
        (_save(labels=np.ones(5)), r"': labels are float64 of shape \(5,\), not 5 integers"),
        (_save(labels=np.array([None] * 5)), "' is damaged, or not an npz file: Object arrays"),
    ],
)
def test_an_unusable_file_is_named(folder: Path, spoil: Callable[[Path], object], reason: str) -> None:
    path = folder / "train_data_batch_7.npz"
    spoil(path)
    with pytest.raises(DataError, match=f"^'{path}{reason}") as caught:
        _reader(folder, labels=True).prepare()
    assert "\n" not in str(caught.value)
    assert not (folder / "train_data_batch_7.pixels.npy").exists()


def test_a_stored_file_damaged_after_it_was_verified_is_noticed(tmp_path: Path) -> None:
    for place in range(11):
        _write(tmp_path, place, False)
    _reader(tmp_path).prepare()
    _flip_a_bit(tmp_path / "val_data.npz")
    os.utime(tmp_path / "val_data.npz", ns=(0, 10**9))
    with pytest.raises(DataError, match=r"val_data.npz' is damaged.*CRC"):
        _reader(tmp_path).prepare()


def test_what_can_be_refused_early(tmp_path: Path) -> None:
    assert ImageNetNpz("absent", labels=True).num_classes == 1000
    assert ImageNetNpz("absent").shape == (3, 64, 64)
    with pytest.raises(ConfigError, match=r"dataset.resolution=0 .*: did you mean 64\?"):
        ImageNetNpz("absent", 0)
    with pytest.raises(DataError, match=r"dataset.path: '.*absent' does not exist"):
        ImageNetNpz(str(tmp_path / "absent")).prepare()
