"""Coefficients of gDDIM and of Euler's rule on critically damped Langevin diffusion, against the gDDIM arrays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.prediction.langevin import PhaseEps
from diffexp.sampler.euler import Euler
from diffexp.sampler.gddim import GDDIM
from diffexp.sampler.stochastic import contraction
from tests.parity.golden import Member
from tests.parity.langevin import FILE, grid_of, process_of, unknown


def plan_of(case: Member, **settings: object):
    """gDDIM's coefficients of the member's steps."""
    process = process_of(case)
    return GDDIM(**settings).plan(process, grid_of(case).times(process, case["n"]), "state")


def table(operators: list) -> Tensor:
    """(n, slots, 2, 2)."""
    return torch.stack([operator.values for operator in operators], dim=1)


@pytest.mark.golden(FILE, "cld_ab", later=unknown)
def test_predictor(case):
    """Psi, then C_ij, zero for estimates that are not known yet; `coef` is the official quadrature of them."""
    plan = plan_of(case, order=case["degree"] + 1)
    case.check_each(coef=table([plan.transition, *plan.predictor]), coef_ref=table(plan.predictor))


@pytest.mark.golden(FILE, "cld_am", later=unknown)
def test_corrector(case):
    plan = plan_of(case, order=1, corrector=case["degree"] + 1)
    case.check_each(coef=table(plan.corrector), coef_ref=table(plan.corrector))


@pytest.mark.golden(FILE, "cld_abL", later=unknown)
def test_predictor_in_the_cholesky_factor(case):
    plan = plan_of(case, order=case["degree"] + 1, factor="cholesky")
    case.check_each(coef=table([plan.transition, *plan.predictor]), coef_ref=table(plan.predictor))


@pytest.mark.golden(FILE, "cld_order0_riemann", later=unknown)
def test_first_order_against_a_coarse_quadrature(case):
    case.check("coef", plan_of(case, order=case["degree"] + 1).predictor[0].values)


@pytest.mark.golden(FILE, "cld_euler_coef", later=unknown)
def test_euler(case):
    """What a step of Euler's rule makes of the state and of a noise estimate in R."""
    process = process_of(case)
    times = grid_of(case).times(process, case["n"])
    law = process.marginal(times[:-1], "R")
    rows = Euler().bind(Euler().plan(process, times, "state"), PhaseEps().form(law))
    mean, eps = (torch.stack([row.mix.terms[part].values for row in rows]) for part in (0, 1))
    case.check_each(mean=mean, eps=eps)


@pytest.mark.golden(FILE, "cld_sto_coef", later=unknown)
def test_stochastic_family(case):
    """The official covariance lacks a transpose and is not ours, except where there is no noise at all."""
    process, lam = process_of(case), case["lambda"]
    times = grid_of(case).times(process, case["n"])
    plan = plan_of(case, order=1, lam=lam)
    s, t = times[:-1], times[1:]
    psihat = process.factor(t, "R") @ contraction(process, s, t, lam) @ process.factor(s, "R").inverse()
    noise = 0.0 * plan.transition if plan.fresh is None else plan.fresh
    spread = noise.covariance().values
    case.check_each(
        psi=plan.transition.values,
        epscoef=plan.predictor[0].values,
        epscoef_ref=plan.predictor[0].values,
        psihat_ref=psihat.values,
        P_ref=spread,
        P_transposefixed=spread,
    )
    for role, rule in case["tol"].items():
        if "must_differ_from" in rule and role in case.outputs:
            error = float((spread - case.golden.tensor(case.outputs[role])).abs().max())
            assert (error > 1e-3) == (lam > 0.0), f"{case!r}, {role}: {error:.3g} from an array that is wrong"
