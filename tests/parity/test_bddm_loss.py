"""The bound of a step and the step loss of BDDM's released code, with its gradient and the exact divergence."""

from __future__ import annotations

import pytest
import torch

from diffexp.distillation.bilateral.loss import EXACT, Moments, StepLoss, step_loss
from diffexp.distillation.bilateral.pair import bounded, pair
from diffexp.distillation.bilateral.score import Score
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from tests.parity.bilateral import Noise, table

FILE = "bddm"


@pytest.mark.golden(FILE, "bound")
def test_bound(case):
    case.check("beta_hat", bounded(case.input("ratio"), case.input("beta_next"), case.input("delta")))


@pytest.mark.golden(FILE, "step_loss")
def test_step_loss(case):
    """The old variant (v1) is the mean over the numbers of a sample, without the constant -1/2."""
    for role, said in (("tau", case["tau"]), ("table", case["table"]), ("net", case["net"])):
        case.repeats(role, said)
    said, process = case["constants"], table(case.golden, case["table"])
    net = Noise(case.golden.config["nets"][case["net"]], process)
    score = Score(NetworkDenoiser(net, Eps("index"), process))
    t, x0, z = case.input("t").double(), case.input("x0"), case.input("z")
    levels = pair(process, t, t + case["tau"])
    estimate = score.noise(process.marginal(t).perturb(x0, z), t)
    moments = Moments.of(z, estimate)
    logit = case.input("logit").requires_grad_()
    loss = step_loss(logit, levels.limit, levels.delta, moments, said["loss_log_coef"], said["guard"])
    (gradient,) = torch.autograd.grad(loss.sum(), logit)
    assert (said["kl_log_coef"], said["loss_log_coef"]) == (EXACT, StepLoss(score, case["tau"]).log_coef)
    case.check_each(
        beta_next=levels.beta_next,
        delta=levels.delta,
        alpha=levels.alpha,
        beta_hat=bounded(torch.sigmoid(logit), levels.beta_next, levels.delta),
        eps=estimate,
        loss=loss,
        grad_logit=gradient,
        kl_exact=step_loss(logit, levels.limit, levels.delta, moments, said["kl_log_coef"], guard=0.0),
        v1_loss_mean=loss.mean() / moments.count + 0.5,
    )
    # The released code adds a column to a row; the mean of the square that results is all that is right about it.
    case.compare("batch_matrix", loss.mean(), case.golden.array(case.outputs["batch_matrix"]).mean())
