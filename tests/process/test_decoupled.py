"""Decoupled processes: attenuations, the law that they make, and DDM's posterior against Brownian bridges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.objective.batch import drawn_image
from diffexp.process.attenuation import Attenuation, Constant, Linear, Quadratic
from diffexp.process.base import second_image
from diffexp.process.decoupled import Decoupled
from diffexp.process.vp import VP

T = torch.tensor([0.0, 1e-4, 0.137, 0.5, 0.9, 1.0], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 6 * 2 * 2 * 2, dtype=torch.float64).reshape(6, 2, 2, 2)
E, K = torch.cos(7.0 * X), torch.sin(11.0 * X)


class Cosine(Attenuation):
    """A user's function, of two parameters: H_t = t C + (1 - cos(pi t / 2)) D with C = D = -x0 / 2."""

    name = "cosine"
    names = ("C", "D")
    of_data = (-0.5, -0.5)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return t, 1.0 - torch.cos(0.5 * math.pi * t)


ATTENUATIONS = [Constant(), Linear(), Quadratic(), Cosine()]
each = pytest.mark.parametrize("attenuation", ATTENUATIONS, ids=lambda found: found.name)


@each
@pytest.mark.parametrize("noise", ["sqrt", "linear"])
def test_the_law_is_the_image_with_its_attenuation_and_noise(attenuation, noise):
    process = Decoupled(attenuation, noise)
    sigma = T.sqrt() if noise == "sqrt" else T
    drawn = K if process.drawn else None
    phi = attenuation.parameters(X, drawn)
    assert phi.shape == (6, 2 * attenuation.n_params, 2, 2)
    wanted = X + attenuation.H(T, phi) + sigma.reshape(-1, 1, 1, 1) * E
    torch.testing.assert_close(process.marginal(T).perturb(X, E, drawn), wanted, rtol=0, atol=1e-15)
    assert torch.equal(process.marginal(T).perturb(X, E, drawn)[0], X[0])
    assert torch.equal(process.marginal(T).perturb(X, E, drawn)[-1], E[-1])


def test_levels_are_those_of_the_papers_table():
    """(1 - t), (1 - t) and -t (1 - t) / 2, and 1 - t^2."""
    inner = T[:-1]
    torch.testing.assert_close(Decoupled(Constant()).signal(inner).value, 1 - inner, rtol=1e-15, atol=0)
    linear = Decoupled(Linear())
    torch.testing.assert_close(linear.signal(inner).value, 1 - inner, rtol=1e-15, atol=0)
    torch.testing.assert_close(linear.auxiliary(inner).value, -inner * (1 - inner) / 2, rtol=1e-15, atol=1e-17)
    torch.testing.assert_close(Decoupled(Quadratic()).signal(inner).value, 1 - inner**2, rtol=1e-15, atol=0)
    for attenuation in ATTENUATIONS:
        process = Decoupled(attenuation)
        assert float(process.signal(T).value[-1]) == 0.0
        assert process.drawn == (process.auxiliary(T) is not None)


@each
def test_rates_are_the_slopes_also_where_gradients_are_off(attenuation):
    t, h = torch.tensor([0.2, 0.6], dtype=torch.float64), 1e-4
    with torch.no_grad():
        rates = attenuation.rates(t)
    for rate, up, down in zip(rates, attenuation.coefficients(t + h), attenuation.coefficients(t - h), strict=True):
        torch.testing.assert_close(rate, (up - down) / (2 * h), rtol=1e-7, atol=0)


@each
def test_parameters_say_what_image_and_drawn_image_were(attenuation):
    drawn = K if attenuation.of_drawn else None
    phi = attenuation.parameters(X, drawn).chunk(attenuation.n_params, dim=1)
    found = [sum(w * part for w, part in zip(row, phi, strict=True)) for row in attenuation.inverse]
    for image, wanted in zip(found, [X] if drawn is None else [X, drawn], strict=True):
        torch.testing.assert_close(image, wanted, rtol=0, atol=1e-15)
    if drawn is not None:
        with pytest.raises(ValueError, match="draws an image with the data"):
            attenuation.parameters(X)


