"""Heads: each output means the same data and noise, targets and weights obey the exact relations."""

from __future__ import annotations

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser, with_second
from diffexp.prediction.form import Form
from diffexp.prediction.head import X0, Both, Eps, Score, V
from diffexp.prediction.result import Prediction
from diffexp.prediction.time_input import time_input
from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.process.cosine import Cosine
from diffexp.process.operator import Scalar
from diffexp.process.vp import VP

HEADS = [Eps(), Eps(mixed=True), X0(), V(), Score(), Both()]
NAMES = [f"{head.name}{'_mixed' if getattr(head, 'mixed', False) else ''}" for head in HEADS]
T = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(3, 2, 2, 2)
E = torch.cos(7.0 * X)


def predict(head, u, marginal, output) -> Prediction:
    form = head.form(marginal)
    return Prediction((u, *head.split(output)), form.data, form.noise)


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
@pytest.mark.parametrize("process", [VP(), Cosine()], ids=["vp", "cosine"])
def test_the_target_means_the_data_and_noise_it_was_made_of(head, process):
    marginal = process.marginal(T)
    u = marginal.perturb(X, E)
    target = head.target(marginal, X, E, u)
    assert target.shape[1] == head.out_channels(X.shape[1])
    prediction = predict(head, u, marginal, target)
    torch.testing.assert_close(prediction.data, X, rtol=0, atol=1e-9)
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-9)


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_data_and_noise_of_any_output_explain_the_state(head):
    """u = A x^ + L e^ whatever the network says, also at the ends, where naive forms divide by nearly nothing."""
    process = Cosine()
    marginal = process.marginal(torch.tensor([1e-4, 0.5, 1.0 - 1e-4], dtype=torch.float64))
    u = marginal.perturb(X, E)
    output = torch.sin(3.0 * torch.cat([X, X], 1))[:, : head.out_channels(2)]
    prediction = predict(head, u, marginal, output)
    torch.testing.assert_close(marginal.perturb(prediction.data, prediction.noise), u, rtol=0, atol=1e-11)


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
@pytest.mark.parametrize("process", [VP(), Cosine()], ids=["vp", "cosine"])
def test_the_errors_of_heads_are_tied_by_the_signal_to_noise_ratio(head, process):
    """Squared error of the output = data_weight times squared error of the data it implies."""
    marginal = process.marginal(T)
    u = marginal.perturb(X, E)
    target = head.target(marginal, X, E, u)
    output = target + 0.1 * torch.sin(3.0 * torch.cat([X, 0.7 * X], 1))[:, : target.shape[1]]
    own = head.error(marginal, output, target).square().flatten(1).sum(1)
    data = (predict(head, u, marginal, output).data - X).square().flatten(1).sum(1)
    torch.testing.assert_close(own, head.data_weight(process, T) * data, rtol=1e-8, atol=0)


def test_velocity_is_the_rotated_pair():
    marginal = Cosine().marginal(T)
    alpha, sigma = (op.value.reshape(3, 1, 1, 1) for op in (marginal.signal, marginal.factor))
    expected = alpha * E - sigma * X
    torch.testing.assert_close(V().target(marginal, X, E, X), expected, rtol=1e-15, atol=1e-15)


def test_a_silent_mixed_network_states_the_posterior_of_standard_normal_data():
    """x^ = alpha u, e^ = sigma u for x0 ~ N(0, 1)."""
    marginal = VP().marginal(T)
    prediction = predict(Eps(mixed=True), X, marginal, torch.zeros_like(X))
    torch.testing.assert_close(prediction.data, marginal.signal.apply(X), rtol=1e-14, atol=0)
    torch.testing.assert_close(prediction.noise, marginal.factor.apply(X), rtol=1e-14, atol=0)


def test_the_score_is_minus_the_noise_over_sigma():
    marginal = VP().marginal(T)
    sigma = marginal.factor.value.reshape(3, 1, 1, 1)
    torch.testing.assert_close(Score().target(marginal, X, E, X), -E / sigma, rtol=1e-14, atol=0)


def test_a_prediction_is_lazy_and_computed_once():
    marginal = VP().marginal(T)
    form = Form(marginal, data=Combination({1: marginal.signal.identity()}))
    prediction = Prediction((marginal.perturb(X, E), X), form.data, form.noise)
    assert prediction.data is X  # handed over, not copied
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-10)
    assert prediction.noise is prediction.noise
    with pytest.raises(ValueError, match="data or the noise"):
        Form(marginal)


