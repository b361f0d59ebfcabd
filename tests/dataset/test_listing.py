"""Finding images: layouts, classes, the held-out share, and refusals that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffexp.core.errors import DataError
from diffexp.dataset.listing import class_names, folder_of, list_splits


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_divided_layout(tmp_path: Path) -> None:
    names = ("train/cat/b.png", "train/cat/a.JPG", "train/ant/c.webp", "test/cat/d.bmp", "test/ant/e.jpeg")
    _touch(tmp_path, *names, "train/cat/notes.txt", "train/.cache/x.png", "val/cat/x.png")
    splits = list_splits(tmp_path, labels=True, held_out=0.5)
    assert class_names(tmp_path) == ["ant", "cat"]
    assert splits["train"].files == ["ant/c.webp", "cat/a.JPG", "cat/b.png"]
    assert splits["train"].labels == [0, 1, 1]
    assert splits["test"].paths() == [str(tmp_path / "test/ant/e.jpeg"), str(tmp_path / "test/cat/d.bmp")]
    unlabelled = list_splits(tmp_path, labels=False, held_out=0.5)
    assert unlabelled["train"].files == splits["train"].files  # the order, so the fingerprint, is the same
    assert unlabelled["train"].labels is None


def test_held_out_share_is_stable_under_growth(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"c{n % 3}/{n}.png" for n in range(1000)))
    before = list_splits(tmp_path, labels=True, held_out=0.2)
    train, test = set(before["train"].files), set(before["test"].files)
    assert not train & test
    assert len(train | test) == 1000
    assert abs(len(test) - 200) < 64  # 5 standard deviations of a binomial
    _touch(tmp_path, *(f"c{n % 3}/{n}.png" for n in range(1000, 1500)))
    after = list_splits(tmp_path, labels=True, held_out=0.2)
    assert test <= set(after["test"].files)
    assert train <= set(after["train"].files)


def test_a_few_images_still_give_two_splits(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.png")
    splits = list_splits(tmp_path, labels=False, held_out=1e-9)
    assert (len(splits["train"].files), len(splits["test"].files)) == (1, 1)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match="leaves no training image of the 1"):
        list_splits(tmp_path, labels=False, held_out=0.1)


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{name}/{n}.png" for name in ("test", "plane") for n in range(9)))
    assert class_names(tmp_path) == ["plane", "test"]


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    _touch(tmp_path, "cifar10/a.png", "flowers/a.png")
    with pytest.raises(DataError) as caught:
        folder_of(str(tmp_path / "cifar1O" / "train"))
    message = str(caught.value)
    assert message == (
        f"dataset.path: '{tmp_path}/cifar1O/train' does not exist "
        f"(there is '{tmp_path}', without 'cifar1O'; did you mean 'cifar10'?)"
    )
    with pytest.raises(DataError, match="is a file, not a folder"):
        folder_of(str(tmp_path / "flowers/a.png"))


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["notes.txt"], False, "no images in"),
        (["a.png"], True, "has no sub-folders to name the classes"),
        (["cat/a.png", "cat/b.png", "loose.png"], True, r"loose.png' lies outside the class folders"),
        (["train/cat/a.png"], True, "has 'train' but no 'test': add it, or set dataset.path=.*/train"),
        (["train/cat/a.png", "test/dog/b.png"], True, "test/dog' is not among the training classes"),
        (["train/cat/a.png", "train/dog/n.txt", "test/cat/b.png"], True, "class 'dog' .* has no training images"),
        (["train/cat/a.png", "test/cat/b.txt"], False, "no images in '.*test'"),
    ],
)
def test_refusals(tmp_path: Path, names: list[str], labels: bool, message: str) -> None:
    _touch(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        list_splits(tmp_path, labels, held_out=0.5)
    assert "\n" not in str(caught.value)
