"""The recipe's published numbers beside the measured ones, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import Summary, spell_spread, summarise_arms

PAPER_N = 50_000  # images behind a published FID


def published(config: Mapping[str, Any], protocols: Sequence[Protocol], rows: Sequence[Row] = ()) -> list[Block]:
    """The section of the recipe's `paper.results` beside what was measured; empty where the paper has no numbers.

    For each data set and metric of the paper: what differs between its protocol and the nearest one here, field by
    field, and the numbers of both, each sampler in a column of its own, so that no column mixes protocols.

    Args:
        config: frozen; its `paper.results` are the published numbers.
        protocols: of the measured ones.
        rows: the measured ones.
    """
    results = (config.get("paper") or {}).get("results") or []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((str(result["dataset"]), str(result["metric"])), []).append(result)
    if not groups:
        return []
    parts: list[Block] = [Heading(2, "Published")]
    for (dataset, metric), entries in groups.items():
        parts.append(_caption(dataset, metric, entries, protocols))
        near = _nearest(dataset, metric, entries, protocols)
        arms = [] if near is None else summarise_arms(row for row in rows if row.protocol == near.hash)
        if near is not None:
            parts.append(_fields(dataset, metric, entries, near, max((len(arm.values) for arm in arms), default=0)))
        parts.append(_table(entries, arms))
    return parts


def incomparable(dataset: str, metric: str, protocol: Protocol, n: int | None = None) -> list[str]:
    """Why published numbers are not comparable with those of a protocol; empty when nothing is known to differ.

    Args:
        dataset, metric: as the paper calls them.
        protocol: of the measured numbers.
        n: images behind the published numbers; None: as a rule `PAPER_N`.
    """
    reasons = []
    if _plain(dataset) != _plain(protocol.dataset):
        reasons.append(f"other data ({dataset} there, {protocol.dataset} here)")
    if _plain(metric) != _plain(protocol.metric):
        reasons.append(f"other metric ({metric} there, {protocol.metric} here)")
    if protocol.n != (n or PAPER_N):
        there = f"{n:,}" if n else f"{PAPER_N:,} as a rule"
        reasons.append(f"other number of images ({there} there, {protocol.n:,} here)")
    return reasons


def _caption(dataset: str, metric: str, entries: Sequence[Mapping[str, Any]], protocols: Sequence[Protocol]) -> str:
    tables = sorted({str(entry["table"]) for entry in entries})
    text = f"{metric} on {dataset} as the paper prints it (table {', '.join(tables)})."
    n = entries[0].get("n")
    reasons = [incomparable(dataset, metric, protocol, n) for protocol in protocols]
    if not reasons:
        return text
    closest = min(reasons, key=len)
    if closest:
        return f"{text} **Not comparable with the numbers above**: {'; '.join(closest)}."
    return f"{text} Measured on the same data with the same metric and n; quantisation and reference may differ."


def _nearest(
    dataset: str, metric: str, entries: Sequence[Mapping[str, Any]], protocols: Sequence[Protocol]
) -> Protocol | None:
    """The protocol with the fewest reasons against a comparison; None without any."""
    n = entries[0].get("n")
    return min(protocols, key=lambda protocol: len(incomparable(dataset, metric, protocol, n)), default=None)


def _fields(dataset: str, metric: str, entries: Sequence[Mapping[str, Any]], protocol: Protocol, seeds: int) -> Table:
    """Both protocols, field by field; papers leave much of theirs unsaid."""
    n = entries[0].get("n")
    unknown, fid = "not stated in the recipe", _plain(metric) == "fid"
    other = fid and _plain(protocol.metric) != "fid"
    body = [
        ["data", dataset, f"{protocol.dataset}, split {protocol.split}", _plain(dataset) == _plain(protocol.dataset)],
        ["metric", metric, protocol.metric, _plain(metric) == _plain(protocol.metric)],
        ["images", f"{n:,}" if n else f"{PAPER_N:,} as a rule", f"{protocol.n:,}", protocol.n == (n or PAPER_N)],
        ["number", "as printed", f"mean over {seeds} evaluation seeds", None],
        ["features", "Inception" if fid else unknown, protocol.extractor, False if other else None],
        ["quantisation, resize", unknown, f"{protocol.quantise}, {protocol.resize}", None],
    ]
    words = {True: "same", False: "**differs**", None: "may differ"}
    return Table(["protocol", "published", "measured", ""], [[*map(str, row[:3]), words[row[3]]] for row in body])


def _table(entries: Sequence[Mapping[str, Any]], arms: Sequence[Summary]) -> Table:
    """A line for each budget, a column for each sampler of the paper and then of the report."""
    cells: dict[str, dict[float, str]] = {}
    for entry in entries:
        cells.setdefault(f"published: {entry['sampler']}", {})[int(entry["nfe"])] = str(entry["value"])
    for arm in arms:
        if arm.nfe is not None:
            cells.setdefault(f"measured: {arm.label}", {})[arm.nfe] = spell_spread(arm)
    budgets = sorted({budget for found in cells.values() for budget in found})
    body = [[f"{budget:g}", *(found.get(budget, "") for found in cells.values())] for budget in budgets]
    return Table(["NFE", *cells], body, 1)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
