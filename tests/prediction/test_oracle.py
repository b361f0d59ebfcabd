"""Oracles against automatic differentiation of the log density they belong to, and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.finite import Finite
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.base import Process
from diffexp.process.block import Block
from diffexp.process.cosine import Cosine
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator, Scalar
from diffexp.process.vp import VP

SHAPE = (2, 3, 3)
TIMES = torch.tensor([0.9, 0.3, 0.02], dtype=torch.float64)
WEIGHTS, MEANS, STDS = [0.3, 0.7], [-0.6, 0.5], [0.15, 0.2]
U = random.normal(0, "test/state", range(5), SHAPE)
IMAGES = random.normal(0, "test/images", range(4), SHAPE)


def _f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class Made(Process):
    """A process of given operators at every time, as blurring (diagonal) and Langevin (2x2) processes have."""

    def __init__(self, signal: Operator, factor: Operator, copies: int = 1) -> None:
        self._signal, self._factor, self._copies = signal, factor, copies

    def _repeated(self, operator: Operator, t: Tensor) -> Operator:
        return torch.ones_like(t) * operator

    def signal(self, t):
        return self._repeated(self._signal, t)

    def factor(self, t, kind="R"):
        return self._repeated(self._factor, t)

    def lift(self, x0):
        return torch.cat([x0, *[torch.zeros_like(x0)] * (self._copies - 1)], dim=1)

    def state_shape(self, image_shape):
        return (self._copies * image_shape[0], *image_shape[1:])

    transition = drift = diffusion = prior_factor = log_snr = time_of = None


Made.__abstractmethods__ = frozenset()


def dense(operator: Operator, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a single-time operator on flattened states."""
    size = math.prod(shape)
    return operator.apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, size).T


def log_density(u: Tensor, process: Process, t: Tensor, images: Tensor, weights: Tensor, stds: Tensor) -> Tensor:
    """log p(u) of whole images, from dense covariance matrices."""
    a = dense(process.signal(t), u.shape[1:])
    noise = dense(process.factor(t).covariance(), u.shape[1:])
    terms = []
    for image, weight, std in zip(images, weights / weights.sum(), stds, strict=True):
        mean = a @ process.lift(image[None]).flatten()
        law = torch.distributions.MultivariateNormal(mean, std**2 * a @ a.T + noise)
        terms.append(weight.log() + law.log_prob(u.flatten(1)))
    return torch.logsumexp(torch.stack(terms), dim=0)


def processes() -> list:
    values = 0.3 + 0.6 * random.normal(1, "test/values", [0], (3, 3))[0].abs()
    block = torch.tensor([[0.7, 0.2], [-0.3, 0.6]], dtype=torch.float64)
    lower = torch.tensor([[0.5, 0.0], [0.2, 0.4]], dtype=torch.float64)
    return [
        pytest.param(VP(), U, id="vp"),
        pytest.param(Cosine(), U, id="cosine"),
        pytest.param(Made(Diagonal(values), Scalar(0.4)), U, id="diagonal"),
        pytest.param(Made(Block(block), Block(lower), copies=2), torch.cat([U, 0.5 * U.flip(0)], 1), id="block"),
    ]


@pytest.mark.parametrize(("process", "u"), processes())
def test_noise_is_the_score_of_the_mixture_and_data_explain_the_state(process, u):
    weights, stds = _f64(1.0, 2.0, 3.0, 1.0), _f64(0.1, 0.2, 0.05, 0.3)
    oracle = Mixture(process, weights, IMAGES, stds, elementwise=False)
    for t, point in zip(TIMES, oracle.prepare(TIMES, torch.float64, "cpu"), strict=True):
        state = u.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_density(state, process, t, IMAGES, weights, stds).sum(), state)
        prediction = oracle(u, point)
        expected = -process.factor(t).transpose().apply(score)
        torch.testing.assert_close(prediction.noise, expected, rtol=1e-9, atol=1e-10)
        explained = process.marginal(t).perturb(prediction.data, prediction.noise)
        torch.testing.assert_close(explained, u, rtol=1e-10, atol=1e-10)


