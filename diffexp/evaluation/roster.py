"""The runs of a report of several: how they ended, what is not done, and how their configurations differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffexp.evaluation.collect import MOST_COLUMNS, Run, command_line
from diffexp.evaluation.document import Block, Heading, Item, Table
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.report import REPORT_FILE
from diffexp.evaluation.table import best_of, spell_spread, summarise_groups
from diffexp.launch.difference import flat, table_of

_MOST_RUNS = 12  # beside each other


def head(folder: Path, runs: Sequence[Run]) -> list[Block]:
    """Title, and how many ended how."""
    recipes = ", ".join(dict.fromkeys(str(run.config["recipe"]) for run in runs if run.config.get("recipe")))
    title = f"{'Sweep' if runs[0].command else 'Runs below'} {folder.resolve().name}"
    return [Heading(1, f"{title}: {recipes}" if recipes else title), f"{counts(runs)}."]


def counts(runs: Sequence[Run]) -> str:
    """How many runs ended how."""
    states = dict.fromkeys(run.state for run in runs)
    return f"{len(runs)} runs: " + ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)


def jobs(runs: Sequence[Run], keys: Sequence[str], folder: Path) -> list[Block]:
    """One line for each run: what differs, how it ended, its best distance of each protocol, where it is."""
    shown, hidden = keys[:MOST_COLUMNS], keys[MOST_COLUMNS:]
    used = _protocols(runs)
    names = ["best" if len(used) < 2 else f"best, protocol `{name}`" for name in used or [""]]
    body = [
        [
            run.name, *(run.settings.get(key, "–") for key in shown), run.state,
            *(_best(run, name) for name in used or [""]), _link(run, folder),
        ]
        for run in runs
    ]  # fmt: skip
    rest = [f"These differ too: {', '.join(f'`{key}`' for key in hidden)}."] if hidden else []
    return [Table(["run", *shown, "state", *names, "folder"], body), *rest]


def _protocols(runs: Sequence[Run]) -> list[str]:
    """The protocols of distances, or where there are none, that of the first number."""
    metrics = {row.protocol: row.metric for run in runs for row in run.rows if row.control is None}
    return [name for name, metric in metrics.items() if meaning(metric).distance] or list(metrics)[:1]


def _best(run: Run, protocol: str) -> str:
    """The best mean of a run under a protocol."""
    best = best_of(summarise_groups([("", [row for row in run.rows if row.protocol == protocol])]))
    return "–" if best is None else f"{best.metric} {spell_spread(best)} ({best.label}, NFE {best.nfe})"


def _link(run: Run, folder: Path) -> str:
    if run.folder is None:
        return "–"
    target = Path(os.path.relpath(run.folder, folder))
    report = target / REPORT_FILE
    return f"[{target.name}]({(report if (folder / report).is_file() else target).as_posix()})"


def unfinished(runs: Sequence[Run]) -> list[Block]:
    """What did not end well, why, and the command for it."""
    left = [run for run in runs if run.state != "ok"]
    if not left:
        return []
    parts: list[Block] = [Heading(2, "Not done")]
    for run in left:
        text = f"run {run.name}, {run.state}" + (f": {run.message}" if run.message else "")
        parts.append(Item(text, command_line(run.command) if run.command else ""))
    if any(run.command for run in left):
        parts.append("The same sweep again does these alone: what is complete is not repeated.")
    return parts


def configurations(runs: Sequence[Run], told: Sequence[str]) -> list[Block]:
    """The keys whose values differ between the runs' configurations; empty where that is no more than what is `told`.

    Jobs that share a folder, and runs that are configured alike, share a column; of many only the first are shown.
    """
    columns: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        if run.config:
            leaves = flat(run.config)
            columns.setdefault(repr(sorted(leaves.items())), (leaves, []))[1].append(run.name)
    first = list(columns.values())[:_MOST_RUNS]
    rows = table_of([leaves for leaves, _ in first])
    if {key for key, *_ in rows} <= set(told):
        return []
    header = ["key", *(", ".join(names) for _, names in first)]
    body = [[f"`{key}`", *cells] for key, *cells in rows]
    left = len(columns) - len(first)
    more = [f"{left} more differ in these or other keys; `config.yaml` of each says all."] if left > 0 else []
    intro = "Where the resolved configurations of the runs differ; whatever is not listed is the same in all of them."
    return [Heading(2, "Configurations"), intro, Table(header, body), *more]
