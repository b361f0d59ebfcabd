"""The report of a run and its figures: what was measured, how, and from what; made from the run folder alone.

report.md     for reading beside code                    distance.*, pareto_distance.*   the figures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.evaluation import published, section, selection
from diffexp.evaluation.chart import Chart, distance_chart
from diffexp.evaluation.citation import references
from diffexp.evaluation.document import Block, Code, Figure, Heading, Table
from diffexp.evaluation.latex import latex
from diffexp.evaluation.markdown import markdown
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.neighbours import neighbours
from diffexp.evaluation.page import page
from diffexp.evaluation.pareto import front, pareto_chart
from diffexp.evaluation.plot import draw_chart, draw_table
from diffexp.evaluation.protocol import Protocol, Provenance, read_protocols, read_provenances
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.evaluation.table import Summary, require_one_protocol, spell_spread, summarise_arms, summarise_controls
from diffexp.launch.folder import CONFIG
from diffexp.launch.layout import read_yaml

REPORT_FILE, PAGE_FILE, REFERENCES_FILE = "report.md", "report.html", "references.bib"


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
    parts += section.protocols(used)
    if not rows:
        parts.append("No distance was measured: the evaluation had no feature extractor.")
    for protocol, group in zip(used, groups.values(), strict=True):
        parts += _measured(folder, protocol, group, used, origins)
    parts += selection.section(folder)
    parts += [*section.samples(pictures), *neighbours(folder), *published.published(config, used, rows)]
    parts += [*section.provenance(origins, rows), *section.reproduce(config)]
    return write_pages(folder, [*parts, *cited(folder, [config], used, rows)])


def cited(
    folder: Path, configs: Sequence[Mapping[str, Any]], used: Sequence[Protocol], rows: Sequence[Row]
) -> list[Block]:
    """Write the BibTeX of the papers used into `folder`, and show it; empty where none is known."""
    found = references(configs, used, rows)
    if not found:
        return []
    text = "\n".join(found.values())
    write_text_atomic(folder / REFERENCES_FILE, text + "\n")
    intro = (
        f"Papers of the recipe, the samplers, the metrics and the data, as far as known: [BibTeX]({REFERENCES_FILE})."
    )
    return [Heading(2, "References"), intro, Code(text)]


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
    charts = [(distance_chart(arms, controls, protocol, title), path)]
    found: list[Block] = [_drawn(*charts[0]), ""]
    chart, devices = pareto_chart(arms, controls, protocol, title), sorted({origin.device for origin in origins})
    if chart is not None and meaning(protocol.metric).distance:
        found.append(Heading(3, chart.name))
        if len(devices) > 1:
            found.append(f"Times of different devices ({', '.join(devices)}) are not comparable: there is no front.")
        else:
            charts.append((chart, path.with_name(f"pareto_{path.name}")))
            found += [_drawn(*charts[1]), _front(arms, protocol)]
    found[1] = _for_papers(path, arms, controls, protocol, charts)
    return found


def _front(arms: Sequence[Summary], protocol: Protocol) -> Table:
    """The arms that no other beats."""
    body = [[arm.label, f"{arm.nfe:g}", f"{1000 * (arm.seconds or 0.0):.3g}", spell_spread(arm)] for arm in front(arms)]
    return Table(["on the front", "NFE", "ms per image", protocol.metric], body, 1)


def _for_papers(
    path: Path,
    arms: Sequence[Summary],
    controls: Sequence[Summary],
    protocol: Protocol,
    charts: Sequence[tuple[Chart, Path]],
) -> str:
    """Write table and figures as LaTeX, and the table as PDF; where they are."""
    code, sheet = path.with_suffix(".tex"), path.with_name(f"{path.name}_table.pdf")
    drawings = [(chart.name, place.with_suffix(".pdf").name) for chart, place in charts]
    write_text_atomic(code, latex(arms, controls, protocol, drawings))
    draw_table(section.matrix(arms), sheet)
    return f"For papers: [table and figures as LaTeX]({code.name}), [table as PDF]({sheet.name})."


def _drawn(chart: Chart, path: Path) -> Figure:
    return Figure(chart, tuple(file.name for file in draw_chart(chart, path)))


def distinct(protocol: Protocol, used: Sequence[Protocol]) -> tuple[str, list[Protocol]]:
    """The name of a protocol's plot among those of a report, and the other protocols that it might be confused with."""
    stem, others = meaning(protocol.metric).stem, section.confusable(protocol, used)
    return (f"{stem}_{protocol.hash}" if others else stem), others
