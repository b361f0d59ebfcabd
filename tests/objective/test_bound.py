"""Terms of the variational bound against the Kullback-Leibler divergence of the two Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffexp.objective.bound import step_bits
from diffexp.process.cosine import Cosine
from diffexp.process.ve import VE
from diffexp.process.vp import VP

T = torch.tensor([0.9, 0.5, 0.30012], dtype=torch.float64)
S = torch.tensor([0.7, 0.25, 0.3], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(3, 2, 2, 2)
GUESS = X + 0.1 * torch.cos(5.0 * X)
U = torch.sin(3.0 * X)


@pytest.mark.parametrize("process", [VP(), Cosine(), VE()], ids=lambda process: process.name)
@pytest.mark.parametrize(("variance", "f"), [("small", None), ("large", None), ("medium", 0.3)])
def test_bits_are_the_divergence_of_the_two_reverse_laws(process, variance, f):
    a, b = (process.signal(x).value.reshape(3, 1, 1, 1) for x in (T, S))
    v, w = (process.factor(x).value.reshape(3, 1, 1, 1) ** 2 for x in (T, S))
    step = v - (a / b) ** 2 * w  # variance of u_t given u_s
    small = step * w / v
    own = {"small": small, "large": step, "medium": small ** (1 - (f or 0)) * step ** (f or 0)}[variance]

    def mean(x):
        return (a / b) * w / v * U + b * step / v * x  # Bayes' rule for N(b x, w) and N((a / b) u_s, step)

    law = kl_divergence(Normal(mean(X), small.sqrt()), Normal(mean(GUESS), own.sqrt()))
    expected = law.flatten(1).mean(1) / math.log(2.0)
    found = step_bits(process, T, S, X, GUESS, variance, f)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_a_perfect_guess_with_the_own_variance_costs_nothing():
    assert step_bits(VP(), T, S, X, X).tolist() == [0.0, 0.0, 0.0]
