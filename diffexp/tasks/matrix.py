"""task=matrix: every process with every sampler and every prediction, each by the real files and the real refusals."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError, SamplingError, nearest
from diffexp.core.files import write_text_atomic
from diffexp.evaluation.matrix import Cell, Found, MatrixSettings, as_csv, examine
from diffexp.evaluation.matrix_text import count, document, inserted, orders
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import Layout, present_layout
from diffexp.prediction.oracle.gaussian import Gaussian, Voiced
from diffexp.process.base import Process
from diffexp.sampler.loop import Sampler
from diffexp.tasks import console
from diffexp.tasks.build import Config, check_told, make, make_node

log = logging.getLogger("diffexp")

FOLDER = "matrix"
"""Below `runs`."""
_GRID = ("grid=power",)
_SHAPES = ((1, 1, 1), (1, 2, 2))  # one pixel; where pixels are coupled, the fewest that have several frequencies


@dataclass(frozen=True)
class Choices:
    """The nodes of the groups, composed; a process and a sampler come with the grid of their home.

    Attributes:
        processes, samplers, predictions: node of each choice.
        grids: node of the grid of a process or of a sampler.
        words: the words that chose it.
        default: the grid that the samplers' nodes hold, in whose place that of the cell comes.
    """

    processes: dict[str, Any]
    samplers: dict[str, Any]
    predictions: dict[str, Any]
    grids: dict[str, Any]
    words: dict[str, tuple[str, ...]]
    default: dict[str, Any]


def main(config: Config) -> None:
    """Measure the cells, print the orders, and write all there is to know as Markdown and CSV."""
    settings: MatrixSettings = make(config, "matrix")
    into = None if settings.into is None else _target(Path(settings.into))
    choices = compose_choices(settings, present_layout())
    began, cells = time.monotonic(), []
    for process in choices.processes:
        found = list(cells_of(process, choices, settings))
        fitting = sum(cell.fits for cell in found)
        log.info("%s: %d of %d fit (%.0f s)", process, fitting, len(found), time.monotonic() - began)
        cells += found
    folder = Path(str(config["runs"])) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    grids = [f"- `{name}`: {' '.join(f'`{word}`' for word in words)}" for name, words in choices.words.items()]
    write_text_atomic(folder / "matrix.md", document(cells, settings.nfe, settings.mean, settings.std, grids))
    write_text_atomic(folder / "matrix.csv", as_csv(cells))
    if into is not None:
        write_text_atomic(into, inserted(into.read_text(encoding="utf-8"), cells, str(into)))
    console.say(f"{orders(cells)}\n\n{count(cells)}\n{folder / 'matrix.md'}\n{folder / 'matrix.csv'}")


def _target(path: Path) -> Path:
    """The file that is to take the tables; ConfigError where it cannot."""
    if not path.is_file():
        raise ConfigError(f"matrix.into={path}: no such file")
    inserted(path.read_text(encoding="utf-8"), None, str(path))
    return path


def compose_choices(settings: MatrixSettings, layout: Layout) -> Choices:
    """All nodes that the matrix is made of.

    Raises:
        ConfigError: for a name that no file has.
    """
    names = {
        group: _named(key, group, getattr(settings, key), layout.choices[group])
        for group, key in (("process", "processes"), ("sampler", "samplers"), ("prediction", "predictions"))
    }
    known = (*layout.choices["process"], *layout.choices["sampler"])
    _named("homes", "process or sampler", list(settings.homes), known)
    words = {name: tuple(settings.homes.get(name, _GRID)) for name in names["process"]}
    words |= {name: tuple(settings.homes[name]) for name in names["sampler"] if name in settings.homes}
    homes = list(dict.fromkeys([_GRID, *words.values()]))
    lines = [
        [f"{group}={name}" for group, name in zip(names, row, strict=True) if name is not None]
        for row in zip_longest(*names.values())
    ]
    jobs = compose_jobs([normalise([*_GRID, *line], layout) for line in lines], layout)
    grids = compose_jobs([normalise(home, layout) for home in homes], layout)
    nodes = {
        group: {name: job.config[group] for name, job in zip(chosen, jobs, strict=False)}
        for group, chosen in names.items()
    }
    grid = {home: job.config["grid"] for home, job in zip(homes, grids, strict=True)}
    return Choices(
        nodes["process"],
        nodes["sampler"],
        nodes["prediction"],
        {name: grid[home] for name, home in words.items()},
        words,
        grid[_GRID],
    )


def _named(key: str, what: str, wanted: list[str] | None, known: Sequence[str]) -> list[str]:
    """The names that a setting gives, in its order, or all; ConfigError for one that there is not."""
    for name in wanted or ():
        if name not in known:
            raise ConfigError(f"matrix.{key}: there is no {what} '{name}'; {nearest(name, known)}")
    return list(known) if wanted is None else list(dict.fromkeys(wanted))


def cells_of(name: str, choices: Choices, settings: MatrixSettings) -> Iterator[Cell]:
    """The cells of one process."""
    process, shape = _process(choices.processes[name])
    data = Gaussian(process, settings.mean, settings.std)
    samplers: dict[str, tuple[Sampler, Found | None]] = {}
    for sampler in choices.samplers:
        for prediction in choices.predictions:
            cell = Cell(name, sampler, prediction)
            try:
                yield _measured(cell, data, shape, choices, samplers, settings)
            except ConfigError as error:
                yield replace(cell, reason=str(error))
            except SamplingError as error:
                yield replace(cell, reason=str(error), broken=True)


def _process(node: Mapping[str, Any]) -> tuple[Process, tuple[int, int, int]]:
    """The process on images that are as small as its operators allow."""
    process = make_node(node, "process")
    coupled = process.on(_SHAPES[1]) is not process
    shape = _SHAPES[1] if coupled else _SHAPES[0]
    return process.on(shape), shape


def _measured(
    cell: Cell,
    data: Gaussian,
    shape: tuple[int, int, int],
    choices: Choices,
    samplers: dict[str, tuple[Sampler, Found | None]],
    settings: MatrixSettings,
) -> Cell:
    """The cell with its numbers; ConfigError and SamplingError say why there are none.

    Samplers are kept for the other predictions, with the plans that they have made, and what was found first.
    """
    denoiser, told = _denoiser(choices.predictions[cell.prediction], data)
    grid, words = _grid(cell, choices, denoiser)
    key = f"{cell.sampler} {grid}"
    if key not in samplers:
        samplers[key] = make_node(_sampler(choices.samplers[cell.sampler], grid, choices.default), "sampler"), None
    sampler, known = samplers[key]
    found = examine(sampler, denoiser, shape, settings.nfe, known)
    samplers[key] = sampler, known or found
    unclipped = ("sampler.clip=false",) if choices.samplers[cell.sampler].get("clip") else ()
    return replace(
        cell,
        words=(*words, *told, *unclipped),
        nfe=found.nfe,
        errors=found.errors,
        order=found.order,
        declared=sampler.stepper.order,
    )


def _denoiser(node: Mapping[str, Any], data: Gaussian) -> tuple[Voiced, tuple[str, ...]]:
    """The exact denoiser of a prediction, told the table's index where the process counts its times, and that word."""
    head = make_node(node, "prediction")
    try:
        check_told(head, data.process)
        return Voiced(data, head), ()
    except ConfigError:
        if data.process.num_steps is None or "time" not in node:
            raise
        return Voiced(data, make_node({**node, "time": "index"}, "prediction")), ("prediction.time=index",)


def _grid(cell: Cell, choices: Choices, denoiser: Voiced) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The grid of the cell's home; a consistency function's ends where its jumps do, and a list is the first time."""
    home = cell.sampler if cell.sampler in choices.words else cell.process
    grid, words = dict(choices.grids[home]), choices.words[home]
    if "jump" in denoiser.gives:
        grid["t_end"] = denoiser.head.end(denoiser.process)
        words = (*words, f"grid.t_end={grid['t_end']:g}")
    if grid.get("values") == []:
        grid["values"] = [denoiser.process.t_prior]
        words = (*words, f"grid.values=[{denoiser.process.t_prior:g}]")
    return grid, words


def _sampler(node: Mapping[str, Any], grid: dict[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's node on another grid, without clipping; one with times of its own takes their ends."""
    own = node["grid"]
    shared = {key: grid[key] for key in ("t_end", "last") if key in own}
    return {**node, "clip": False, "grid": grid if own == default else {**own, **shared}}
