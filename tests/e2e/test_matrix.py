"""task=matrix: errors and orders of a part of it, its files, and the tables of README.md beside the groups."""

from __future__ import annotations

import csv
import math
import re
from functools import cache
from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.evaluation.matrix import Cell, MatrixSettings, largest_difference
from diffexp.evaluation.matrix_text import BEGIN, END, inserted, orders
from diffexp.launch.layout import read_layout, read_yaml
from diffexp.tasks.build import make_node
from diffexp.tasks.matrix import cells_of, compose_choices

LAYOUT = read_layout()
README = Path(__file__).parents[2] / "README.md"
PART = {
    "processes": ["vp", "ddpm", "cld", "bridge_vp", "ddm_linear"],
    "samplers": ["ddim", "gddim", "heun", "euler_maruyama", "sscs", "dbim", "ddm_posterior", "consistency", "estimate"],
    "predictions": ["eps", "v", "velocity", "ddbm", "ddm", "ddm_single", "consistency", "consistency_edm"],
}
ROUGH = 0.12  # what is left of higher terms at 128 steps


def settings(**changes) -> MatrixSettings:
    return make_node({**read_yaml(LAYOUT.folder / "matrix" / "default.yaml"), **changes}, "matrix")


@cache
def part() -> dict[tuple[str, str, str], Cell]:
    chosen = settings(**PART)
    choices = compose_choices(chosen, LAYOUT)
    found = [cell for process in PART["processes"] for cell in cells_of(process, choices, chosen)]
    return {(cell.process, cell.sampler, cell.prediction): cell for cell in found}


def test_every_cell_is_there_and_none_is_broken() -> None:
    assert len(part()) == 5 * 9 * 8
    assert [cell for cell in part().values() if cell.broken] == []
    assert {cell.process for cell in part().values() if cell.fits} == set(PART["processes"])


def test_orders_are_those_that_the_samplers_state() -> None:
    measured = {key: cell for key, cell in part().items() if cell.order is not None}
    assert {cell.declared for cell in measured.values()} == {1, 2}
    assert {
        key[:2]: round(cell.order, 2) for key, cell in measured.items() if abs(cell.order - cell.declared) > ROUGH
    } == {}
    assert len({key[:2] for key in measured}) == 18


def test_errors_are_exact_at_both_budgets() -> None:
    """They fall with the budget, and do not depend on what the network says."""
    for cell in part().values():
        if cell.fits and cell.declared is not None:
            assert cell.nfe == ((9.0, 49.0) if cell.sampler == "heun" else (10.0, 50.0))
            assert cell.errors[1] < 0.4 * cell.errors[0], cell
    found = part()
    assert found["vp", "ddim", "eps"].errors == pytest.approx(found["vp", "ddim", "v"].errors, rel=1e-10)
    assert found["cld", "sscs", "velocity"].errors == pytest.approx(found["cld", "sscs", "eps"].errors, rel=1e-10)
    assert found["ddm_linear", "ddim", "ddm"].errors == pytest.approx(
        found["ddm_linear", "ddim", "ddm_single"].errors, rel=1e-8
    )
    assert largest_difference(found.values())[0] < 1e-6
    # one estimate is the mean: what is missing is the deviation of the data; exact jumps leave only t_min behind
    alpha = math.exp(-0.25 * (20.0 + 0.1))  # of VP at t = 1
    spread = 0.25 * alpha / math.sqrt(1.0 - 0.75 * alpha**2)
    assert found["vp", "estimate", "eps"].errors == pytest.approx((0.5 - spread,), rel=1e-9)
    assert max(found["bridge_vp", "consistency", "consistency"].errors) < 1e-4


REFUSED = {
    ("vp", "dbim", "eps"): "sampler dbim is for bridges, and process vp is none: use ddim",
    ("vp", "ddim", "velocity"): "prediction=velocity of a Langevin process needs a velocity, unlike vp: use eps",
    ("cld", "ddim", "velocity"): "sampler ddim needs data, noise, the prediction gives ['score']",
    ("cld", "ddim", "v"): "prediction=v needs alpha^2 + sigma^2 = 1, unlike cld: use eps",
    ("bridge_vp", "ddim", "ddbm"): "sampler ddim leaves out the end point of process bridge_vp: use dbim",
    ("vp", "consistency", "eps"): "sampler consistency needs jump, the prediction gives ['data', 'noise', 'score']",
}


