"""Trajectories on critically damped Langevin diffusion against the gDDIM arrays.

Arrays whose own error was amplified to the size of the state must be as far away as the file says.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cld import CLD
from diffexp.sampler.euler import Euler
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.grid import Power
from diffexp.sampler.grid_explicit import Explicit
from tests.parity.langevin import FILE, denoiser_of, grid_of, packed, process_of, unknown, unpacked, walked
from tests.sampler.affine import moments

FINE = 600  # steps of order 4, whose error is about 1e-6


@pytest.mark.golden(FILE, "cld_det", later=unknown)
def test_deterministic(case):
    """With exact coefficients; before the denoising step and after it."""
    grid = grid_of(case, "denoise_em" if case["denoise"] else "state")
    assert case["n"] + case["denoise"] == case["nfe"]
    if case["denoise"]:
        assert case["denoise_dt"] == case["grid"]["t_end"]  # the step ends at the data
    states = walked(GDDIM(case["degree"] + 1), grid, denoiser_of(case), packed(case.input("uT")), case["n"])
    steps = states[: case["n"] + 1]
    before = unpacked(steps[-1])
    traj = unpacked(torch.stack(steps))
    case.check_each(xv=unpacked(states[-1]), pre=before, pre_ref=before, traj=traj)


@pytest.mark.golden(FILE, "cld_detL", later=unknown)
def test_deterministic_in_the_cholesky_factor(case):
    stepper, start = GDDIM(case["degree"] + 1, factor="cholesky"), packed(case.input("uT"))
    case.check("u", unpacked(walked(stepper, grid_of(case), denoiser_of(case), start, case["n"])[-1]))


@pytest.mark.golden(FILE, "cld_euler_ode", later=unknown)
def test_euler(case):
    grid = grid_of(case, "denoise_em" if case["denoise"] else "state")
    case.check("xv", unpacked(walked(Euler(), grid, denoiser_of(case), packed(case.input("uT")), case["n"])[-1]))


@pytest.mark.golden(FILE, "cld_pece", later=unknown)
def test_predictor_and_corrector(case):
    stepper = GDDIM(case["predictor_degree"] + 1, corrector=case["corrector_degree"] + 1)
    assert stepper.evaluations(case["n"]) == case["nfe"]
    u = unpacked(walked(stepper, grid_of(case), denoiser_of(case), packed(case.input("uT")), case["n"])[-1])
    if case["tol"]["u"].get("diverges"):
        case.keeps_away("u", u)
    else:
        case.check("u", u)


@pytest.mark.golden(FILE, "cld_ode_exact", later=unknown)
def test_probability_flow(case):
    """The flow itself, by many steps of order 4."""
    grid = Power(2.0, t_end=case["grid"]["t_end"])
    case.check("u", unpacked(walked(GDDIM(4), grid, denoiser_of(case), packed(case.input("uT")), FINE)[-1]))


@pytest.mark.golden(FILE, "cld_conv", later=unknown)
def test_errors_and_orders(case):
    """Errors for each order and number of steps; from the last doubling, the order itself (mixture data)."""
    start, exact, denoiser = packed(case.input("uT")), case.input("exact"), denoiser_of(case)
    errors = torch.zeros(len(case["degrees"]), len(case["n"]), dtype=torch.float64)
    for i, degree in enumerate(case["degrees"]):
        for j, n in enumerate(case["n"]):
            u = unpacked(walked(GDDIM(degree + 1), grid_of(case), denoiser, start, n)[-1])
            errors[i, j] = (u - exact).abs().max()
    case.check("err", errors)
    wanted = torch.from_numpy(case.golden.array(case.outputs["err"]))[:, -2:].log2().diff()
    assert errors[:, -2:].log2().diff().flatten().tolist() == pytest.approx(wanted.flatten().tolist(), rel=0.02)
    if len(case.golden.config["nets"][case["net"]]["w"]) > 1:
        assert wanted.flatten().tolist() == pytest.approx([-(degree + 1.0) for degree in case["degrees"]], abs=0.15)


@pytest.mark.golden(FILE, "cld_sto", later=unknown)
def test_stochastic(case):
    """Any lambda; the file's runs draw nothing in the last step."""
    z, n, grid = packed(case.input("z")), case["n"], grid_of(case, "denoise_em" if case["denoise"] else "state")
    if not case["noise_on_last_step"]:
        z = torch.cat([z[: n - 1], torch.zeros_like(z[:1])])
    states = walked(GDDIM(1, case["lambda"]), grid, denoiser_of(case), packed(case.input("uT")), n, z)
    case.check_each(u=unpacked(states[-1]), traj=unpacked(torch.stack(states[: n + 1])))


@pytest.mark.golden(FILE, "cld_sto_moments", later=unknown)
def test_moments(case):
    """Mean and covariance of a pixel's (x, v), from the affine map that the sampler is for Gaussian data."""
    last = case["n"] - 1
    silent = (lambda draw: draw == last) if not case["noise_on_last_step"] else (lambda draw: False)
    mean, spread = moments(GDDIM(1, case["lambda"]), grid_of(case), denoiser_of(case), case["n"], silent)
    case.check_each(mean=mean, cov=spread)


@pytest.mark.golden(FILE, "cld_dirac", later=unknown)
def test_data_at_one_point(case):
    """Recovered on a grid of two steps: exactly, as the estimate is constant along a trajectory."""
    times, start, x0 = case.input("times"), packed(case.input("uT")), float(case.input("x0"))
    process = process_of(case, start=float(times[0]))
    grid = Explicit(times[:-1].tolist(), t_end=float(times[-1]))
    states = walked(GDDIM(case["degree"] + 1), grid, Mixture(process, [1.0], [x0], [0.0]), start, len(times) - 1)
    found, exact = unpacked(torch.stack(states)), unpacked(constant_noise(process, times, start, x0))
    case.check_each(closedcoef_traj=found, exact_traj=exact)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-6)
    case.keeps_away("official_traj", found)


def constant_noise(process: CLD, times: Tensor, start: Tensor, x0: float) -> Tensor:
    """Psi(t, 0) [x0; 0] + R_t e with the e of the start, at each time."""
    law, data = process.marginal(times, "R"), torch.full_like(start, x0)
    data[:, data.shape[1] // 2 :] = 0.0
    noise = law.factor[0].inverse().apply(start - law.signal[0].apply(data))
    return torch.stack([law[k].perturb(data, noise) for k in range(len(times))])
