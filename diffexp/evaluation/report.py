"""The report of a run and its figures: what was measured, how, and from what; made from the run folder alone.

report.md     for reading beside code                    distance.*, pareto_distance.*   the figures
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.evaluation import published, section, selection
from diffexp.evaluation.chart import Chart, distance_chart
from diffexp.evaluation.document import Block, Figure, Heading, Table
from diffexp.evaluation.markdown import markdown
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.page import page
from diffexp.evaluation.pareto import front, pareto_chart
from diffexp.evaluation.plot import draw_chart
from diffexp.evaluation.protocol import Protocol, Provenance, read_protocols, read_provenances
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.evaluation.table import Summary, require_one_protocol, spell_spread, summarise_arms, summarise_controls
from diffexp.launch.folder import CONFIG
from diffexp.launch.layout import read_yaml

REPORT_FILE, PAGE_FILE = "report.md", "report.html"


def write_report(folder: Path) -> Path:
    """Draw the figures and write the report into a run folder.

    Args:
        folder: holds results.csv with protocol.json, and where there are, provenance.json, config.yaml (the frozen
            configuration, for the recipe's `paper` block) and samples_*.png.

    Returns:
        the path of `report.md`.

    Raises:
        DiffexpError: when the folder holds neither results nor samples, or a file in it is not what it should be.
    """
    rows = read_rows(folder / RESULTS_FILE)
    pictures = sorted(path.name for path in folder.glob("samples_*.png"))
    if not rows and not pictures:
        raise DiffexpError(f"{folder} holds no results.csv and no samples: run task=evaluate first")
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    protocols, origins = read_protocols(folder), read_provenances(folder)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.protocol, []).append(row)
    used = [require_one_protocol(group, protocols) for group in groups.values()]
    parts = section.head(config, rows)
    if not rows:
        parts.append("No distance was measured: the evaluation had no feature extractor.")
    for protocol, group in zip(used, groups.values(), strict=True):
        parts += _measured(folder, protocol, group, used, origins)
    parts += selection.section(folder)
    parts += [*section.samples(pictures), *published.published(config, used)]
    parts += [*section.provenance(origins, rows), *section.reproduce(config)]
    return write_pages(folder, parts)


def write_pages(folder: Path, blocks: Sequence[Block]) -> Path:
    """Write a report in all its forms into `folder`; return the path of `report.md`."""
    path = folder / REPORT_FILE
    write_text_atomic(path, markdown(blocks) + "\n")
    write_text_atomic(folder / PAGE_FILE, page(blocks, folder))
    return path


def _measured(
    folder: Path, protocol: Protocol, rows: list[Row], used: list[Protocol], origins: Sequence[Provenance]
) -> list[Block]:
    """Figures and tables of one protocol."""
    arms, controls = summarise_arms(rows), summarise_controls(rows)
    stem, others = distinct(protocol, used)
    title = " · ".join(dict.fromkeys(row.experiment for row in rows))
    drawn = figures(folder / stem, arms, controls, protocol, title, origins) if arms else []
    return section.measured(protocol, arms, controls, drawn, others)


def figures(
    path: Path,
    arms: Sequence[Summary],
    controls: Sequence[Summary],
    protocol: Protocol,
    title: str,
    origins: Sequence[Provenance],
) -> list[Block]:
    """Draw the charts of some arms, all of one protocol, and say what they show.

    Args:
        path: of the distances' chart without suffix; the other files are named after it.
        title: which runs.
        origins: where the rows come from: times of different devices are not compared.
    """
    found: list[Block] = [_drawn(distance_chart(arms, controls, protocol, title), path)]
    chart, devices = pareto_chart(arms, controls, protocol, title), sorted({origin.device for origin in origins})
    if chart is None:
        return found
    found.append(Heading(3, chart.name))
    if len(devices) > 1:
        return [*found, f"Times of different devices ({', '.join(devices)}) are not comparable: there is no front."]
    body = [[arm.label, f"{arm.nfe:g}", f"{1000 * (arm.seconds or 0.0):.3g}", spell_spread(arm)] for arm in front(arms)]
    table = Table(["on the front", "NFE", "ms per image", protocol.metric], body, 1)
    return [*found, _drawn(chart, path.with_name(f"pareto_{path.name}")), table]


def _drawn(chart: Chart, path: Path) -> Figure:
    return Figure(chart, tuple(file.name for file in draw_chart(chart, path)))


def distinct(protocol: Protocol, used: Sequence[Protocol]) -> tuple[str, list[Protocol]]:
    """The name of a protocol's plot among those of a report, and the other protocols that it might be confused with."""
    stem = meaning(protocol.metric).stem
    others = [other for other in used if other is not protocol and meaning(other.metric).stem == stem]
    return (f"{stem}_{protocol.hash}" if others else stem), others