@pytest.mark.parametrize("key", REFUSED, ids="-".join)
def test_refusals_are_those_of_the_parts(key: tuple[str, str, str]) -> None:
    cell = part()[key]
    assert (cell.reason, cell.spelled, cell.errors) == (REFUSED[key], "–", ())


def test_what_a_cell_needs_besides_is_said() -> None:
    found = part()
    assert found["ddpm", "ddim", "eps"].words == ("grid=power", "grid.t_end=0", "prediction.time=index")
    assert found["ddm_linear", "ddm_posterior", "ddm"].words == ("grid=power", "sampler.clip=false")
    assert found["vp", "estimate", "v"].words == ("grid=explicit", "grid.values=[1]")
    assert found["bridge_vp", "consistency", "consistency"].words == ("grid=bridge", "grid.t_end=0.0001")


def test_the_command_prints_and_writes(command) -> None:
    names = ["matrix.processes=[edm]", "matrix.samplers=[heun,rk45]", "matrix.predictions=[eps,velocity,edm]"]
    answer = command("task=matrix", "matrix.nfe=[5,9]", *names)
    assert answer.code == 0
    assert "6 cells: 4 fit, 2 are refused, 0 are broken" in answer.out
    text = Path("runs/matrix/matrix.md").read_text(encoding="utf-8")
    assert text.count("\n## ") == 5
    rows = list(csv.DictReader(Path("runs/matrix/matrix.csv").read_text(encoding="utf-8").splitlines()))
    assert len({(row["process"], row["sampler"], row["prediction"]) for row in rows}) == 6
    counted = [float(row["nfe"]) for row in rows if row["sampler"] == "rk45" and row["fits"] == "yes"]
    assert len(counted) == 2
    assert all(20.0 < nfe < 400.0 for nfe in counted)
    heun = [row for row in rows if row["sampler"] == "heun" and row["process"] == "edm" and row["fits"] == "yes"]
    assert [row["nfe"] for row in heun] == ["5", "9", "5", "9"]
    assert all(row["reason"] for row in rows if row["fits"] == "no")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["matrix.processes=[vpp]"], "matrix.processes: there is no process 'vpp'; did you mean 'vp'?"),
        (['+matrix.homes.ddimm=["grid=power"]'], "matrix.homes: there is no process or sampler 'ddimm'; did you mean"),
        (["matrix.nfe=[50,10]"], "matrix.nfe=[50, 10]: give rising budgets"),
        (["matrix.into=nowhere.md"], "matrix.into=nowhere.md: no such file"),
        (["matrix.into=nowhere.md", "matrix.processes=[vp]"], "matrix.into=nowhere.md: takes the whole matrix"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(command, words, said) -> None:
    answer = command("task=matrix", *words)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert list(Path().iterdir()) == []


def _readme_tables() -> list[list[list[str]]]:
    block = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    tables: list[list[list[str]]] = []
    for chunk in block.strip().split("\n\n"):
        if chunk.startswith("|"):
            tables.append(
                [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in chunk.split("\n")]
            )
    return tables


def test_the_tables_of_the_readme_are_of_these_groups() -> None:
    """All processes and samplers, and where it was measured here, the same orders and refusals."""
    by_sampler, by_prediction = _readme_tables()
    header, rows = [name.strip() for name in by_sampler[0][1:]], {row[0]: row[1:] for row in by_sampler[2:]}
    assert [name.strip(" `") for name in header] == list(LAYOUT.choices["sampler"])
    assert list(rows) == list(LAYOUT.choices["process"]) == [row[0] for row in by_prediction[2:]]
    named = {name for row in by_prediction[2:] for name in re.findall(r"\w+", row[1])}
    assert set(LAYOUT.choices["prediction"]) <= named
    for line in orders(list(part().values())).split("\n")[2:]:
        process, *cells = [cell.strip(" `") for cell in line.strip("|").split(" | ")]
        for sampler, cell in zip(PART["samplers"], cells, strict=True):
            assert rows[process][LAYOUT.choices["sampler"].index(sampler)].strip() == cell, (process, sampler)


def test_tables_go_between_the_marks_alone() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = inserted(text, list(part().values()), "x.md")
    assert (new.startswith(f"before\n{BEGIN}\n"), new.endswith(f"{END}\nafter\n"), "old" in new) == (True, True, False)
    assert inserted(new, list(part().values()), "x.md") == new
    for wrong in ("no marks", f"{END} {BEGIN}", f"{text}{text}"):
        with pytest.raises(ConfigError, match=r"matrix\.into=x\.md: needs the lines"):
            inserted(wrong, None, "x.md")
