"""`tuning.json`: for each tuned arm and number of evaluations what was chosen, and the distances that it was chosen by.

An arm with `tune` is replaced by arms with fixed settings, so that every row of the results says the setting that it
was measured with.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_json_atomic
from diffexp.dataset.split import Dataset
from diffexp.evaluation.describe import describe_sampler
from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.gauge import Gauge, gauges_of, measure
from diffexp.evaluation.generate import Conditioner, generate
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.settings import Arm, EvaluationSettings, Policy
from diffexp.evaluation.tuning import Tuning
from diffexp.prediction.denoiser import Denoiser
from diffexp.sampler.loop import Sampler

log = logging.getLogger("diffexp")

FILE = "tuning.json"


@dataclass(frozen=True)
class Choice:
    """One choice.

    Attributes:
        sampler, grid: the arm as the recipe has it.
        nfe: the number of evaluations; None for a sampler that takes none.
        checkpoint: the weights, as in the results.
        tuning: setting, values, seeds, n and reference, see `Tuning`.
        protocol: how its distances were measured.
        value: what was chosen.
        chosen: the sampler with it, as in the results.
        distances: for each value in their order, one distance for each seed.
    """

    sampler: str
    grid: str
    nfe: int | None
    checkpoint: str
    tuning: Mapping[str, Any]
    protocol: Mapping[str, Any]
    value: float
    chosen: str
    distances: Sequence[Sequence[float]]

    @property
    def key(self) -> str:
        """Which choice it is: all but its outcome."""
        told = {name: value for name, value in asdict(self).items() if name not in ("value", "chosen", "distances")}
        return json.dumps(told, sort_keys=True)


@dataclass(frozen=True)
class Bench:
    """Where candidates are measured.

    Attributes:
        denoiser: ready on the device.
        dataset: prepared.
        settings: of the evaluation that the choice is for.
        checkpoint: names the weights.
        conditioner: labels or other conditions.
        device: where it all is.
        on_batch: called with the number of images after each batch.
    """

    denoiser: Denoiser
    dataset: Dataset
    settings: EvaluationSettings
    checkpoint: str
    conditioner: Conditioner | None = None
    device: torch.device | str = "cpu"
    on_batch: Callable[[int], None] | None = None

    def images(self, sampler: Sampler, nfe: int | None, seed: int, n: int) -> Iterator[tuple[torch.Tensor, range]]:
        """The images 0 .. n-1 of a seed, batch by batch with their indices."""
        settings = self.settings
        for batch in generate(
            sampler, self.denoiser, self.dataset.shape, range(n), seed, nfe,
            settings.batch_size, settings.quantise, self.conditioner, self.device,
        ):  # fmt: skip
            yield batch.images, batch.indices
            if self.on_batch is not None:
                self.on_batch(len(batch.images))


def tuned(arms: Sequence[Arm], folder: Path, bench: Bench) -> list[Arm]:
    """The arms with tuned ones at their best values; what is chosen is saved in `folder`, choice by choice.

    Without a distance there is nothing to choose by, and the arms keep the values of the recipe.
    """
    found: list[Arm] = []
    for arm in arms:
        gauge = None if arm.tune is None else _gauge(arm.tune.tuning, bench.dataset, bench.settings, bench.device)
        if gauge is None:
            found.append(arm)
            continue
        choices = {}
        for nfe in arm.feasible(bench.settings.nfe_policy):
            blank = _blank(arm, nfe, bench.checkpoint, gauge.protocol)
            known = None if bench.settings.again else _known(read_choices(folder), blank)
            if known is None:
                known = _choose(arm, nfe, blank, gauge, bench)
                _save(folder, known)
            choices[nfe] = known.value
        found += _fixed(arm, choices)
    return found


def settled(
    arms: Sequence[Arm], folder: Path, settings: EvaluationSettings, dataset: Dataset, checkpoint: str
) -> list[Arm] | None:
    """The arms as `tuned` left them in `folder`; None when a choice is missing. Nothing is measured."""
    choices, found = read_choices(folder), []
    for arm in arms:
        gauge = None if arm.tune is None else _gauge(arm.tune.tuning, dataset, settings, "cpu")
        if gauge is None:
            found.append(arm)
            continue
        blanks = {nfe: _blank(arm, nfe, checkpoint, gauge.protocol) for nfe in arm.feasible(settings.nfe_policy)}
        known = {nfe: _known(choices, blank) for nfe, blank in blanks.items()}
        if any(choice is None for choice in known.values()):
            return None
        found += _fixed(arm, {nfe: choice.value for nfe, choice in known.items() if choice is not None})
    return found


def recalled(arms: Sequence[Arm], folder: Path, policy: Policy) -> list[Arm]:
    """The arms with what an evaluation in `folder` chose last; where it chose nothing, the recipe's values stay."""
    choices, found = read_choices(folder), []
    for arm in arms:
        values: dict[int | None, float] = {}
        for nfe in arm.feasible(policy) if arm.tune is not None else ():
            made = [each for each in choices if (each.sampler, each.grid, each.nfe) == (arm.label, arm.grid, nfe)]
            if made and made[-1].value in arm.tune.samplers:
                values[nfe] = made[-1].value
        left = tuple(nfe for nfe in arm.nfe if nfe not in values)
        found += [*([replace(arm, nfe=left)] if left else []), *_fixed(arm, values)]
    return found