@pytest.mark.parametrize("head", [Eps(), X0(), Score()], ids=lambda head: head.name)
def test_a_second_image_is_taken_into_account(head):
    """A process with B_t y, as bridges have: what is derived subtracts it, and a missing y is no silent zero."""
    y = torch.sin(5.0 * X)
    numbers = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
    marginal = Marginal(T, Scalar(numbers), Scalar(0.3 * numbers), Scalar(0.2 * numbers))
    u = marginal.perturb(X, E, y)
    form = head.form(marginal)
    parts = with_second((u, head.target(marginal, X, E, u)), marginal, Conditions(endpoint=y))
    assert len(parts) == form.parts == 3
    prediction = Prediction(parts, form.data, form.noise)
    torch.testing.assert_close(prediction.data, X, rtol=0, atol=1e-12)
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="second image"):
        with_second((u, E), marginal, Conditions())


def test_conversions_of_float32_states_come_from_float64_operators():
    process = VP()
    times = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    denoiser = NetworkDenoiser(torch.nn.Identity(), Eps(), process)
    points = denoiser.prepare(times, torch.float32, "cpu")
    for t, point in zip(times, points, strict=True):
        inverse, minus = point.data.terms.values()
        alpha, sigma = process.signal(t).value, process.factor(t).value
        assert float(inverse.value) == pytest.approx(float(1 / alpha), rel=1e-15)
        assert float(minus.value) == pytest.approx(float(-sigma / alpha), rel=1e-15)
        assert float(point.time) == pytest.approx(999.0 * float(t))


def test_conditions_that_the_network_cannot_be_shown_are_refused():
    denoiser = NetworkDenoiser(torch.nn.Identity(), Eps(), VP())
    (point,) = denoiser.prepare(torch.tensor([0.5], dtype=torch.float64), torch.float64, "cpu")
    with pytest.raises(ValueError, match="no condition image"):
        denoiser(X, point, Conditions(image=X))


@pytest.mark.parametrize("head", [V(), Both()], ids=lambda head: head.name)
def test_velocity_needs_a_variance_preserving_process(head):
    process = VP()
    process.variance_preserving = False
    with pytest.raises(ConfigError, match=f"prediction={head.name} needs"):
        NetworkDenoiser(torch.nn.Identity(), head, process)


def test_time_inputs_are_the_documented_ones():
    process = Cosine()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert time_input("t", process, t).tolist() == t.tolist()
    assert time_input("999t", process, t).tolist() == pytest.approx([0.0, 299.7, 999.0])
    assert time_input("log_snr", process, t)[[0, 2]].tolist() == pytest.approx([20.0, -20.0])
    assert time_input("log_snr_linear", process, t)[[0, 2]].tolist() == pytest.approx([1500.0, -500.0])
    assert time_input("log_snr_sigmoid", process, t)[0] == pytest.approx(1000.0, abs=1e-5)
    # The angle of this process is linear in t, so its input is nearly 1000 t.
    assert time_input("angle", process, t).tolist() == pytest.approx([0.0289, 300.0116, 999.9711], abs=1e-3)
    with pytest.raises(ConfigError, match="has no table"):
        time_input("index", process, t)


def test_a_network_sees_state_time_and_labels_and_is_counted():
    class Recorder(torch.nn.Module):
        def forward(self, x, time, labels=None):
            self.seen = (time.tolist(), None if labels is None else labels.tolist())
            return 2.0 * x.to(torch.float32)

    network = Recorder()
    denoiser = NetworkDenoiser(network, Eps(), VP())
    (point,) = denoiser.prepare(torch.tensor([0.5], dtype=torch.float64), torch.float64, "cpu")
    prediction = denoiser(X, point, Conditions(labels=torch.tensor([3, 1, 2])))
    assert network.seen == ([499.5], [3, 1, 2])
    assert prediction.noise.dtype == torch.float64
    torch.testing.assert_close(prediction.noise, 2.0 * X, rtol=1e-6, atol=1e-7)
    denoiser(X[:2], point)
    assert denoiser.evaluations == 5
