"""One recipe trained with several seeds: the mean over trainings, and whose spread is whose.

A value is v_ij = mean + a_i + b_j + e_ij for training seed i and evaluation seed j. All trainings are evaluated from
the same noise, so b_j is common to them: the spread of their means is that of a_i and a share of e_ij, which the
residuals of the two-way table tell (analysis of variance without repeats).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diffexp.evaluation.comparison import verdicts
from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.table import Summary

SEED = "seed"
"""The key by which trainings are told apart."""


@dataclass(frozen=True)
class Trainings:
    """One arm of several trainings that differ in their seed alone.

    Attributes:
        arm: values are the means over evaluation seeds, one for each training; seeds are the training seeds.
        settings: what the trainings have in common and others have not.
        within: standard deviation over evaluation seeds, pooled over the trainings; None for one evaluation seed.
        alone: standard deviation over training seeds without the share of the evaluation's noise; None where the
            trainings have not the same evaluation seeds, two or more.
    """

    arm: Summary
    settings: Mapping[str, str]
    within: float | None
    alone: float | None


def over_seeds(arms: Sequence[Summary], settings: Mapping[str, Mapping[str, str]]) -> list[Trainings]:
    """The arms whose runs differ in the training seed alone, put together; those of a single seed are left out.

    Args:
        arms: of one protocol, each with the tag of its run.
        settings: tag -> what tells that run from the others, key by key.
    """
    found: dict[tuple[object, ...], dict[int, Summary]] = {}
    for arm in arms:
        own = settings[arm.tag]
        if own.get(SEED, "").lstrip("-").isdigit():
            budget = 0 if not float(arm.nfe or 0).is_integer() else arm.nfe
            key = (_rest(own), arm.sampler, arm.grid, budget, arm.metric)
            found.setdefault(key, {})[int(own[SEED])] = arm
    together = [by_seed for by_seed in found.values() if len(by_seed) > 1]
    return [_trainings(by_seed, _rest(settings[next(iter(by_seed.values())).tag])) for by_seed in together]


def _rest(settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in settings.items() if key != SEED)


def _trainings(by_seed: Mapping[int, Summary], rest: tuple[tuple[str, str], ...]) -> Trainings:
    """One arm of several trainings."""
    runs = list(by_seed.values())
    tag = ", ".join(f"{key}={value}" for key, value in rest)
    first = runs[0]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    arm = replace(
        first,
        label=f"{first.plain_label} ({tag})" if tag else first.plain_label,
        nfe=first.nfe if len({run.nfe for run in runs}) == 1 else round(statistics.fmean(r.nfe or 0 for r in runs), 1),
        values=tuple(run.mean for run in runs),
        seconds=statistics.fmean(seconds) if seconds else None,
        tag=tag,
        seeds=tuple(by_seed),
    )
    return Trainings(arm, dict(rest), _within(runs), _alone(runs))


def _within(runs: Sequence[Summary]) -> float | None:
    """The pooled standard deviation of the values of one run."""
    parts = [(len(run.values) - 1, statistics.variance(run.values)) for run in runs if len(run.values) > 1]
    freedom = sum(n for n, _ in parts)
    return math.sqrt(sum(n * variance for n, variance in parts) / freedom) if freedom else None


def _alone(runs: Sequence[Summary]) -> float | None:
    """The standard deviation of a_i: the variance of the means, less the residuals' part in it."""
    if len({run.seeds for run in runs}) > 1 or len(runs[0].seeds) < 2:
        return None
    k, m = len(runs), len(runs[0].seeds)
    columns = [statistics.fmean(values) for values in zip(*(run.values for run in runs), strict=True)]
    total = statistics.fmean(columns)
    pairs = [(run.mean, value, column) for run in runs for value, column in zip(run.values, columns, strict=True)]
    residuals = sum((value - row - column + total) ** 2 for row, value, column in pairs)
    noise = residuals / ((k - 1) * (m - 1))
    return math.sqrt(max(0.0, statistics.variance([run.mean for run in runs]) - noise / m))


def blocks(arms: Sequence[Summary], settings: Mapping[str, Mapping[str, str]]) -> list[Block]:
    """The table of `over_seeds` and the verdicts over trainings; empty where no two runs differ in the seed alone."""
    found = over_seeds(arms, settings)
    if not found:
        return []
    keys = list(found[0].settings)
    header = [
        *keys, "sampler", "NFE", "trainings", "mean", "std over trainings", "std over evaluation seeds",
        "std of training alone",
    ]  # fmt: skip
    body = [[*(entry.settings.get(key, "–") for key in keys), *_cells(entry)] for entry in found]
    note = (
        "A training counts with its mean over the evaluation seeds. The last column is the spread over trainings "
        "without the share that evaluation seeds have in it; 0 where that explains all. A claim about a method needs "
        "the spread over trainings, one about a checkpoint that over evaluation seeds."
    )
    judged = verdicts([entry.arm for entry in found], "Verdicts over training seeds")
    return [Heading(3, "Over training seeds"), Table(header, body, len(keys) + 1), note, *judged]


def _cells(entry: Trainings) -> list[str]:
    arm, spell = entry.arm, entry.arm.meaning.spell
    plain = arm.plain_label
    spreads = [statistics.stdev(arm.values), entry.within, entry.alone]
    seeds = f"{len(arm.seeds)}"
    return [plain, str(arm.nfe), seeds, spell(arm.mean), *("–" if one is None else spell(one) for one in spreads)]
