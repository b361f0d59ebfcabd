"""What is particular to a kind of operator: means of two, states they do not fit, kinds that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.process.block import Block
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Scalar, combine
from tests.process.algebra import close, each, make, states


@pytest.mark.parametrize("pair", [("scalar", "scalar"), ("scalar", "diagonal"), ("diagonal", "diagonal")])
def test_geometric_mean(pair):
    a, b = (make(kind, seed).covariance() for seed, kind in enumerate(pair))
    u = states(2)
    for f in (0.0, 0.3, 1.0):
        logs = [torch.linalg.matrix_exp((1 - f) * _log(x) + f * _log(y)) for x, y in zip(each(a), each(b), strict=True)]
        for got, wanted in zip(each(a.geometric(b, f)), logs, strict=True):
            close(got, wanted, 1e-12)
    close(a.geometric(b, 0.0).apply(u), a.apply(u))
    close(a.geometric(b, 1.0).apply(u), b.apply(u))
    shares = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    mixed = a.geometric(b, shares)
    close(mixed[0].apply(u), a[0].apply(u))
    close((mixed[1] @ mixed[1]).apply(u), (a[1] @ b[1]).apply(u))
    close(mixed[2].apply(u), b[2].apply(u))


def _log(matrix: Tensor) -> Tensor:
    """The logarithm of a symmetric positive matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(eigenvalues.log()) @ vectors.T


def test_geometric_mean_with_zero_is_zero_or_the_other():
    zero, two = Scalar(0.0), Scalar(2.0)
    assert [float(zero.geometric(two, f).value) for f in (0.0, 0.3, 1.0)] == [0.0, 0.0, 2.0]


def test_blocks_have_no_geometric_mean():
    for other in (make("block", 1), make("scalar", 1)):
        with pytest.raises(ValueError, match="do not commute"):
            make("block", 0).geometric(other, 0.5)


def test_diagonals_and_blocks_do_not_mix():
    a, b, u = make("diagonal", 0), make("block", 1), states(2)
    message = "operators of different kinds do not mix"
    for mix in (
        lambda: a @ b,
        lambda: b @ a,
        lambda: a + b,
        lambda: b - a,
        lambda: a.geometric(b, 0.5),
        lambda: combine([(a, u), (b, u)]),
        lambda: combine([(b, u), (Scalar(1.0), u), (a, u)]),
        lambda: Scalar.combine([(Scalar(1.0), u), (a, u)]),
    ):
        with pytest.raises(TypeError, match=message):
            mix()


def test_shapes_that_do_not_fit_are_refused():
    square = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    diagonal, block = make("diagonal", 0, ()), make("block", 0, ())
    for act in (
        lambda: diagonal.apply(square),
        lambda: diagonal.log_det((2, 4, 4)),
        lambda: combine([(diagonal, square), (Scalar(1.0), square)]),
    ):
        with pytest.raises(ValueError, match="images of 3x4 pixels"):
            act()
    odd = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    for act in (lambda: block.apply(odd), lambda: block.log_det((3, 4, 4))):
        with pytest.raises(ValueError, match="even number of channels"):
            act()
    with pytest.raises(ValueError, match=r"values \(2, 2\)"):
        Block(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"values \(H, W\)"):
        Diagonal(torch.zeros(3))


def test_blocks_act_on_the_two_halves_of_the_channels():
    u = states(0)
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    x, v = u[:, :1], u[:, 1:]
    close(Block(matrix).apply(u), torch.cat([x + 2 * v, 3 * x + 4 * v], 1))
    lower = Block(torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64))
    close(lower.apply(u), torch.cat([torch.zeros_like(x), 3 * x], 1))


def test_a_number_of_kinds_of_diagonal_states():
    """States of any batch, also one that is larger than the images of an operator at one time."""
    a, u = make("diagonal", 0, ()), states(1, 5)
    close(a.apply(u)[3:], a.apply(u[3:]))
    assert a.apply(u).shape == u.shape
