"""The exponential of every kind of operator, against that of its dense matrix."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.core import random
from diffexp.process.block import Block
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator, Scalar

SHAPE = (2, 3, 4)
MATRICES = [
    [[0.3, 0.5], [0.7, -0.4]],  # real roots
    [[0.3, -2.5], [0.7, -0.4]],  # complex roots
    [[0.3, 0.0], [0.0, 0.3]],  # a multiple of the identity
    [[0.1, 1.0], [0.0, 0.1]],  # a double root without two directions
    [[0.0, 0.0], [0.0, 0.0]],
    [[-40.0, 3.0], [3.0, -2.0]],
]


def dense(operator: Operator) -> torch.Tensor:
    size = math.prod(SHAPE)
    return operator.apply(torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)).reshape(size, size).T


OPERATORS = [
    Scalar(-0.7),
    Diagonal(random.normal(0, "test/values", [0], (3, 4))[0]),
    *[Block(torch.tensor(matrix, dtype=torch.float64)) for matrix in MATRICES],
]


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_the_exponential_is_that_of_the_matrix(operator):
    expected = torch.linalg.matrix_exp(dense(operator))
    torch.testing.assert_close(dense(operator.exp()), expected, rtol=1e-12, atol=1e-13)


def test_a_batch_is_exponentiated_one_by_one():
    values = torch.tensor(MATRICES, dtype=torch.float64)
    batch = Block(values).exp()
    for k in range(len(MATRICES)):
        torch.testing.assert_close(batch[k].values, Block(values[k]).exp().values, rtol=1e-15, atol=0)
