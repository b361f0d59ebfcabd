"""The cosine transform against its definition, scipy and the published arrays."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from diffexp.process.dct import DCT
from diffexp.process.diagonal import Diagonal


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17, 28, 64, 256])
def test_matrix_is_orthonormal_and_the_definition(n):
    matrix = DCT.matrix(n)
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=2e-15)
    k, j = min(n - 1, 3), n // 2
    scale = math.sqrt((2.0 if k else 1.0) / n)
    assert float(matrix[k, j]) == pytest.approx(scale * math.cos(math.pi * k * (2 * j + 1) / (2 * n)), abs=1e-15)


@pytest.mark.parametrize("side", [(8, 8), (7, 12), (1, 5), (32, 17)])
def test_transform_is_scipys(side):
    fft = pytest.importorskip("scipy.fft")
    x = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.from_numpy(fft.dctn(x.numpy(), type=2, norm="ortho", axes=(2, 3)))
    torch.testing.assert_close(DCT().forward(x), wanted, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(DCT().backward(wanted), x, rtol=1e-13, atol=1e-13)


def test_transform_keeps_length():
    x = torch.randn(4, 2, 9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(DCT().forward(x).square().sum(), x.square().sum(), rtol=1e-14, atol=0)


def test_published_transforms(golden_dir):
    arrays = np.load(golden_dir / "gddim.npz")
    families = [entry for entry in json.loads(str(arrays["config"]))["families"] if entry["family"] == "dct"]
    members = [(family, member) for family in families for member in family["members"]]
    assert members
    for family, member in members:
        settings = {**family, **member}
        assert (settings["type"], settings["norm"]) == (2, "ortho")
        x, y = (
            torch.from_numpy(arrays[key]).movedim(tuple(settings["axes"]), (-2, -1))
            for key in (settings["in"]["x"], settings["out"]["y"])
        )
        torch.testing.assert_close(DCT().forward(x), y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(DCT().backward(y), x, rtol=1e-12, atol=1e-12)


def test_the_states_type_is_kept_also_under_autocast():
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    exact = DCT().forward(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        got = DCT().forward(x)
        damped = Diagonal(torch.full((8, 8), 0.5, dtype=torch.float64)).cast(torch.float32, "cpu").apply(x)
    assert got.dtype == damped.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)  # bfloat16 would be off by 1e-2
    torch.testing.assert_close(damped, 0.5 * x, rtol=1e-5, atol=1e-6)


def test_matrices_made_while_sampling_serve_training():
    with torch.inference_mode():
        DCT().forward(torch.zeros(1, 1, 13, 11))
    x = torch.ones(1, 1, 13, 11, requires_grad=True)
    DCT().forward(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=1e-5, atol=1e-5)


def test_shapes_can_be_worked_out_without_memory():
    assert DCT().forward(torch.empty(2, 3, 6, 5, device="meta")).shape == (2, 3, 6, 5)
