"""Tables and figures for papers: LaTeX with booktabs beside the report, and BibTeX of what was used."""

from __future__ import annotations

import re
from collections.abc import Sequence

from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.table import FLOORS, Summary, best_of, spell_spread

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "×": r"$\times$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip

_BOLD = "Bold: the best mean of several at an NFE."


def latex(
    arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol, figures: Sequence[tuple[str, str]]
) -> str:
    """A table of all arms, the best of each budget bold, and the figures; the protocol stands in the captions.

    Args:
        figures: (what it is, file name of its PDF).
    """
    lines = ["% needs \\usepackage{booktabs} and \\usepackage{graphicx}", *_table(arms, controls, protocol)]
    for name, file in figures:
        lines += [
            "", r"\begin{figure}", r"  \centering", rf"  \includegraphics[width=\linewidth]{{{file}}}",
            rf"  \caption{{{escape(name)}: {_caption(arms, protocol)}}}", rf"  \label{{fig:{_label(file)}}}",
            r"\end{figure}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(arms: Sequence[Summary], controls: Sequence[Summary], protocol: Protocol) -> list[str]:
    """Rows are samplers, columns budgets; floors stand below a rule of their own."""
    budgets = sorted({arm.nfe for arm in arms if arm.nfe is not None})
    found = {(arm.label, arm.nfe): arm for arm in arms}
    groups = {budget: [arm for arm in arms if arm.nfe == budget] for budget in budgets}
    best = {budget: best_of(group) if len(group) > 1 else None for budget, group in groups.items()}
    body = []
    for label in dict.fromkeys(arm.label for arm in arms):
        cells = [_cell(arm, arm is best[budget]) if (arm := found.get((label, budget))) else "" for budget in budgets]
        body.append(f"    {' & '.join([escape(label), *cells])} \\\\")
    floors = [
        rf"    {escape(control.label)} & \multicolumn{{{len(budgets)}}}{{c}}{{{_cell(control, False)}}} \\"
        for control in controls
        if control.label in FLOORS
    ]
    return [
        r"\begin{table}", r"  \centering", rf"  \caption{{{_caption(arms, protocol)} {_BOLD}}}",
        rf"  \label{{tab:{_label(protocol.metric)}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(budgets)}}}", r"    \toprule",
        f"    NFE & {' & '.join(f'{budget:g}' for budget in budgets)} \\\\", r"    \midrule", *body,
        *([r"    \midrule", *floors] if floors else []), r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ]  # fmt: skip


def _cell(arm: Summary, bold: bool) -> str:
    """A mean with its spread; the bold face is the mean's."""
    mean, _, spread = spell_spread(arm).partition(" ± ")
    text = rf"\mathbf{{{mean}}}" if bold else mean
    return f"${text} \\pm {spread}$" if spread else f"${text}$"


def _caption(arms: Sequence[Summary], protocol: Protocol) -> str:
    said, seeds = meaning(protocol.metric), max(len(arm.values) for arm in arms)
    spread = f"mean and standard deviation over {seeds} evaluation seeds" if seeds > 1 else "one evaluation seed"
    text = (
        f"{said.title} ({protocol.metric}; {said.better}) of {protocol.n:,} images, {protocol.dataset}, "
        f"split {protocol.split}, features {protocol.extractor}, {protocol.quantise} to 8 bits, protocol "
        f"{protocol.hash}; {spread}."
    )
    return escape(text)


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name.rpartition(".")[0] or name).strip("-")
