"""Exact float32: the switches inside the block, and the process's own afterwards."""

import subprocess
import sys

import pytest
import torch

from diffexp.core.precision import exact_float32
from diffexp.evaluation.generate import generate


def _state():
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled


EXACT = (False, False, False, True, True)


@pytest.fixture
def fast(monkeypatch):
    """A process that trades precision for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        yield
    torch.set_float32_matmul_precision(before)


def test_the_block_is_exact_and_restores(fast):
    assert _state() == (True, True, True, False, True)
    with exact_float32():
        assert _state() == EXACT
        assert torch.get_float32_matmul_precision() == "highest"
        with exact_float32():
            assert _state() == EXACT
        assert _state() == EXACT
    assert _state() == (True, True, True, False, True)
    assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert _state() == (True, True, True, False, True)


def test_images_are_made_in_it_and_their_consumer_runs_outside(fast, samplers, denoiser, monkeypatch):
    seen = []
    original = type(denoiser).__call__
    monkeypatch.setattr(type(denoiser), "__call__", lambda *given: (seen.append(_state()), original(*given))[1])
    for _ in generate(samplers["ddim"], denoiser, (1, 8, 8), range(4), 0, 3, 2):
        assert _state() == (True, True, True, False, True)
    assert seen == [EXACT] * 6


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before fp32_precision")
@pytest.mark.parametrize("switch", ["fp32_precision", "cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision"])
def test_a_process_with_the_newer_switches_keeps_them(switch):
    """In a process of its own: torch remembers which family of switches was used."""
    code = f"""
import torch
from diffexp.core.precision import exact_float32
torch.backends.{switch} = "tf32"
places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
before = [place.fp32_precision for place in places]
assert "tf32" in before
with exact_float32():
    assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
    torch.ones(2, 2) @ torch.ones(2, 2)
assert [place.fp32_precision for place in places] == before, before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