def _gauge(tuning: Tuning, dataset: Dataset, settings: EvaluationSettings, device: torch.device | str) -> Gauge | None:
    """What an arm's candidates are measured by: the distance alone, from the tuning's own reference."""
    own = copy.copy(settings)
    own.n, own.seeds, own.reference = tuning.n, tuning.seeds, tuning.reference
    own.metrics, own.statistics = [], None  # published statistics are those of the results
    return next(iter(gauges_of(dataset, own, device)), None)


def _blank(arm: Arm, nfe: int | None, checkpoint: str, protocol: Protocol) -> Choice:
    """A choice that is not made yet."""
    assert arm.tune is not None
    return Choice(arm.label, arm.grid, nfe, checkpoint, arm.tune.tuning.told, asdict(protocol), float("nan"), "", [])


def _known(choices: Sequence[Choice], blank: Choice) -> Choice | None:
    return next((choice for choice in choices if choice.key == blank.key), None)


def _choose(arm: Arm, nfe: int | None, blank: Choice, gauge: Gauge, bench: Bench) -> Choice:
    """Measure every value with every seed."""
    assert arm.tune is not None
    tuning, samplers = arm.tune.tuning, arm.tune.samplers
    stream = partial(bench.images, nfe=nfe, n=tuning.n)
    found = [
        [measure([gauge], stream(sampler, seed=seed), tuning.n)[0] for seed in tuning.seeds]
        for sampler in samplers.values()
    ]
    means, spell = [statistics.fmean(distances) for distances in found], meaning(gauge.protocol.metric).spell
    value = tuning.values[means.index(min(means))]
    said = ", ".join(f"{entry:g}: {spell(mean)}" for entry, mean in zip(samplers, means, strict=True))
    log.info("%s at NFE %s: %s=%g of %s", arm.name, nfe, tuning.setting, value, said)
    return replace(blank, value=value, chosen=describe_sampler(samplers[value]), distances=found)


def _fixed(arm: Arm, values: Mapping[int | None, float]) -> list[Arm]:
    """One arm for each value that was chosen, with the numbers of evaluations that it was chosen for."""
    found = []
    for value in dict.fromkeys(values.values()):
        assert arm.tune is not None
        found.append(Arm(arm.tune.samplers[value], tuple(nfe for nfe, own in values.items() if own == value)))
    return found


def read_choices(folder: Path) -> list[Choice]:
    """The choices of a run folder; empty where there are none. DiffexpError for a file that is something else."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        return [Choice(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DiffexpError(f"{path} is not a file of tuned settings ({error})") from error


def _save(folder: Path, choice: Choice) -> None:
    kept = [known for known in read_choices(folder) if known.key != choice.key]
    write_json_atomic(folder / FILE, [asdict(entry) for entry in [*kept, choice]])


def section(folder: Path) -> list[Block]:
    """What was tuned, by what, and how flat the choice was; empty where nothing was."""
    choices = read_choices(folder)
    if not choices:
        return []
    parts: list[Block] = [Heading(2, "Tuned settings")]
    groups: dict[str, list[Choice]] = {}
    for choice in choices:
        groups.setdefault(replace(choice, nfe=None).key, []).append(choice)
    for group in groups.values():
        first = group[0]
        spell = meaning(first.protocol["metric"]).spell
        body = [
            [_spell(each.nfe), f"**{each.value:g}**", *(spell(statistics.fmean(seeds)) for seeds in each.distances)]
            for each in group
        ]
        header = ["NFE", "chosen", *(f"{value:g}" for value in first.tuning["values"])]
        parts += [how(group), Table(header, body, 0)]
    return parts


def how(choices: Sequence[Choice]) -> str:
    """A sentence or two on what choices of one arm were made from."""
    first = choices[0]
    tuning, seeds = first.tuning, ", ".join(map(str, first.tuning["seeds"]))
    return (
        f"`{tuning['setting']}` of `{first.sampler}`, for each number of evaluations by itself: the value with the "
        f"smallest {first.protocol['metric']} of {tuning['n']:,} images (noise of seed {seeds}) from the "
        f"{first.protocol['reference_n']:,} images of the {tuning['reference']} split. No result is "
        "made from this noise or measured against these images."
    )


def _spell(nfe: int | None) -> str:
    return "–" if nfe is None else str(nfe)
