"""What an evaluation costs: one pass in memory against PNG files and torch-fidelity, and the Frechet term alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffexp.dataset.digits import Digits
from diffexp.evaluation.features import DigitsFeatures
from diffexp.evaluation.fidelity import FidelityDraws, fidelity_metrics
from diffexp.evaluation.frechet import frechet_distance
from diffexp.evaluation.generate import Generated, generate
from diffexp.evaluation.meter import Meter
from diffexp.evaluation.selfcheck import write_pngs
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.vp import VP
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from experiments.benchmarks.clock import Ratio, ratio, take_turns
from experiments.benchmarks.parts import Halved, normal
from experiments.benchmarks.sampling import GRID

PASS_TARGET, FRECHET_TARGET, EQUAL = 0.8, 0.4, 1e-8
METRICS = ("fd", "is", "kid", "precision", "recall")
_BATCH, _NFE = 64, 10


def one_pass(rounds: int, n: int = 1000) -> list[Ratio]:
    """An evaluation of n generated digits, from nothing: the reference's features, generation, all metrics.

    Both sides generate with a network of one multiplication, see the same 901 training digits as the reference, use the
    features of the package's own classifier, and give the same numbers. torch-fidelity reads PNG files; those of the
    reference are written before.
    """
    train, extractor, cpu = Digits().split("train"), DigitsFeatures().prepare(), torch.device("cpu")
    denoiser = NetworkDenoiser(Halved(), Eps(), VP())
    found: dict[str, dict[str, float]] = {}

    def images() -> Iterator[Generated]:
        return generate(Sampler("ddim", DDIM(), GRID), denoiser, (1, 8, 8), range(n), 0, _NFE, _BATCH)

    def ours() -> None:
        meter = Meter.on(train, extractor, _BATCH, cpu, METRICS, n)
        tally = replace(meter, draws=FidelityDraws()).begin()
        for part in images():
            tally.add(part.images, part.indices)
        found["ours"] = {name: tally.value(name) for name in METRICS}

    with tempfile.TemporaryDirectory() as work:
        write_pngs(train.images(range(len(train))), Path(work) / "reference")
        turns = count()

        def theirs() -> None:
            folder = Path(work) / f"images_{next(turns)}"
            write_pngs(torch.cat([part.images for part in images()]), folder)
            found["theirs"] = fidelity_metrics(
                extractor, folder, Path(work) / "reference", (n, len(train)), _BATCH, cpu
            )

        spent = take_turns({"one_pass": ours, "png_and_torch_fidelity": theirs}, rounds)
    text = f"evaluation of {n:,} digits in one pass / PNG files and torch-fidelity, the same metrics"
    notes = {"largest_difference": _difference(found["ours"], found["theirs"]), "n": n}
    return [ratio("one_pass", text, spent, ("one_pass", "png_and_torch_fidelity"), PASS_TARGET, **notes)]


def frechet(rounds: int, dim: int = 2048) -> list[Ratio]:
    """The Frechet distance of two Gaussians against the formula with numpy's eigenvalues of the product."""
    (mean1, cov1), (mean2, cov2) = (_gaussian(dim, f"frechet{k}") for k in (1, 2))
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = frechet_distance(mean1, cov1, mean2, cov2)

    def theirs() -> None:
        roots = np.sqrt(np.linalg.eigvals((cov1 @ cov2).numpy())).real.sum()
        traces = float(cov1.trace() + cov2.trace())
        found["theirs"] = float((mean1 - mean2).square().sum()) + traces - 2.0 * float(roots)

    spent = take_turns({"symmetric": ours, "eigvals": theirs}, rounds)
    difference = _difference({"": found["ours"]}, {"": found["theirs"]})
    if difference > EQUAL:
        raise ValueError(f"the two Frechet distances differ by {difference:.1e}")
    text = f"Frechet distance at d = {dim} / numpy's eigvals of the product"
    return [ratio("frechet", text, spent, ("symmetric", "eigvals"), FRECHET_TARGET, relative_difference=difference)]


def _gaussian(dim: int, stream: str) -> tuple[Tensor, Tensor]:
    """A mean and a regular covariance whose eigenvalues span three decades, as those of features do."""
    factor = normal(2 * dim, dim, stream=stream).double() * torch.logspace(0, -1.5, dim, dtype=torch.float64)
    mixing = torch.linalg.qr(normal(dim, dim, stream="mixing").double())[0]
    rows = factor @ mixing
    return rows.mean(0), torch.cov(rows.T)


def _difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest relative one."""
    return max(abs(ours[name] - theirs[name]) / abs(theirs[name]) if theirs[name] else 0.0 for name in ours)
