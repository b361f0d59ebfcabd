"""The report of several runs: a sweep's, or of all below a folder. `report.md`, `results.csv`, the figure.

What differs between the runs are columns beside the rows of results; rows of different protocols never share a column.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.evaluation import published, roster, section, trainings
from diffexp.evaluation.chain import chains
from diffexp.evaluation.collect import MOST_COLUMNS, TARGET, Run, collect, telling, varied
from diffexp.evaluation.document import Block, Heading, Picture, Table
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.report import REPORT_FILE, cited, distinct, figures, write_pages
from diffexp.evaluation.results import COLUMNS, RESULTS_FILE, Row, cells
from diffexp.evaluation.table import (
    Summary,
    require_one_protocol,
    spell_spread,
    summarise_controls,
    summarise_groups,
)

_MOST_PICTURES = 16
_NAME = "run"  # the column that tells runs apart when nothing that was said does
# Settings that the columns `sampler` and `grid` of the results, or the protocol, tell by themselves.
_TOLD = ("sampler", "grid", "evaluation")


def write_overview(folder: Path, required: bool = False) -> Path:
    """Write the report of all runs of a sweep folder, or below any folder, into it.

    Args:
        folder: of the sweep, or above the runs.
        required: whether a folder of runs without a single number is refused; a sweep that has just ended says also
            how that came about.

    Returns:
        the path of the report, relative to the working folder where that is shorter.

    Raises:
        DiffexpError: see `collect`; or a protocol is not on record; or there is nothing to report.
    """
    runs = collect(folder)
    keys = varied([run.settings for run in runs])
    groups = _groups(runs)
    if required and not groups:
        raise DiffexpError(
            f"sweep={folder}: no results in any of its {roster.counts(runs)}; run it again, or task=evaluate"
        )
    if groups:
        _write_rows(folder / RESULTS_FILE, groups, keys)
    parts: list[Block] = [*roster.head(folder, runs), *roster.jobs(runs, keys, folder), *roster.unfinished(runs)]
    parts += chains(runs)
    names = dict.fromkeys(row.protocol for group in groups for row in group.run.rows)
    used = [require_one_protocol(_rows(groups, name), _protocols(groups)) for name in names]
    parts += section.protocols(used)
    for protocol in used:
        parts += _section(folder, protocol, groups, used)
    recipes = {str(run.config.get("recipe")): run.config for run in runs if run.config}
    configs, rows = list(recipes.values()), [row for group in groups for row in group.run.rows]
    if len(recipes) == 1:  # of several runs each sampler would have several columns: their own reports have them
        parts += published.published(configs[0], used, rows if len(groups) == 1 else ())
    parts += [*_samples(folder, groups), *roster.configurations(runs, keys[:MOST_COLUMNS])]  # long: after the numbers
    write_pages(folder, [*parts, *_provenance(groups), *cited(folder, configs, used, rows)])
    return Path(min(os.path.relpath(folder), str(folder), key=len)) / REPORT_FILE


@dataclass(frozen=True)
class _Group:
    """A run folder with results.

    Attributes:
        run: the run, or the first of several jobs that share the folder.
        names: the names of those jobs.
        settings: what tells the folder from the others, as columns.
        tag: the same as text for labels.
    """

    run: Run
    names: tuple[str, ...]
    settings: Mapping[str, str]
    tag: str = ""


def _groups(runs: Sequence[Run]) -> list[_Group]:
    """The folders with results; a setting of which jobs of one folder have several values does not tell it apart."""
    folders: dict[Path, list[Run]] = {}
    for run in runs:
        if run.folder is not None and run.rows:
            folders.setdefault(run.folder.resolve(), []).append(run)
    shared = [
        {key: value for key, value in jobs[0].settings.items() if all(job.settings.get(key) == value for job in jobs)}
        for jobs in folders.values()
    ]
    groups = [
        _Group(jobs[0], tuple(job.name for job in jobs), settings)
        for jobs, settings in zip(folders.values(), shared, strict=True)
    ]
    keys = varied(shared)
    plain = [key for key in keys if key.split(".")[0] not in _TOLD]
    for chosen in (plain, keys):
        tagged = [_tagged(group, telling(shared, chosen)) for group in groups]
        if _distinct(tagged):
            return tagged
    return [_tagged(group, [*keys, _NAME]) for group in groups]


def _tagged(group: _Group, keys: Sequence[str]) -> _Group:
    settings = {
        key.removesuffix(TARGET): group.run.name if key == _NAME else _brief(key, group.settings.get(key, "–"))
        for key in keys
    }
    return replace(group, settings=settings, tag=", ".join(f"{key}={value}" for key, value in settings.items()))


def _brief(key: str, value: str) -> str:
    """A class by its own name; other values as they are."""
    return value.rpartition(".")[2] if key.endswith(TARGET) else value


def _distinct(groups: Sequence[_Group]) -> bool:
    """Whether no arm of a run goes by the same name as one of another run."""
    arms = [
        {(group.tag, row.sampler, row.grid, row.nfe, row.protocol) for row in group.run.rows if row.control is None}
        for group in groups
    ]
    return sum(map(len, arms)) == len(set().union(*arms))


def _rows(groups: Sequence[_Group], protocol: str) -> list[Row]:
    return [row for group in groups for row in group.run.rows if row.protocol == protocol]


def _protocols(groups: Sequence[_Group]) -> dict[str, Protocol]:
    return {name: protocol for group in groups for name, protocol in group.run.protocols.items()}


def _section(folder: Path, protocol: Protocol, groups: Sequence[_Group], used: Sequence[Protocol]) -> list[Block]:
    """Figure and tables of one protocol."""
    tagged = [(group.tag, [row for row in group.run.rows if row.protocol == protocol.hash]) for group in groups]
    arms, controls = summarise_groups(tagged), summarise_controls(_rows(groups, protocol.hash))
    stem, others = distinct(protocol, used)
    title = " · ".join(dict.fromkeys(row.experiment for row in _rows(groups, protocol.hash)))
    origins = [entry for group in groups for entry in group.run.provenances]
    drawn = figures(folder / stem, arms, controls, protocol, title, origins) if arms else []
    one_seed = len({group.settings.get("seed") for group, (_, rows) in zip(groups, tagged, strict=True) if rows}) == 1
    tables = [*_matrix(arms, groups), *trainings.blocks(arms, {group.tag: group.settings for group in groups})]
    return section.measured(protocol, arms, controls, drawn, others, tables, compares=one_seed)


def _matrix(arms: Sequence[Summary], groups: Sequence[_Group]) -> list[Block]:
    """A line for each run and sampler: what differs, and the distance at each budget."""
    if not arms:
        return []
    settings = {group.tag: group.settings for group in groups}
    keys = list(next(iter(settings.values())))[:MOST_COLUMNS]
    budgets = sorted({arm.nfe for arm in arms if arm.nfe is not None})
    found = {(arm.tag, arm.label, arm.nfe): spell_spread(arm) for arm in arms}
    lines = dict.fromkeys((arm.tag, arm.label, arm.plain_label) for arm in arms)
    body = [
        [*(settings[tag][key] for key in keys), plain, *(found.get((tag, label, budget), "") for budget in budgets)]
        for tag, label, plain in lines
    ]
    header = [*keys, "sampler", *(f"NFE {budget}" for budget in budgets)]
    return [Table(header, body, len(keys) + 1), section.caption(arms)]


def _samples(folder: Path, groups: Sequence[_Group]) -> list[Block]:
    """The picture grids of all runs, where they are few enough to be looked at together."""
    found = [
        Picture(Path(os.path.relpath(path, folder)).as_posix(), f"Samples, {group.tag}", group.tag or group.run.name)
        for group in groups
        for path in sorted((group.run.folder or folder).glob("samples_*.png"))
    ]
    if not 0 < len(found) <= _MOST_PICTURES:
        return []
    intro = "A column starts from the same noise in every row, for every sampler and run of one evaluation seed."
    return [Heading(2, "Samples"), intro, *found]


def _provenance(groups: Sequence[_Group]) -> list[Block]:
    """What the runs were made with; one line where all are equal."""
    found: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        for entry in group.run.provenances:
            versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
            facts = (f"`{entry.commit}`" if entry.commit else "unknown", entry.device, entry.precision, versions)
            found.setdefault(facts, []).extend(group.names)
    if not found:
        return []
    body = [[", ".join(dict.fromkeys(names)), *facts] for facts, names in found.items()]
    return [Heading(2, "Provenance"), Table(["runs", "commit", "device", "precision", "versions"], body)]


def _write_rows(path: Path, groups: Sequence[_Group], keys: Sequence[str]) -> None:
    """All rows of all runs as one tidy file: what differs between the runs stands before the columns of a run's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "folder", *(f"run.{key}" for key in keys), *COLUMNS])
    for group in groups:
        settings = group.run.settings if len(group.names) == 1 else group.settings
        place = Path(os.path.relpath(group.run.folder or "", path.parent)).as_posix()
        own = [" ".join(group.names), place, *(settings.get(key, "") for key in keys)]
        writer.writerows([*own, *cells(row)] for row in group.run.rows)
    write_text_atomic(path, text.getvalue())
