"""Strict loading names what does not fit and changes nothing then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffexp.checkpoint.match import load_strict
from diffexp.core.errors import CheckpointError


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_values_arrive() -> None:
    source, target = _network(), _network()
    load_strict(target, source.state_dict(), "a.ckpt")
    for left, right in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_every_kind_of_mismatch_is_one_line_and_nothing_changes() -> None:
    target = _network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in _network().state_dict().items()}
    state["0.weight"] = torch.zeros(3, 5)
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        del state[name]
    state["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_strict(target, state, "a.ckpt")
    assert str(caught.value) == (
        "'a.ckpt' does not fit Sequential (9 tensors): 4 missing: 1.weight, 1.bias, 1.running_mean, ...; "
        "1 unexpected: extra; 1 of another shape: 0.weight (3, 5) for (3, 2)"
    )
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name])
