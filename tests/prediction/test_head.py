"""Heads: each output means the same data and noise, targets and weights obey the exact relations."""

from __future__ import annotations

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Eps, V
from diffexp.prediction.result import Prediction
from diffexp.prediction.time_input import time_input
from diffexp.process.base import Marginal
from diffexp.process.cosine import Cosine
from diffexp.process.operator import Scalar
from diffexp.process.vp import VP

HEADS = [Eps(), X0(), V()]
T = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(3, 2, 2, 2)
E = torch.cos(7.0 * X)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@pytest.mark.parametrize("process", [VP(), Cosine()], ids=["vp", "cosine"])
def test_the_target_means_the_data_and_noise_it_was_made_of(head, process):
    marginal = process.marginal(T)
    u = marginal.perturb(X, E)
    prediction = head.predict(u, marginal, head.target(marginal, X, E))
    torch.testing.assert_close(prediction.data, X, rtol=0, atol=1e-9)
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-9)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_the_errors_of_heads_are_tied_by_the_signal_to_noise_ratio(head):
    """Squared error of the output = data_weight times squared error of the data it implies."""
    process = Cosine()
    marginal = process.marginal(T)
    u = marginal.perturb(X, E)
    target = head.target(marginal, X, E)
    output = target + 0.1 * torch.sin(3.0 * X)
    own = (output - target).square().flatten(1).sum(1)
    data = (head.predict(u, marginal, output).data - X).square().flatten(1).sum(1)
    torch.testing.assert_close(own, head.data_weight(process, T) * data, rtol=1e-9, atol=0)


def test_velocity_is_the_rotated_pair():
    marginal = Cosine().marginal(T)
    alpha, sigma = (op.value.reshape(3, 1, 1, 1) for op in (marginal.signal, marginal.factor))
    torch.testing.assert_close(V().target(marginal, X, E), alpha * E - sigma * X, rtol=1e-15, atol=1e-15)


def test_a_prediction_is_lazy_and_computed_once():
    calls = []

    def data():
        calls.append(1)
        return X

    marginal = VP().marginal(T)
    prediction = Prediction(marginal.perturb(X, E), marginal, data=data)
    assert calls == []
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-10)
    assert prediction.data is prediction.data
    assert calls == [1]
    with pytest.raises(ValueError, match="data or the noise"):
        Prediction(X, marginal)


@pytest.mark.parametrize("head", [Eps(), X0()], ids=lambda head: head.name)
def test_a_second_image_is_taken_into_account(head):
    """A process with B_t y, as bridges have: what is derived subtracts it, and a missing y is no silent zero."""
    y = torch.sin(5.0 * X)
    numbers = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
    marginal = Marginal(T, Scalar(numbers), Scalar(0.3 * numbers), Scalar(0.2 * numbers)).cast(torch.float64, "cpu")
    u = marginal.perturb(X, E, y)
    conditions = Conditions(endpoint=y)
    prediction = head.predict(u, marginal, head.target(marginal, X, E, conditions), conditions)
    torch.testing.assert_close(prediction.data, X, rtol=0, atol=1e-12)
    torch.testing.assert_close(prediction.noise, E, rtol=0, atol=1e-12)
    torch.testing.assert_close(prediction.clipped(-0.5, 0.5).data, X.clamp(-0.5, 0.5), rtol=0, atol=1e-12)
    without = head.predict(u, marginal, E)
    with pytest.raises(ValueError, match="second image"):
        _ = without.data + without.noise


def test_conversions_of_float32_states_come_from_float64_operators():
    process = VP()
    times = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    denoiser = NetworkDenoiser(torch.nn.Identity(), Eps(), process)
    points = denoiser.prepare_each(times, torch.float32, "cpu")
    for t, point in zip(times, points, strict=True):
        inverse, minus = point.marginal.data_from_noise
        alpha, sigma = process.signal(t).value, process.factor(t).value
        assert float(inverse.value) == pytest.approx(float(1 / alpha), rel=1e-15)
        assert float(minus.value) == pytest.approx(float(-sigma / alpha), rel=1e-15)
        assert float(point.time) == pytest.approx(999.0 * float(t))


def test_conditions_that_the_network_cannot_be_shown_are_refused():
    denoiser = NetworkDenoiser(torch.nn.Identity(), Eps(), VP())
    point = denoiser.prepare(torch.tensor(0.5, dtype=torch.float64), torch.float64, "cpu")
    with pytest.raises(ValueError, match="no condition image"):
        denoiser(X, point, Conditions(image=X))


def test_velocity_needs_a_variance_preserving_process():
    process = VP()
    process.variance_preserving = False
    with pytest.raises(ConfigError, match="prediction=v needs"):
        NetworkDenoiser(torch.nn.Identity(), V(), process)


def test_time_inputs_are_the_documented_ones():
    process = Cosine()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert time_input("t", process, t).tolist() == t.tolist()
    assert time_input("999t", process, t).tolist() == pytest.approx([0.0, 299.7, 999.0])
    assert time_input("log_snr", process, t)[[0, 2]].tolist() == pytest.approx([20.0, -20.0])
    # The angle of this process is linear in t, so its input is nearly 1000 t.
    assert time_input("angle", process, t).tolist() == pytest.approx([0.0289, 300.0116, 999.9711], abs=1e-3)


def test_a_network_sees_state_time_and_labels_and_is_counted():
    class Recorder(torch.nn.Module):
        def forward(self, x, time, labels=None):
            self.seen = (time.tolist(), None if labels is None else labels.tolist())
            return 2.0 * x.to(torch.float32)

    network = Recorder()
    denoiser = NetworkDenoiser(network, Eps(), VP())
    point = denoiser.prepare(torch.tensor(0.5, dtype=torch.float64), torch.float64, "cpu")
    prediction = denoiser(X, point, Conditions(labels=torch.tensor([3, 1, 2])))
    assert network.seen == ([499.5], [3, 1, 2])
    assert prediction.noise.dtype == torch.float64
    torch.testing.assert_close(prediction.noise, 2.0 * X, rtol=1e-6, atol=1e-7)
    denoiser(X[:2], point)
    assert denoiser.evaluations == 5
