"""Exported weights: exact, paired with their configuration, and refused when a byte differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffexp.checkpoint.export import CONFIG, WEIGHTS, export, load_export, load_tensors, save_tensors
from diffexp.core.errors import CheckpointError


def _tensors() -> dict[str, torch.Tensor]:
    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "shared": shared,
        "transposed": shared.t(),
        "half": torch.tensor([0.5, -3.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(tmp_path / "out", _tensors(), "network: grün\n")
    return tmp_path / "out"


def test_round_trip(folder: Path) -> None:
    tensors, config = load_export(folder)
    assert config == "network: grün\n"
    assert tensors.keys() == _tensors().keys()
    for name, tensor in _tensors().items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def _outcome(folder: Path) -> dict[str, torch.Tensor] | str:
    """The tensors, or the message of the refusal."""
    try:
        return load_export(folder)[0]
    except CheckpointError as error:
        return str(error)


def test_any_flipped_bit_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS
    data, expected = path.read_bytes(), _tensors()
    body = 8 + int.from_bytes(data[:8], "little")
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << (place % 7)
        path.write_bytes(spoilt)
        outcome = _outcome(folder)
        if isinstance(outcome, str):
            assert str(path) in outcome
            assert "\n" not in outcome
        else:  # white space or an equivalent spelling in the header
            assert place < body
            assert all(torch.equal(outcome[name], expected[name]) for name in expected)
    for length in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="truncated, damaged or not a safetensors file"):
            load_export(folder)


def test_files_that_do_not_belong_together(folder: Path) -> None:
    (folder / CONFIG).write_text("network: red\n")
    with pytest.raises(CheckpointError, match=r"config.yaml' is not the configuration that .* was exported with"):
        load_export(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"config.yaml' does not exist"):
        load_export(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"weights.safetensors' does not exist"):
        load_export(folder)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="was not exported by diffexp"):
        load_tensors(tmp_path / "a.safetensors")


def test_a_single_file_with_metadata(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {"note": "digits"})
    tensors, metadata = load_tensors(tmp_path / "a.safetensors")
    assert tensors["a"].tolist() == [1.0, 1.0]
    assert (metadata["note"], len(metadata["sha256"])) == ("digits", 64)
