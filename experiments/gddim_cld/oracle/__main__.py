"""Measure the paper's claims on exact noise estimates and write oracle.md and oracle.png beside the card.

    python -m experiments.gddim_cld.oracle     # a few minutes on one CPU core
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from experiments.gddim_cld.oracle import blurring, claims
from experiments.gddim_cld.oracle.blurring import BUDGETS

FOLDER = Path(__file__).parents[1]
NFE = (20, 50)
FACTOR_NFE = (10, 20, 30, 40, 50)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:.2e}" if value < 1e-3 or value >= 1e3 else f"{value:.4f}"


def _stochasticity() -> tuple[list[str], dict[int, list[tuple[float, float, float, float]]]]:
    found = {nfe: claims.stochasticity(nfe) for nfe in NFE}
    floor = claims.Lab(claims.SHOWN, claims.CLD()).floor
    text = [
        "## Stochasticity",
        f"Wasserstein-1 distance of a pixel's law from the exact one at t = {claims.END:g}; data: {claims.SHOWN}. "
        f"As many exact samples have {_number(floor)} (the Monte-Carlo floor).",
    ]
    for nfe, rows in found.items():
        head = [f"lambda, NFE {nfe}", "gDDIM order 1, CLD", "Euler-Maruyama, CLD", "gDDIM order 1, VP"]
        text.append(_table(head, [[f"{row[0]:g}", *map(_number, row[1:])] for row in rows]))
    return text, found


def _factors() -> tuple[list[str], list[tuple[int, int, list[float]]]]:
    text, shown = ["## R against L, with one and the same estimate"], []
    text.append("Root mean square distance from the exact end of the trajectory, and Wasserstein-1 as above.")
    for data in ("two wide modes", "a narrow and a wide mode"):
        found = claims.factors(data, FACTOR_NFE)
        shown = shown or found
        head = [f"NFE (order); {data}", "path, R", "path, L", "law, R", "law, L"]
        text.append(_table(head, [[f"{nfe} ({order})", *map(_number, errors)] for nfe, order, errors in found]))
    return text, shown


def _drift() -> list[str]:
    rows = [[data, *map(_number, claims.drift(data))] for data in claims.DATA]
    return [
        "## Drift of the noise estimate",
        f"The mean length of the path of (position's, velocity's noise) from t = 1 to {claims.END:g}.",
        _table(["data", "in R", "in L"], rows),
    ]


def _blurring() -> tuple[list[str], dict[str, list[float]]]:
    curves = blurring.curves()
    rows = [[str(n), *[_number(curve[k]) for curve in curves.values()]] for k, n in enumerate(BUDGETS)]
    text = [
        "## Blurring: gDDIM against ancestral sampling",
        f"Data: {blurring.SIDE}x{blurring.SIDE} frequencies, N(0, {blurring.STD:g}^2) each. Root mean square over them "
        "of the Wasserstein-2 distance; exact, without Monte Carlo.",
        _table(["NFE", *curves], rows),
        "NFE of ancestral sampling over the NFE with which gDDIM has the same error:",
    ]
    ratios = []
    for n, wanted in zip(BUDGETS, curves["ancestral"], strict=True):
        equal = [blurring.equal_budget(curves[f"gDDIM, order {q}"], wanted) for q in claims.ORDERS]
        ratios.append([str(n), *[f"{n / e:.1f} ({'<= ' * (e <= BUDGETS[0])}{e:.0f})" for e in equal]])
    text.append(_table(["ancestral NFE", "order 1", "order 2", "order 3"], ratios))
    return text, curves


def _draw(stochastic: dict, factors: list[tuple[int, int, list[float]]], curves: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = stochastic[50]
    for place, name in enumerate(("gDDIM, CLD", "Euler-Maruyama, CLD", "gDDIM, VP"), 1):
        left.plot([row[0] for row in rows], [row[place] for row in rows], marker="o", label=name)
    left.set(xlabel="lambda", ylabel="Wasserstein-1", yscale="log", title="NFE 50")
    for order in claims.ORDERS:
        own = [(nfe, errors) for nfe, found, errors in factors if found == order]
        for place, style in ((0, "-"), (1, "--")):
            label = f"{'RL'[place]}, order {order}"
            middle.plot(*zip(*[(nfe, errors[place]) for nfe, errors in own], strict=True), style, label=label)
    middle.set(xlabel="NFE", ylabel="error of the path", yscale="log", title="factor of the estimates, CLD")
    for name, errors in curves.items():
        right.plot(BUDGETS, errors, marker="o", label=name)
    right.set(xlabel="NFE", ylabel="Wasserstein-2", xscale="log", yscale="log", title="blurring")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(FOLDER / "oracle.png", dpi=110)


def main() -> int:
    torch.set_num_threads(1)
    first, stochastic = _stochasticity()
    second, factors = _factors()
    last, curves = _blurring()
    parts = ["# The paper's claims with exact noise estimates", *first, *second, *_drift(), *last]
    (FOLDER / "oracle.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _draw(stochastic, factors, curves)
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
