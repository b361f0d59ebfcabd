"""Bridges from end to end: a closed-form denoiser with every bridge sampler, and misfits in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Command
from tests.e2e.test_refusal import refused

BRIDGE = [
    "scale=quick", "experiment=gddim_vp", "family=paired", "process=bridge_vp", "prediction=ddbm", "objective=bridge",
    "grid=bridge", "grid.t_end=null", "evaluation.seeds=[0]",
]  # fmt: skip
DBIM = ["sampler=dbim", "evaluation.only=dbim", "evaluation.nfe=[5]"]


def changed(words: list[str], *changes: str) -> list[str]:
    """The words, some of them in place of others about the same key."""
    taken = {change.partition("=")[0] for change in changes}
    return [*(word for word in words if word.partition("=")[0] not in taken), *changes]


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        (["sampler=dbim"], 60),
        (["sampler=dbim", "sampler.stepper.eta=1"], 120),
        (["sampler=dbim", "sampler.stepper.order=3"], 40),
        (["sampler=ddbm_heun", "grid=bridge_karras"], 239),
    ],
    ids=["dbim", "markovian", "third", "heun"],
)
def test_a_mixture_given_the_end_point_is_sampled_with_its_own_moments(command: Command, words, budget):
    """Pixels are 0.3 N(-0.6 + y / 5, 0.15^2) + 0.7 N(0.5 + y / 5, 0.15^2); y is 1 where no digit has ever ink."""
    mixture = ["network=oracle_mixture", "network.slopes=[0.2,0.2]", f"evaluation.nfe={budget}", "evaluation.n=300"]
    only = f"evaluation.only={words[0].partition('=')[2]}"
    answer = command(*changed(BRIDGE, *words, only, *mixture, "task=sample"))
    assert answer.code == 0, answer.err
    (path,) = Path("runs/gddim_vp").glob("oracle-*/samples/*.npz")
    pixels = np.load(path)["images"].astype(np.float64)[:, [0, 6], 0] / 127.5 - 1.0
    weights, means, std = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), 0.15
    mean = float(weights @ means) + 0.2
    variance = std**2 + float(weights @ means**2) - float(weights @ means) ** 2
    assert pixels.mean() == pytest.approx(mean, abs=4 * (variance / pixels.size) ** 0.5 + 1e-2)
    assert pixels.var() == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["sampler=ddim", "evaluation.only=ddim"],
            "sampler ddim leaves out the end point of process bridge_vp: use dbim",
        ),
        (["family=image", "process=vp", "prediction=eps"], "sampler dbim is for bridges, and process vp is none"),
        (["prediction=eps"], "prediction=eps: its network is not shown the end point of process bridge_vp: use ddbm"),
    ],
)
def test_misfits_are_refused(command: Command, tmp_path, words, said):
    assert said in refused(command, tmp_path, *changed([*BRIDGE, *DBIM], *words))
