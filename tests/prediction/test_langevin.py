"""What a silent network says in the mixed parametrisations of Langevin processes, and that targets undo it."""

from __future__ import annotations

import pytest
import torch

from diffexp.prediction.langevin import PhaseEps
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cld import CLD

T = torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
IMAGE = torch.tensor([[0.3, -0.9], [0.5, 0.1], [-0.4, 0.8]], dtype=torch.float64).reshape(3, 1, 1, 2)
NOISE = torch.tensor(
    [[0.2, 1.1, -0.7, 0.4], [-1.3, 0.6, 0.9, -0.2], [0.8, -0.5, 0.3, 1.4]], dtype=torch.float64
).reshape(3, 2, 1, 2)
CHOICES = [(mixed, factor) for mixed in (None, "velocity", "normal") for factor in ("R", "cholesky")]


@pytest.mark.parametrize("velocity", ["hsm", "dsm"])
@pytest.mark.parametrize("factor", ["R", "cholesky"])
def test_a_silent_network_states_the_posterior_of_standard_normal_data(factor, velocity):
    process = CLD(velocity=velocity)
    law, head = process.marginal(T), PhaseEps(factor=factor, mixed="normal")
    u = law.perturb(process.lift(IMAGE), NOISE)
    form, oracle = head.form(law), Mixture(process, [1.0], [0.0], [1.0])
    found = form.noise((u, torch.zeros_like(u))), form.data((u, torch.zeros_like(u)))
    for k in range(len(T)):
        (point,) = oracle.prepare(T[k : k + 1], u.dtype, "cpu")
        expected = oracle(u[k : k + 1], point)
        torch.testing.assert_close(found[0][k : k + 1], expected.noise, rtol=0, atol=1e-10)
        torch.testing.assert_close(found[1][k : k + 1], expected.data, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mixed", "factor"), CHOICES)
def test_the_target_gives_the_noise_back(mixed, factor):
    process = CLD()
    law, head = process.marginal(T), PhaseEps(factor=factor, mixed=mixed)
    x0 = process.lift(IMAGE)
    u = law.perturb(x0, NOISE)
    target = head.target(law, x0, NOISE, u)
    torch.testing.assert_close(head.form(law).noise((u, target)), NOISE, rtol=0, atol=1e-10)


def test_what_is_left_of_the_noise_vanishes_at_the_prior():
    """At t = 1 the state is noise: a network that has yet to learn is right there, and wrong without mixing."""
    process = CLD()
    law = process.marginal(torch.ones(3, dtype=torch.float64))
    x0 = process.lift(IMAGE)
    u = law.perturb(x0, NOISE)
    left = {mixed: float(PhaseEps(mixed=mixed).target(law, x0, NOISE, u).abs().max()) for mixed in (None, "normal")}
    assert left[None] > 1.0
    assert left["normal"] < 0.05
