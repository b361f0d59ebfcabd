"""CIFAR-10 through torchvision, on a tiny archive in the official layout."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.core.errors import DataError
from diffexp.dataset.cifar10 import Cifar10

try:
    from torchvision.datasets import CIFAR10
except (ImportError, RuntimeError):
    CIFAR10 = None

needs_torchvision = pytest.mark.skipif(CIFAR10 is None, reason="torchvision is not usable here")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two training files and one test file of four images; pixel k of image i of file f is (7 f + 3 i + k) mod 256."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict) -> list[str]:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    names = ["data_batch_1", "data_batch_2", "test_batch"]
    lists = []
    for number, name in enumerate(names):
        data = (7 * number + 3 * np.arange(4)[:, None] + np.arange(3072)) % 256
        lists.append(write(name, {"data": data.astype(np.uint8), "labels": [number, 1, 2, 3]}))
    meta = write("batches.meta", {"label_names": [f"class{n}" for n in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", lists[:2])
    monkeypatch.setattr(CIFAR10, "test_list", lists[2:])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


@needs_torchvision
def test_planes_and_labels(root: Path) -> None:
    data = Cifar10(str(root), labels=True)
    assert (data.name, data.shape, data.num_classes) == ("cifar10", (3, 32, 32), 10)
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test), train.flip, test.flip) == (8, 4, True, False)
    expected = torch.tensor((7 + 3 * 2 + np.arange(3072)) % 256, dtype=torch.uint8).reshape(3, 32, 32)
    assert torch.equal(train.images([6])[0], expected)
    assert train.labels([4, 0, 7]).tolist() == [1, 0, 3]
    assert test.labels([0]).tolist() == [2]
    unlabelled = Cifar10(str(root))
    assert (unlabelled.num_classes, unlabelled.split("train").labels([0])) == (0, None)
    assert unlabelled.split("test").fingerprint == test.fingerprint != train.fingerprint


@needs_torchvision
def test_a_damaged_or_missing_file_is_named(root: Path) -> None:
    path = root / CIFAR10.base_folder / "data_batch_2"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged: '.*/data_batch_2' differs from the original \(MD5\)"):
        Cifar10(str(root)).prepare()
    path.unlink()
    with pytest.raises(DataError, match=r"incomplete: '.*/data_batch_2' is missing"):
        Cifar10(str(root)).prepare()


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Cifar10(str(tmp_path / "data")).prepare()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path / "data"), "dataset.download=true", "dataset.root", "DIFFEXP_DATA"):
        assert part in message
