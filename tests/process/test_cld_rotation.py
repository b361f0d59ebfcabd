"""gDDIM's factor R of critically damped Langevin diffusion, by one integral, against what defines it."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process import cld_angle
from diffexp.process.cld import CLD
from tests.process.test_cld import PROCESSES, TIMES, derivative, every_process, f64, scaled


def rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def pull(process: CLD, t: Tensor) -> Tensor:
    """F + G G^T Sigma^-1 / 2."""
    gain = process.diffusion(t).covariance() @ process.factor(t).covariance().inverse()
    return (process.drift(t) + 0.5 * gain).values


@every_process
def test_r_is_a_factor_turned_from_the_cholesky_factor(process):
    r, lower = process.factor(TIMES, "R"), process.factor(TIMES, "cholesky")
    sigma = lower.covariance().values
    assert scaled(r.covariance().values, sigma, sigma) < 2e-15
    turn = torch.linalg.solve_triangular(lower.values, r.values, upper=False)
    torch.testing.assert_close(turn, rotation(process.angle(TIMES)), rtol=0, atol=1e-13)


@every_process
def test_r_solves_its_equation(process):
    """dR/dt = (F + G G^T Sigma^-1 / 2) R, gDDIM's eq. 17, from the diagonal root of Sigma_0."""
    r = process.factor(TIMES).values
    wanted = pull(process, TIMES) @ r
    assert scaled(derivative(lambda t: process.factor(t).values, TIMES), wanted, wanted) < 1e-9
    start = process.factor(f64(0.0)).values[0]
    assert float(start[0, 1]) == float(start[1, 0]) == 0.0
    assert bool((start.diagonal() > 0.0).all())


@every_process
def test_angle_falls(process):
    t = torch.cat([f64(0.0), torch.logspace(-9, 0, 400, dtype=torch.float64)])
    assert bool((process.angle(t).diff() < 0.0).all())
    assert float(process.angle(f64(0.0))) == 0.0


@pytest.mark.parametrize("settings", [{}, {"eps": 1e-9, "gamma": 0.5}, {"velocity": "dsm", "eps": 1e-5}], ids=str)
def test_angle_is_its_integral(settings):
    """Against adaptive quadrature with 30 digits of the textbook forms."""
    process = CLD(**settings)
    eps, v = mpmath.mpf(process.eps), mpmath.mpf(0 if process.velocity == "dsm" else process.gamma) / 4

    def rate(b):
        y = 2 * b
        psi = mpmath.exp(-y) * mpmath.matrix([[1 + y, 4 * b], [-b, 1 - y]])
        sigma = psi * mpmath.diag([eps - 1, v + eps - mpmath.mpf(1) / 4]) * psi.T + mpmath.diag([1, mpmath.mpf(1) / 4])
        return -4 * mpmath.sqrt(mpmath.det(sigma)) / sigma[0, 0]

    with mpmath.workdps(40):
        edges = [0, *[4 * mpmath.mpf(2) ** -k for k in range(30, -1, -1)]]
        wanted = mpmath.quad(rate, edges)
    assert float(process.angle(f64(1.0))) == pytest.approx(float(wanted), abs=2e-13)


def test_more_nodes_change_nothing(monkeypatch):
    """12 nodes a panel are exact, however small the start variance; all times, also within panels."""
    t = torch.cat([torch.logspace(-12, 0, 97, dtype=torch.float64), torch.linspace(0, 1, 41, dtype=torch.float64)])
    cases = [CLD(eps=eps, gamma=gamma) for eps in (1e-3, 1e-6, 1e-12) for gamma in (0.0, 1e-4, 0.04, 1.0)]
    cases += [CLD(eps=0.0), CLD(eps=0.0, gamma=1e-12), CLD(m_inv=100.0, beta0=20.0), CLD(m_inv=0.3), *PROCESSES]
    coarse = [process.angle(t) for process in cases]
    monkeypatch.setattr(cld_angle, "_NODES", 40)
    for process, found in zip(cases, coarse, strict=True):
        vars(process).pop("_angle")
        torch.testing.assert_close(process.angle(t), found, rtol=1e-13, atol=1e-13)


def test_noise_estimates_of_both_factors_are_turned():
    """One score: eps_L = L^T R^-T eps_R = Rot(theta) eps_R, of the same length."""
    process = CLD()
    turn = process.factor(TIMES, "cholesky").transpose() @ process.factor(TIMES).transpose().inverse()
    torch.testing.assert_close(turn.values, rotation(process.angle(TIMES)), rtol=0, atol=1e-12)


@every_process
def test_propagators_of_the_reverse_family(process):
    """R_t R_s^-1 obeys lambda = 0's equation, Sigma_t Psi(s, t)^T Sigma_s^-1 that of lambda = 1."""
    s = f64(0.5)
    t = f64(0.05, 0.2, 0.45)
    here = process.factor(s)
    still = derivative(lambda x: (process.factor(x) @ here.inverse()).values, t)
    wanted = pull(process, t) @ (process.factor(t) @ here.inverse()).values
    assert scaled(still, wanted, wanted) < 1e-9

    def bayes(x: Tensor) -> Tensor:
        gain = process.transition(s, x).transpose() @ here.covariance().inverse()
        return (process.factor(x).covariance() @ gain).values

    both = process.drift(t).values + 2.0 * (pull(process, t) - process.drift(t).values)
    wanted = both @ bayes(t)
    assert scaled(derivative(bayes, t), wanted, wanted) < 1e-8
    noise = process.factor(t).covariance().values - bayes(t) @ here.covariance().values @ bayes(t).mT
    given = process.posterior_factor(s.expand_as(t), t).covariance().values
    assert scaled(given, noise, process.factor(t).covariance().values) < 1e-12