def test_the_drawn_image_is_clipped_noise_keyed_by_its_place():
    process, batch = Decoupled(Linear()), {"image": torch.zeros(64, 1, 20, 20), "position": torch.arange(64)}
    drawn = drawn_image(process, batch, 3)
    assert float(drawn.abs().max()) == 1.0
    share = float((drawn.abs() == 1.0).double().mean())
    assert share == pytest.approx(0.3173, abs=0.01)
    assert float(drawn.square().mean()) == pytest.approx(process.attenuation.drawn_variance, abs=0.02)
    assert process.attenuation.drawn_variance == pytest.approx(0.516058, abs=1e-6)
    part = {"image": batch["image"][5:7], "position": batch["position"][5:7]}
    assert torch.equal(drawn_image(process, part, 3), drawn[5:7])
    assert not torch.equal(drawn_image(process, batch, 4), drawn)
    assert drawn_image(Decoupled(Constant()), batch, 3) is None
    assert drawn_image(VP(), batch, 3) is None


@each
@pytest.mark.parametrize("noise", ["sqrt", "linear"])
def test_one_reverse_step_keeps_the_marginal(attenuation, noise):
    """K e + C z has the variance sigma_s^2, and is all of sigma_t e for s = t (DDM, identities 4 and 2)."""
    process, t = Decoupled(attenuation, noise), T[1:]
    for share in (1e-3, 0.4, 0.999999, 1.0):
        s = share * t
        keep, fresh = (found.value for found in process.noise_posterior(t, s))
        torch.testing.assert_close(keep**2 + fresh**2, process.factor(s).value ** 2, rtol=1e-14, atol=0)
        torch.testing.assert_close(keep * process.sigma(t), process.sigma(s) ** 2, rtol=1e-14, atol=0)
    assert bool((fresh == 0.0).all())
    assert bool((process.noise_posterior(t, 0.0 * t)[0].value == 0.0).all())


def test_new_noise_of_close_times_keeps_its_digits():
    """sqrt(s (t - s) / t) and sqrt(2 h t - h^2) (t - h) / t of the specification, for a gap of 1e-12."""
    t, h = torch.tensor(0.75, dtype=torch.float64), 2.0**-40
    wiener = float(Decoupled(Constant()).noise_posterior(t, t - h)[1].value)
    assert wiener == pytest.approx(math.sqrt((0.75 - h) * h / 0.75), rel=1e-14)
    line = float(Decoupled(Constant(), "linear").noise_posterior(t, t - h)[1].value)
    assert line == pytest.approx(math.sqrt(2 * h * 0.75 - h * h) * (0.75 - h) / 0.75, rel=1e-14)


def test_sampling_may_start_where_there_is_a_signal():
    process = Decoupled(Constant(), t_prior=0.999)
    assert process.t_prior == 0.999
    assert float(process.prior_factor().value) == pytest.approx(math.sqrt(0.999), rel=1e-15)
    assert float(Decoupled(Constant()).prior_factor().value) == 1.0
    assert [Decoupled(Constant(), noise).name for noise in ("sqrt", "linear")] == ["ddm_const", "ddm_const_t"]


def made(coefficients=lambda t: (t,), **words) -> Attenuation:
    body = {"name": "own", "of_data": (-1.0,), "coefficients": lambda self, t: coefficients(t), **words}
    return type("Own", (Attenuation,), body)()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (made(of_data=(-0.9,)), r"process\.attenuation=Own: x0 \+ H_1 must be 0, but 1 \+ sum h_j\(1\) m_j = 0\.1"),
        (made(of_drawn=(0.5,)), r"x0 \+ H_1 must be 0, but sum h_j\(1\) k_j = 0\.5"),
        (made(lambda t: (t.new_ones(t.shape),)), "H_0 must be 0"),
        (made(lambda t: (3 * t - 2 * t**2,)), r"nothing is left of the image at t = 0\.5 already"),
        (made(names=("C", "D")), "one entry for each parameter"),
        (made(lambda t: (t, t)), "one entry for each parameter"),
        (made(lambda t: (t, t * (1 - t)), names=("C", "K"), of_data=(-1.0, 0.0), of_drawn=(0.0, 0.0)), "apart"),
    ],
    ids=lambda value: value if isinstance(value, str) else "own",
)
def test_what_does_not_take_every_image_to_zero_is_refused(own, said):
    with pytest.raises(ConfigError, match=said):
        Decoupled(own)


def test_other_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"process\.t_prior=0\.0: must lie in"):
        Decoupled(Constant(), t_prior=0.0)
    with pytest.raises(ValueError, match="second image"):
        Decoupled(Linear()).marginal(T).perturb(X, E)
    with pytest.raises(ValueError, match="give y"):
        second_image(None)