def test_pixels_that_draw_for_themselves():
    process = VP()
    oracle = Mixture(process, WEIGHTS, MEANS, STDS)
    w, mu, std = (_f64(*values) for values in (WEIGHTS, MEANS, STDS))
    for t, point in zip(TIMES, oracle.prepare(TIMES, torch.float64, "cpu"), strict=True):
        alpha, sigma = process.signal(t).value, process.factor(t).value
        variance = alpha**2 * std**2 + sigma**2
        state = U.clone().requires_grad_()
        terms = w.log() - 0.5 * variance.log() - 0.5 * (state[..., None] - alpha * mu) ** 2 / variance
        (score,) = torch.autograd.grad(torch.logsumexp(terms, -1).sum(), state)
        torch.testing.assert_close(oracle(U, point).noise, -sigma * score, rtol=1e-12, atol=1e-12)


def test_position_and_velocity_of_a_pixel_draw_together():
    """A mixture per pixel on a 2x2 process is a mixture over whole images of one pixel."""
    _, _, _, made = processes()
    process = made.values[0]
    each, whole = Mixture(process, WEIGHTS, MEANS, STDS), Mixture(process, WEIGHTS, MEANS, STDS, False, (1, 1, 1))
    state = torch.cat([U, U.flip(0)], 1)
    point, single = (oracle.prepare(TIMES[:1], torch.float64, "cpu")[0] for oracle in (each, whole))
    found = each(state, point)
    pixel = torch.stack([state[:, 1, 2, 0], state[:, 3, 2, 0]], 1)[:, :, None, None]
    expected = whole(pixel, single)
    torch.testing.assert_close(found.data[:, [1, 3], 2, 0], expected.data[:, :, 0, 0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.noise[:, [1, 3], 2, 0], expected.noise[:, :, 0, 0], rtol=1e-12, atol=1e-13)


def test_a_finite_data_set_is_a_mixture_without_width():
    process, labels = VP(), torch.tensor([0, 1, 1, 0])
    finite = Finite(process, IMAGES, labels)
    whole = Mixture(process, [1.0] * 4, IMAGES, [0.0] * 4, elementwise=False)
    ones = Mixture(process, [1.0] * 2, IMAGES[1:3], [0.0] * 2, elementwise=False)
    points = (oracle.prepare(TIMES, torch.float64, "cpu") for oracle in (finite, whole, ones))
    for a, b, c in zip(*points, strict=True):
        for conditions, expected in ((None, whole(U, b)), (-1, whole(U, b)), (1, ones(U, c))):
            labelled = Conditions() if conditions is None else Conditions(labels=torch.full((5,), conditions))
            found = finite(U, a, labelled)
            torch.testing.assert_close(found.data, expected.data, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found.noise, expected.noise, rtol=1e-9, atol=1e-9)
    assert "unconditional" in finite.gives
    assert "unconditional" not in Finite(process, IMAGES).gives


def test_a_data_set_larger_than_a_chunk_gives_the_same(monkeypatch):
    process = VP()
    finite = Finite(process, IMAGES, torch.tensor([0, 0, 1, 1]))
    (point,) = finite.prepare(TIMES[1:2], torch.float64, "cpu")
    conditions = Conditions(labels=torch.tensor([1, 1, 0, -1, 0]))  # class 1 is not in the first chunk
    expected = finite(U, point, conditions).data
    monkeypatch.setattr("diffexp.prediction.oracle.finite._CHUNK", 1)
    torch.testing.assert_close(finite(U, point, conditions).data, expected, rtol=1e-12, atol=1e-13)
    assert finite.evaluations == 10


def test_float32_states_are_answered_in_float64_arithmetic():
    oracle = Mixture(VP(), WEIGHTS, MEANS, STDS)
    time = torch.tensor([1e-5], dtype=torch.float64)
    (low,), (high,) = (oracle.prepare(time, dtype, "cpu") for dtype in (torch.float32, torch.float64))
    narrow = U.float()
    found, exact = oracle(narrow, low), oracle(narrow.double(), high)
    assert found.data.dtype == torch.float32
    torch.testing.assert_close(found.noise, exact.noise.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [(([1.0], [0.0, 1.0], [1.0]), "same length"), (([0.0], [0.0], [1.0]), "weights > 0"), (([], [], []), "at least 1")],
)
def test_numbers_that_are_no_mixture_are_refused(numbers, said):
    with pytest.raises(ConfigError, match=said):
        Mixture(VP(), *numbers)


def test_a_process_that_couples_the_pixels_has_no_mixture_for_each():
    process = processes()[2].values[0]
    with pytest.raises((ConfigError, ValueError)):
        Mixture(process, WEIGHTS, MEANS, STDS).prepare(TIMES[:1], torch.float64, "cpu")
    with pytest.raises(ConfigError, match="whole images needs their shape"):
        Mixture(process, WEIGHTS, MEANS, STDS, elementwise=False)
