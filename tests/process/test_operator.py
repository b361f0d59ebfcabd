"""The laws of the operator algebra, for every kind and mixture, against dense matrices made from basis vectors."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffexp.process.block import Block
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Scalar, combine
from tests.process.algebra import SHAPE, TIMES, close, dense, each, make, states

KINDS = ("scalar", "diagonal", "block")
PAIRS = [pair for pair in itertools.product(KINDS, repeat=2) if set(pair) != {"diagonal", "block"}]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
TRIPLES = [triple for triple in itertools.product(KINDS, repeat=3) if not {"diagonal", "block"} <= set(triple)]
every_triple = pytest.mark.parametrize("triple", TRIPLES, ids=["-".join(triple) for triple in TRIPLES])


@every_pair
def test_composing_is_applying_in_turn(pair):
    a, b, u = make(pair[0], 0), make(pair[1], 1), states(2)
    close((a @ b).apply(u), a.apply(b.apply(u)))
    for product, left, right in zip(each(a @ b), each(a), each(b), strict=True):
        close(product, left @ right)


@every_pair
def test_sums_and_differences(pair):
    a, b, u = make(pair[0], 0), make(pair[1], 1), states(2)
    close((a + b).apply(u), a.apply(u) + b.apply(u))
    close((a - b).apply(u), a.apply(u) - b.apply(u))
    close((0.3 * a).apply(u), 0.3 * a.apply(u))
    each_time = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    close((each_time * a).apply(u), each_time.reshape(-1, 1, 1, 1) * a.apply(u))


@every_pair
def test_a_batch_mixes_with_a_single_time(pair):
    one, many, u = make(pair[0], 0, ()), make(pair[1], 1), states(2)
    assert one.batch == ()
    assert many.batch == (one @ many).batch == (many @ one).batch == (one + many).batch == (TIMES,)
    close((one @ many).apply(u), one.apply(many.apply(u)))
    close((many + one).apply(u), one.apply(u) + many.apply(u))
    numbers = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert (numbers * one).batch == (TIMES,)
    close((numbers * one)[2].apply(u), 3.0 * one.apply(u))


@every_triple
def test_composition_is_associative_and_distributive(triple):
    a, b, c = (make(kind, seed) for seed, kind in enumerate(triple))
    u = states(3)
    close(((a @ b) @ c).apply(u), (a @ (b @ c)).apply(u))
    close((a @ (b + c)).apply(u), (a @ b + a @ c).apply(u))
    close(((a + b) @ c).apply(u), (a @ c + b @ c).apply(u))


@every_kind
def test_inverse(kind):
    a, u = make(kind, 0), states(1)
    close(a.inverse().apply(a.apply(u)), u, 1e-12)
    close(a.apply(a.inverse().apply(u)), u, 1e-12)
    for inverse, matrix in zip(each(a.inverse()), each(a), strict=True):
        close(inverse, torch.linalg.inv(matrix), 1e-12)


@every_kind
def test_transpose_is_the_adjoint_in_pixels(kind):
    a, u, w = make(kind, 0), states(1), states(2)
    close((a.apply(u) * w).sum((1, 2, 3)), (u * a.transpose().apply(w)).sum((1, 2, 3)))
    for transposed, matrix in zip(each(a.transpose()), each(a), strict=True):
        close(transposed, matrix.T)


@every_pair
def test_transpose_and_inverse_reverse_products(pair):
    a, b, u = make(pair[0], 0), make(pair[1], 1), states(2)
    close((a @ b).transpose().apply(u), (b.transpose() @ a.transpose()).apply(u))
    close((a @ b).inverse().apply(u), (b.inverse() @ a.inverse()).apply(u), 1e-12)


@every_kind
def test_factor_is_a_lower_triangular_root(kind):
    covariance = make(kind, 0).covariance()
    for factor, matrix in zip(each(covariance.factor()), each(covariance), strict=True):
        close(factor @ factor.T, matrix, 1e-12)
    for root in (covariance.factor()[k] for k in range(TIMES)):
        if kind == "block":
            assert torch.equal(root.values.triu(1), torch.zeros(2, 2, dtype=torch.float64))
            assert bool((root.values.diagonal() > 0.0).all())
        if kind == "diagonal":  # triangular in frequencies: there it is a diagonal of positive numbers
            assert bool((root.values > 0.0).all())


def test_factor_of_a_block_is_cholesky():
    covariance = make("block", 0).covariance()
    close(covariance.factor().values, torch.linalg.cholesky(covariance.values))


@pytest.mark.parametrize(
    ("covariance", "wanted"),
    [
        (Scalar(torch.tensor([-1e-17, 0.0, 4.0], dtype=torch.float64)), [0.0, 0.0, 2.0]),
        (Diagonal(torch.tensor([[-1e-17, 0.0], [9.0, 4.0]], dtype=torch.float64)), [[0.0, 0.0], [3.0, 2.0]]),
        # Position without noise; a variance below zero; a covariance larger than the variances allow.
        (Block(torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)), [[0.0, 0.0], [0.0, 2.0]]),
        (Block(torch.tensor([[-1e-17, 1e-17], [1e-17, 4.0]], dtype=torch.float64)), [[0.0, 0.0], [0.0, 2.0]]),
        (Block(torch.tensor([[4.0, 2.0], [2.0, -1e-17]], dtype=torch.float64)), [[2.0, 0.0], [0.0, 0.0]]),
        (Block(torch.tensor([[4.0, 2.0], [2.0, 1.0 - 1e-16]], dtype=torch.float64)), [[2.0, 0.0], [1.0, 0.0]]),
    ],
)
def test_rounding_below_zero_is_taken_as_zero(covariance, wanted):
    root = covariance.factor()
    got = root.value if isinstance(root, Scalar) else root.values
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=0.0, atol=1e-15)


@every_triple
def test_a_combination_is_the_sum_of_its_terms(triple):
    operators = [make(kind, seed) for seed, kind in enumerate(triple)]
    us = [states(10 + seed) for seed in range(3)]
    before = [u.clone() for u in us]
    wanted = sum(operator.apply(u) for operator, u in zip(operators, us, strict=True))
    close(combine(list(zip(operators, us, strict=True))), wanted)
    single = [operator[1] for operator in operators]
    close(combine(list(zip(single, us, strict=True))), sum(a.apply(u) for a, u in zip(single, us, strict=True)))
    assert all(torch.equal(u, kept) for u, kept in zip(us, before, strict=True))


@every_kind
def test_a_combination_of_one_term_is_a_new_tensor(kind):
    u = states(0)
    result = combine([(make(kind, 0).identity(), u)])
    assert result.data_ptr() != u.data_ptr()
    close(result, u)


@every_kind
def test_combinations_carry_gradients(kind):
    a, b = make(kind, 0), make(kind, 1)
    u, w = states(2).requires_grad_(), states(3).requires_grad_()
    cotangent = states(4)
    gradients = torch.autograd.grad(combine([(a, u), (b, w)]), (u, w), cotangent)
    close(gradients[0], a.transpose().apply(cotangent))
    close(gradients[1], b.transpose().apply(cotangent))


@every_kind
def test_identity(kind):
    a, u = make(kind, 0), states(1)
    one = a.identity()
    assert type(one) is type(a)
    assert one.batch == a.batch
    assert one.is_identity()
    assert not one.is_zero()
    close(one.apply(u), u)
    assert not a.is_identity()
    assert not (a[0]).is_identity()
    assert make(kind, 0, ()).identity().batch == ()
    almost = one + torch.tensor([0.0, 0.0, 1e-15], dtype=torch.float64) * one
    assert not almost.is_identity()
    assert almost[0].is_identity()


@every_kind
def test_zero(kind):
    a = make(kind, 0)
    assert not a.is_zero()
    assert (a - a).is_zero()
    last = torch.tensor([0.0, 0.0, 1e-300], dtype=torch.float64) * a
    assert not last.is_zero()
    assert last[0].is_zero()


@every_kind
def test_indexing_is_the_operator_at_that_time(kind):
    a, u = make(kind, 0), states(1)
    whole = a.apply(u)
    for k in (0, 1, 2, -1):
        assert a[k].batch == ()
        close(a[k].apply(u)[k], whole[k])
    with pytest.raises(IndexError):
        make(kind, 0, ())[0]


@every_kind
@pytest.mark.parametrize("batch", [(), (TIMES,)], ids=["one", "many"])
def test_cast_operators_work_in_the_states_type(kind, batch):
    a, u = make(kind, 0, batch), states(1)
    low = a.cast(torch.float32, "cpu")
    result = low.apply(u.to(torch.float32))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, a.apply(u).to(torch.float32), rtol=1e-5, atol=1e-5)
    together = combine([(low, u.to(torch.float32)), (Scalar(0.25), u.to(torch.float32))])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, (a.apply(u) + 0.25 * u).to(torch.float32), rtol=1e-5, atol=1e-5)


@every_kind
@pytest.mark.parametrize("batch", [(), (TIMES,)], ids=["one", "many"])
def test_log_determinant(kind, batch):
    a = make(kind, 0, batch)
    got = a.log_det(SHAPE)
    assert got.shape == batch
    assert got.dtype == torch.float64
    matrices = each(a) if batch else [dense(a)]
    wanted = torch.stack([torch.linalg.slogdet(matrix).logabsdet for matrix in matrices]).reshape(batch)
    close(got, wanted, 1e-12)
