"""Solvers with the exact denoiser of a mixture against the exact flow, and with it the measured orders."""

from __future__ import annotations

import pytest
import torch

from diffexp.prediction.conditions import Conditions
from diffexp.sampler.dbim import DBIM
from diffexp.sampler.ddbm_heun import DDBMHeun
from diffexp.sampler.stepper import Stepper
from tests.parity.bridges import FILE, process_of, unknown
from tests.parity.golden import Member
from tests.quantiles import Flow, walked

GRID = "linspace(ta,tb,n+1)"
LATER = {"mixture": "the start points that they make are stored themselves"}


def flow_of(case: Member) -> Flow:
    """The member's bridge with the file's mixture."""
    numbers = {name: case.input(role) for name, role in {"weights": "pi", "means": "mu", "slopes": "kappa"}.items()}
    return Flow(process_of(case), **numbers, stds=case.input("s"))


def stepper_of(said: dict, end: float) -> Stepper:
    if said["sampler"] == "dbim":
        return DBIM(said["eta"])
    if said["sampler"] == "ho":
        return DBIM(order=said["order"], lower_order_final=said["lower_order_final"])
    return DDBMHeun(said["churn"], said["guidance"], final="heun" if end > 0.0 else "euler")


def _unknown(case: Member) -> str | None:
    strange = [said["sampler"] for said in case["solvers"] if said["sampler"] not in ("dbim", "ho", "heun")]
    noisy = any(said.get("eta") or said.get("churn") for said in case["solvers"])
    reasons = {
        f"sampler {strange[:1]}": bool(strange),
        "a solver with noise, which the file does not list": noisy,
        f"grid {case['grid']}": case["grid"] != GRID,
    }
    return unknown(case) or next((reason for reason, true in reasons.items() if true), None)


@pytest.mark.golden(FILE, "ga", later=_unknown)
def test_solvers_on_a_mixture(case):
    """Their states, their largest errors, and the exact flow itself at its end and on the way."""
    flow, y, start = flow_of(case), case.input("y"), case.input("xa")
    first, last, oracle = case.input("ta"), case.input("tb"), flow.oracle()
    given = Conditions(endpoint=y)
    (point,) = oracle.prepare(first.reshape(1), torch.float64, "cpu")
    exact = flow.moved(start, first, last, y)
    case.check_each(
        D_xa=oracle(start, point, given).data,
        xb_exact=exact,
        mid_exact=torch.stack([flow.moved(start, first, t, y) for t in case.input("mid_t")]),
    )
    for said in case["solvers"]:
        stepper, errors = stepper_of(said, float(last)), []
        for run in said["runs"]:
            times = torch.linspace(float(first), float(last), run["steps"] + 1, dtype=torch.float64)
            found = walked(stepper, oracle, times, start, given)
            case.part(run).check("x", found)
            errors.append((found - exact).abs().max())
        case.part(said).check_each(maxerr=torch.stack(errors))
