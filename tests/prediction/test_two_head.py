"""Two heads and one on decoupled processes: what targets mean, unit variances, consistency, and clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import SNR, Plain
from diffexp.objective.weighting import Constant as ConstantWeight
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps, V
from diffexp.prediction.preconditioned import EDM
from diffexp.prediction.redundant import ClippedHeads
from diffexp.prediction.time_input import time_input
from diffexp.prediction.two_head import SingleHead, TwoHead
from diffexp.prediction.wrapper import Clipped
from diffexp.process.attenuation import Attenuation, Constant, Linear, Quadratic
from diffexp.process.decoupled import Decoupled
from diffexp.process.vp import VP

T = torch.tensor([1e-4, 0.05, 0.4, 1.0], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 4 * 2 * 3 * 3, dtype=torch.float64).reshape(4, 2, 3, 3)
E, K = torch.cos(7.0 * X), torch.sin(11.0 * X)


class Shared(Attenuation):
    """Two parameters for one image: H = (t C + t^2 D), C = -x0 / 4, D = -3 x0 / 4."""

    name = "shared"
    names = ("C", "D")
    of_data = (-0.25, -0.75)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return t, t.square()


CASES = [
    (Decoupled(Constant()), "v1"),
    *[
        (Decoupled(attenuation, noise), precondition)
        for attenuation in (Constant(), Linear(), Quadratic(), Shared())
        for noise in ("sqrt", "linear")
        for precondition in ("optimal", "none")
    ],
]
each = pytest.mark.parametrize(("process", "precondition"), CASES, ids=[f"{p.name}-{how}" for p, how in CASES])
both = pytest.mark.parametrize("kind", [TwoHead, SingleHead])


def perturbed(process: Decoupled, t: Tensor = T) -> tuple[Tensor, Tensor | None]:
    drawn = K if process.drawn else None
    return process.marginal(t).perturb(X, E, drawn), drawn


def saying(head, process, u: Tensor, drawn: Tensor | None) -> Tensor:
    """The output whose heads are exact, where they determine it."""
    law = process.marginal(T)
    target = head.target(law, X, E, u, drawn)
    outs = torch.stack([out for _, out in head.coefficients(law).heads][: head.outputs], 1)
    scaled = target.unflatten(1, (head.outputs, -1)) / outs[..., None, None, None]
    return torch.nan_to_num(scaled, posinf=0.0, neginf=0.0).flatten(1, 2)


@both
@each
def test_exact_outputs_mean_the_image_its_parameters_and_the_noise(process, precondition, kind):
    head = kind(precondition).on(process)
    head.check(process)
    assert head.outputs == process.attenuation.n_params + (kind is TwoHead)
    (u, drawn), law = perturbed(process), process.marginal(T)
    output = saying(head, process, u, drawn)
    assert output.shape[1] == head.out_channels(2)
    form, parts = head.form(law), (u, *head.split(output))
    torch.testing.assert_close(form.data(parts), X, rtol=0, atol=1e-12)
    torch.testing.assert_close(form.noise(parts), E, rtol=0, atol=1e-11)
    phi, noise = head.heads(law.cast(torch.float64, "cpu"), output, u)
    torch.testing.assert_close(phi, process.attenuation.parameters(X, drawn), rtol=0, atol=1e-12)
    torch.testing.assert_close(noise, E, rtol=0, atol=1e-11)
    assert torch.equal(torch.cat([said(parts) for said in form.parameters], 1), phi)
    if drawn is not None:
        torch.testing.assert_close(form.drawn(parts), K, rtol=0, atol=1e-12)
    assert float(head.error(law, output, head.target(law, X, E, u, drawn)).abs().max()) < 1e-12


@both
@each
def test_data_and_noise_of_any_output_explain_the_state(process, precondition, kind):
    """u = A x^ + B K^ + L e^, and u = x^ + H(phi^) + sigma n^ with the heads as they are."""
    head = kind(precondition).on(process)
    (u, _), law = perturbed(process), process.marginal(T)
    output = torch.sin(3.0 * torch.cat([X, 0.7 * X, X - 0.2], 1))[:, : head.out_channels(2)]
    form, parts = head.form(law), (u, *head.split(output))
    drawn = form.drawn(parts) if process.drawn else None
    again = law.perturb(form.data(parts), form.noise(parts), drawn)
    torch.testing.assert_close(again, u, rtol=0, atol=1e-12)
    phi, noise = head.heads(law.cast(torch.float64, "cpu"), output, u)
    whole = form.data(parts) + process.attenuation.H(T, phi) + law.factor.apply(noise)
    if kind is TwoHead or process.attenuation.n_params == len(process.attenuation.inverse):
        torch.testing.assert_close(whole, u, rtol=0, atol=1e-11)
    if kind is SingleHead:
        torch.testing.assert_close(noise, form.noise(parts), rtol=0, atol=0)


@pytest.mark.parametrize("attenuation", [Constant(), Linear(), Quadratic(), Shared()], ids=lambda found: found.name)
@pytest.mark.parametrize("noise", ["sqrt", "linear"])
def test_optimal_inputs_and_targets_have_unit_variance(attenuation, noise):
    """For x0 ~ N(0, 1), K of variance kappa and e ~ N(0, 1), by covariances written out as matrices."""
    process, t = Decoupled(attenuation, noise), torch.tensor([0.03, 0.4, 0.97], dtype=torch.float64)
    head, law = TwoHead().on(process), process.marginal(t)
    found = head.coefficients(law)
    kappa = process.attenuation.drawn_variance
    spread = torch.diag(torch.tensor([1.0, kappa, 1.0], dtype=torch.float64))
    b = torch.zeros_like(t) if law.auxiliary is None else law.auxiliary.value
    state = torch.stack([law.signal.value, b, law.factor.value], 1)
    rows = [torch.tensor([m, k, 0.0], dtype=torch.float64) for m, k in attenuation.shares]
    rows.append(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    for row, (skip, out) in zip(rows, found.heads, strict=True):
        left = (row - skip[:, None] * state) / out[:, None]  # F, as a combination of x0, K and e
        torch.testing.assert_close((left @ spread * left).sum(1), torch.ones_like(t), rtol=1e-12, atol=0)
        shown = found.scale[:, None] * state
        torch.testing.assert_close((shown @ spread * shown).sum(1), torch.ones_like(t), rtol=1e-14, atol=0)
        torch.testing.assert_close((left @ spread * shown).sum(1), torch.zeros_like(t), rtol=0, atol=1e-13)


def test_coefficients_are_the_tables_of_both_codes():
    """Section 5 of the specification: V1, V2c and V2t, written out."""
    t = torch.tensor([1e-4, 0.3, 1.0], dtype=torch.float64)
    v, w = t**2 - t + 1, t**2 + (1 - t) ** 2
    tables = [
        ("v1", "sqrt", (1 + t) ** -0.5, (t - 1, t / (1 + t).sqrt()), (t.sqrt(), ((1 - t) / (1 + t)).sqrt())),
        ("optimal", "sqrt", v**-0.5, ((t - 1) / v, (t / v).sqrt()), (t.sqrt() / v, (1 - t) / v.sqrt())),
        ("optimal", "linear", w**-0.5, ((t - 1) / w, t / w.sqrt()), (t / w, (1 - t) / w.sqrt())),
    ]
    for how, noise, scale, image, other in tables:
        found = TwoHead(how).coefficients(Decoupled(Constant(), noise).marginal(t))
        torch.testing.assert_close(found.scale, scale, rtol=1e-14, atol=0)
        for (skip, out), (wanted_skip, wanted_out) in zip(found.heads, (image, other), strict=True):
            torch.testing.assert_close(skip, wanted_skip, rtol=1e-12, atol=0)
            torch.testing.assert_close(out, wanted_out, rtol=1e-12, atol=0)


@pytest.mark.parametrize("how", ["v1", "optimal"])
def test_at_the_prior_the_state_is_the_noise_whatever_the_network_says(how):
    process = Decoupled(Constant())
    head = TwoHead(how).on(process)
    law = process.marginal(torch.ones(4, dtype=torch.float64)).cast(torch.float32, "cpu")
    u, output = E.float(), torch.cat([K, X], 1).float()
    assert torch.equal(head.heads(law, output, u)[1], u)


def test_the_single_head_keeps_its_digits_in_float32_near_the_data():
    """(u - (1 - t) x^) / t with x^ = -C at t = 1e-3: written as a difference it would lose three digits."""
    process = Decoupled(Constant(), "linear")
    head, t = SingleHead().on(process), torch.full((4,), 1e-3, dtype=torch.float64)
    law, (u, _) = process.marginal(t), perturbed(process, torch.full((4,), 1e-3, dtype=torch.float64))
    output = torch.sin(5.0 * X)
    exact = head.heads(law.cast(torch.float64, "cpu"), output, u)[1]
    found = head.heads(law.cast(torch.float32, "cpu"), output.float(), u.float())[1]
    assert float((found - exact).abs().max()) < 2e-7 * 1e3


def test_the_networks_input_is_scaled_and_told_the_logarithm_of_time():
    class Recorder(nn.Module):
        def forward(self, u, time, labels=None):
            self.seen = u, time
            return torch.cat([u, u], 1)

    network, process = Recorder(), Decoupled(Constant())
    denoiser = NetworkDenoiser(network, TwoHead("v1"), process)
    (point,) = denoiser.prepare(torch.tensor([0.3], dtype=torch.float64), torch.float64, "cpu")
    denoiser(X, point)
    torch.testing.assert_close(network.seen[0], X / math.sqrt(1.3), rtol=1e-14, atol=0)
    assert network.seen[1].tolist() == pytest.approx([math.log(0.3)], rel=1e-14)
    assert bool(time_input("log_t", process, torch.zeros(1, dtype=torch.float64)).isfinite())


@pytest.mark.parametrize("process", [Decoupled(Linear()), Decoupled(Quadratic())], ids=lambda process: process.name)
@pytest.mark.parametrize("kind", [TwoHead, SingleHead])
def test_the_plain_objective_is_the_mean_squared_error_of_the_heads(process, kind):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.channels = kind().on(process).out_channels(2)

        def forward(self, u, time, labels=None):
            return torch.zeros(len(u), self.channels, *u.shape[2:], dtype=u.dtype)

    denoiser = NetworkDenoiser(Silent(), kind("none"), process)
    drawn = K if process.drawn else None
    losses = Denoising(Plain(), Uniform()).losses(denoiser, X, E, T, drawn=drawn)
    wanted = [process.attenuation.parameters(X, drawn), *([E] if kind is TwoHead else [])]
    torch.testing.assert_close(losses, torch.cat(wanted, 1).square().flatten(1).mean(1), rtol=1e-13, atol=0)
    batch = {"image": X.float(), "position": torch.arange(4)}
    assert float(Denoising(Plain(), Uniform(1e-4))(denoiser, batch, 0)) > 0.0


def test_the_squared_error_of_one_parameter_is_one_of_the_data():
    process, t = Decoupled(Quadratic()), T[1:3]
    assert SingleHead().data_weight(process, t).tolist() == [4.0, 4.0]
    Denoising(SNR(), Uniform()).check(SingleHead().on(process), process)
    for head in (TwoHead(), SingleHead().on(Decoupled(Linear()))):
        with pytest.raises(ConfigError, match=r"its heads have errors of their own.*objective=ddm_v1"):
            Denoising(ConstantWeight(), Uniform()).check(head, Decoupled(Linear()))


@pytest.mark.parametrize("process", [Decoupled(Constant()), Decoupled(Linear())], ids=lambda process: process.name)
def test_clipped_heads_are_as_predicted_but_for_the_drawn_image(process):
    class Loud(nn.Module):
        def forward(self, u, time, labels=None):
            return torch.cat([1.7 * torch.tanh(0.3 * j - u) for j in range(head.outputs)], 1)

    head = TwoHead("none").on(process)
    inner = NetworkDenoiser(Loud(), head, process)
    denoiser, t = ClippedHeads(inner), torch.tensor([0.4], dtype=torch.float64)
    (asked,), (own,) = denoiser.prepare(t, X.dtype, "cpu"), inner.prepare(t, X.dtype, "cpu")
    said, form = inner(2 * X, own), denoiser.form(process.marginal(t[0]))
    found = denoiser(2 * X, asked)
    phi, noise = said.parts[1:-1], said.parts[-1]
    kept = [said_.clamp(-1, 1) if process.drawn and j == 0 else said_ for j, said_ in enumerate(phi)]
    for combination, wanted in zip(form.parameters, kept, strict=True):
        torch.testing.assert_close(combination(found.parts), wanted, rtol=0, atol=0)
    torch.testing.assert_close(form.own_noise(found.parts), noise, rtol=0, atol=0)
    whole = 2 * X - process.attenuation.H(t, torch.cat(kept, 1)) - math.sqrt(0.4) * noise
    assert float(whole.abs().max()) > 1.1
    torch.testing.assert_close(found.data, whole.clamp(-1, 1), rtol=0, atol=1e-14)
    again = process.marginal(t).perturb(found.data, found.noise, form.drawn(found.parts) if process.drawn else None)
    torch.testing.assert_close(again, 2 * X, rtol=0, atol=1e-13)


def test_clipping_holds_a_drawn_image_in_its_bound_and_derives_the_noise():
    process = Decoupled(Linear())

    class Loud(nn.Module):
        def forward(self, u, time, labels=None):
            return torch.cat([1.7 * torch.tanh(0.3 * j - u) for j in range(3)], 1)

    denoiser, t = Clipped(NetworkDenoiser(Loud(), TwoHead("none"), process)), torch.tensor([0.4], dtype=torch.float64)
    (point,) = denoiser.prepare(t, X.dtype, "cpu")
    found = denoiser(2 * X, point)
    _, data, drawn = found.parts
    assert float(data.abs().max()) == float(drawn.abs().max()) == 1.0
    torch.testing.assert_close(process.marginal(t).perturb(data, found.noise, drawn), 2 * X, rtol=0, atol=1e-13)
    each_at = denoiser.at(t.expand(4), X.dtype, "cpu")
    assert torch.equal(denoiser(2 * X, each_at).data, data)


@pytest.mark.parametrize(
    ("head", "process", "said"),
    [
        (TwoHead(), VP(), "prediction=ddm needs a decoupled process, and vp is none: use eps, or process=ddm_const"),
        (SingleHead(), VP(), "prediction=ddm_single needs a decoupled process"),
        (TwoHead("v1"), Decoupled(Quadratic()), "precondition=v1: is made for process=ddm_const, not ddm_quadratic"),
        (
            Eps(),
            Decoupled(Constant()),
            "prediction=eps: says nothing of the data at t = 1, where process ddm_const",
        ),
        (X0(), Decoupled(Linear()), "prediction=x0: process ddm_linear draws an image with its data.*use ddm"),
        (V(), Decoupled(Constant()), "prediction=v needs"),
        (EDM(), Decoupled(Constant()), "prediction.time=quarter_log_sigma: is infinite at t = 1 on process ddm_const"),
        (X0("log_snr"), Decoupled(Quadratic()), "prediction.time=log_snr: is infinite at t = 1"),
    ],
    ids=["vp", "single", "v1", "eps", "x0", "v", "edm", "log_snr"],
)
def test_what_has_no_meaning_is_refused(head, process, said):
    with pytest.raises(ConfigError, match=said):
        NetworkDenoiser(nn.Identity(), head, process)


def test_noise_heads_are_at_home_where_sampling_starts_with_a_signal():
    for head in (Eps(), EDM(), X0("log_snr")):
        NetworkDenoiser(nn.Identity(), head, Decoupled(Constant(), t_prior=0.999))
    for head in (X0(), EDM("999t")):
        NetworkDenoiser(nn.Identity(), head, Decoupled(Constant()))
