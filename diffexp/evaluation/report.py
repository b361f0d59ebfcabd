"""`report.md` and its plots: what was measured, how, and from what; made from the run folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_text_atomic
from diffexp.evaluation import published, section
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.plot import draw_distance
from diffexp.evaluation.protocol import Protocol, read_protocols, read_provenances
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.evaluation.table import require_one_protocol, summarise_arms, summarise_controls
from diffexp.launch.folder import CONFIG
from diffexp.launch.layout import read_yaml

REPORT_FILE = "report.md"


def write_report(folder: Path) -> Path:
    """Draw the plots and write `report.md` into a run folder.

    Args:
        folder: holds results.csv with protocol.json, and where there are, provenance.json, config.yaml (the frozen
            configuration, for the recipe's `paper` block) and samples_*.png.

    Returns:
        the path of the report.

    Raises:
        DiffexpError: when the folder holds neither results nor samples, or a file in it is not what it should be.
    """
    rows = read_rows(folder / RESULTS_FILE)
    pictures = sorted(path.name for path in folder.glob("samples_*.png"))
    if not rows and not pictures:
        raise DiffexpError(f"{folder} holds no results.csv and no samples: run task=evaluate first")
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    protocols = read_protocols(folder)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.protocol, []).append(row)
    used = [require_one_protocol(group, protocols) for group in groups.values()]
    parts = [section.head(config, rows)]
    if not rows:
        parts.append("No distance was measured: the evaluation had no feature extractor.")
    for protocol, group in zip(used, groups.values(), strict=True):
        parts.append(_measured(folder, protocol, group, used))
    parts += [section.samples(pictures), published.published(config, used)]
    parts += [section.provenance(read_provenances(folder), rows), section.reproduce(config)]
    path = folder / REPORT_FILE
    write_text_atomic(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _measured(folder: Path, protocol: Protocol, rows: list[Row], used: list[Protocol]) -> str:
    """Plot and tables of one protocol."""
    arms, controls = summarise_arms(rows), summarise_controls(rows)
    stem, others = distinct(protocol, used)
    images = []
    if arms:
        title = " · ".join(dict.fromkeys(row.experiment for row in rows))
        images = [file.name for file in draw_distance(arms, controls, protocol, folder / stem, title)]
    return section.measured(protocol, arms, controls, images, others)


def distinct(protocol: Protocol, used: Sequence[Protocol]) -> tuple[str, list[Protocol]]:
    """The name of a protocol's plot among those of a report, and the other protocols that it might be confused with."""
    stem = meaning(protocol.metric).stem
    others = [other for other in used if other is not protocol and meaning(other.metric).stem == stem]
    return (f"{stem}_{protocol.hash}" if others else stem), others