@every_process
def test_data_at_one_point_have_constant_noise(process):
    """u = Psi(t, 0) [x0; 0] + R_t e solves du = (F u - G G^T score / 2) dt with score = -R^-T e (gDDIM, prop. 4)."""
    u0, e = f64(0.7, 0.0), f64(-0.3, 1.1)

    def path(t: Tensor) -> Tensor:
        return (process.signal(t).values @ u0 + process.factor(t).values @ e)[..., None]

    score = -process.factor(TIMES).transpose().inverse().values @ e
    half = 0.5 * process.diffusion(TIMES).covariance().values
    flow = (process.drift(TIMES).values @ path(TIMES))[..., 0] - (half @ score[..., None])[..., 0]
    found = derivative(path, TIMES)[..., 0]
    assert float(((found - flow).abs() / flow.abs().amax(1, keepdim=True)).max()) < 1e-9


@pytest.mark.parametrize(("settings", "said"), [
    ({"eps_rule": "added"}, r"process\.eps_rule=added: no factor R, .*use process\.eps_rule=transported"),
    ({"eps": 0.0, "velocity": "dsm"}, r"no factor R when the noise starts without any variance.*use process\.eps > 0"),
    ({"eps": 0.0, "gamma": 0.0}, r"no factor R when the noise starts without any variance"),
])  # fmt: skip
def test_no_r_without_an_equation_or_a_start(settings, said):
    process = CLD(**settings)
    with pytest.raises(ConfigError, match=said):
        process.factor(TIMES, "R")
    assert bool(process.factor(TIMES, "cholesky").values.isfinite().all())


def test_added_variance_breaks_the_equation_by_its_size():
    """Which is why R and posteriors are refused: Sigma_t is not what is moved plus what is added, but nearly."""
    process = CLD(eps=1e-4, eps_rule="added")
    t, s = f64(0.5), f64(0.3)
    moved = process.transition(t, s) @ process.factor(s, "cholesky")
    whole = moved.covariance() + process.transition_factor(t, s).covariance()
    gap = (process.factor(t, "cholesky").covariance() - whole).values.abs().max()
    assert 1e-5 < float(gap) < 1e-4
    for ask in (process.posterior, process.posterior_factor):
        with pytest.raises(ConfigError, match="eps_rule=added: no posterior between two times"):
            ask(t, s, "cholesky")
    plain = CLD(eps=0.0, eps_rule="added")
    assert torch.equal(plain.factor(TIMES).values, CLD(eps=0.0).factor(TIMES).values)


@pytest.mark.parametrize("settings", [{}, {"velocity": "dsm"}, {"m_inv": 2.0, "beta1": 3.0}], ids=str)
def test_mixture_oracle_gives_the_score(settings):
    """Positions of a mixture, velocities at rest (or normal, dsm): against the gradient of the log density."""
    process, t = CLD(**settings), f64(0.9, 0.3, 0.02)
    w, mu, std = f64(0.3, 0.7), f64(-0.6, 0.5), f64(0.15, 0.3)
    oracle = Mixture(process, w, mu, std)
    u = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for time, point in zip(t, oracle.prepare(t, torch.float64, "cpu"), strict=True):
        psi, factor = process.signal(time).values, process.factor(time)
        state = u.clone().requires_grad_()
        terms = []
        for share, mean, spread in zip(w, mu, std, strict=True):
            data = torch.diag(f64(float(spread) ** 2, process.velocity_std**2))
            variance = psi @ data @ psi.T + factor.covariance().values
            law = torch.distributions.MultivariateNormal(mean * psi[:, 0], variance)
            terms.append(share.log() + law.log_prob(state.movedim(1, -1)))
        (score,) = torch.autograd.grad(torch.logsumexp(torch.stack(terms), 0).sum(), state)
        found = oracle(u, point)
        torch.testing.assert_close(found.noise, -factor.transpose().apply(score), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(process.marginal(time).perturb(found.data, found.noise), u, rtol=1e-9, atol=1e-9)
        if process.velocity == "hsm":
            assert not bool(found.data[:, 1].any())  # data are at rest, whatever the state


def test_angle_of_the_published_process():
    """gDDIM's R at t = 1 (m_inv 4, beta 4, gamma 0.04, eps 1e-6) to the printed digits: it is far from diagonal."""
    wanted = f64(0.9966, -0.0821, 0.0410, 0.4983).reshape(2, 2)
    torch.testing.assert_close(CLD().factor(f64(1.0)).values[0], wanted, rtol=0, atol=5e-5)
    turns = float(CLD().angle(f64(1.0))) / (2 * math.pi)
    assert -3.0 < turns < -1.0
