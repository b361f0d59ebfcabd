"""The recipe's published numbers beside the measured ones, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.protocol import Protocol

PAPER_N = 50_000  # images behind a published FID


def published(config: Mapping[str, Any], protocols: Sequence[Protocol]) -> list[Block]:
    """The section of the recipe's `paper.results`, one table for each (data set, metric); empty without any."""
    results = (config.get("paper") or {}).get("results") or []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((str(result["dataset"]), str(result["metric"])), []).append(result)
    if not groups:
        return []
    parts: list[Block] = [Heading(2, "Published")]
    for (dataset, metric), entries in groups.items():
        parts += [_caption(dataset, metric, entries, protocols), _table(entries)]
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


def _table(entries: Sequence[Mapping[str, Any]]) -> Table:
    budgets = sorted({int(entry["nfe"]) for entry in entries})
    rows: dict[str, dict[int, str]] = {}
    for entry in entries:
        rows.setdefault(str(entry["sampler"]), {})[int(entry["nfe"])] = str(entry["value"])
    body = [[name, *(found.get(budget, "") for budget in budgets)] for name, found in rows.items()]
    return Table(["NFE", *map(str, budgets)], body, 1)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
