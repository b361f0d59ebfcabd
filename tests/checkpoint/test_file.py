"""Training state: exact round trip, and refusal of everything else, with nothing executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffexp.checkpoint import file
from diffexp.core.errors import CheckpointError


def _state() -> dict[str, Any]:
    return {
        "config": "seed: 1\n",
        "state_dict": {"w": torch.arange(16.0), "b": torch.tensor([1, 2**40])},
        "global_step": 7,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.full((3,), 0.1, dtype=torch.bfloat16)}}}],
        "none": None,
    }


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return left == right


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "step_00000007.ckpt"
    file.save(path, _state())
    return path


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(saved: Path, mmap: bool) -> None:
    state = file.load(saved, mmap=mmap)
    assert _equal(state, {**_state(), "format": "diffexp/1"})
    state["state_dict"]["w"] += 1  # a private copy even when mapped
    assert _equal(file.load(saved)["state_dict"], _state()["state_dict"])
    assert list(saved.parent.iterdir()) == [saved]


def _outcome(path: Path) -> dict[str, Any] | str:
    """The state, or the message of the refusal."""
    try:
        return file.load(path)
    except CheckpointError as error:
        return str(error)


def test_whatever_bit_is_flipped_nothing_wrong_is_loaded(saved: Path) -> None:
    """A flip is refused or (in padding and dates between the parts) changes nothing; in a tensor it is refused."""
    data, expected = saved.read_bytes(), file.load(saved)
    tensor = data.index(torch.arange(16.0).numpy().tobytes())
    copy = saved.with_name("copy.ckpt")
    for place in sorted({*range(0, len(data), 3), *range(tensor, tensor + 64)}):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << (place % 8)
        copy.write_bytes(spoilt)
        outcome = _outcome(copy)
        if isinstance(outcome, str):
            assert outcome.startswith(f"'{copy}' ")
            assert "\n" not in outcome
        else:
            assert not tensor <= place < tensor + 64
            assert _equal(outcome, expected)


def test_truncation_is_refused_at_any_length(saved: Path) -> None:
    data = saved.read_bytes()
    copy = saved.with_name("copy.ckpt")
    for length in [0, 1, *range(10, len(data), 37), len(data) - 1]:
        copy.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="is empty" if length == 0 else "is truncated, damaged or not a"):
            file.load(copy)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip"])
def test_planted_code_does_not_run(tmp_path: Path, kind: str) -> None:
    path, marker = tmp_path / "planted.ckpt", tmp_path / "marker"
    state = {"format": file.FORMAT, "config": "", "bomb": _Bomb(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError) as caught:
        file.load(path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind == "zip":
        assert "it holds 'posix.mkdir'" in str(caught.value) or "it holds 'nt.mkdir'" in str(caught.value)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"config": "", "state_dict": {}}, "lacks the format or config entry"),
        ({"format": "diffexp/1"}, "lacks the format or config entry"),
        ({"format": "diffexp/9", "config": ""}, "its format is 'diffexp/9'; this version reads 'diffexp/1'"),
        (torch.zeros(3), "lacks the format or config entry"),
    ],
)
def test_foreign_torch_files_are_refused(tmp_path: Path, state: Any, reason: str) -> None:
    torch.save(state, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=rf"foreign.pt' is not a diffexp checkpoint \(.*{reason}"):
        file.load(tmp_path / "foreign.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_missing_files_and_other_archives(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.ckpt' does not exist"):
        file.load(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        file.load(tmp_path)
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a/data.txt", "x")
    with pytest.raises(CheckpointError, match=r"texts.zip' is not a torch checkpoint: it is some other zip archive"):
        file.load(tmp_path / "texts.zip")
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match=r"script.pt' is not a torch checkpoint: it is a TorchScript program"):
        file.load(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"module": nn.Linear(1, 1)}, "it holds 'torch.nn.modules.linear.Linear'"),
        ({"function": lambda: 0}, "was not written"),
        ({"config": None}, "has no 'config'"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(saved: Path, extra: dict, reason: str) -> None:
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=reason):
        file.save(saved, {**_state(), **extra})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent/a.ckpt' could not be written"):
        file.save(tmp_path / "absent" / "a.ckpt", _state())
