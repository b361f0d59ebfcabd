"""What a report gives to papers: tables in LaTeX and as PDF, and BibTeX."""

import re
from dataclasses import replace

import yaml

from diffexp.evaluation.citation import _DATA, _LIBRARY, _METRICS, _SAMPLERS, entries, references
from diffexp.evaluation.document import Table
from diffexp.evaluation.latex import escape, latex
from diffexp.evaluation.plot import draw_table
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import Summary
from tests.test_rooms import ROOT

PROTOCOL = Protocol("fid", 256, "cifar10", "train", "f", 901, "inception", "w", "round", "none")
ARMS = [
    Summary("a_b(eta=50%)", "a", "g", 5, (9.0, 10.0), metric="fid"),
    Summary("a_b(eta=50%)", "a", "g", 10, (4.0, 5.0), metric="fid"),
    Summary("c", "c", "g", 10, (3.25, 3.25), metric="fid"),
]


def test_a_table_for_latex():
    floor = Summary("real", "real", "", None, (2.0, 3.0), independent=False, metric="fid")
    text = latex(ARMS, [floor, replace(floor, label="noise")], PROTOCOL, [("Distance versus NFE", "distance.pdf")])
    lines = [line.strip() for line in text.splitlines()]
    assert r"\begin{tabular}{lrr}" in lines
    assert r"a\_b(eta=50\%) & $9.50 \pm 0.71$ & $4.50 \pm 0.71$ \\" in lines, "alone at 5: nothing to be better than"
    assert r"c &  & $\mathbf{3.25} \pm 0.00$ \\" in lines
    assert r"real & \multicolumn{2}{c}{$2.50$} \\" in lines
    assert "noise" not in text
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert r"\includegraphics[width=\linewidth]{distance.pdf}" in lines
    assert PROTOCOL.hash in text
    ends = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert [name for kind, name in ends if kind == "begin"] == ["table", "tabular", "figure"]
    assert [name for kind, name in ends if kind == "end"] == ["tabular", "table", "figure"]
    assert text.count("{") == text.count("}")


def test_letters_that_mean_something_to_latex():
    assert escape(r"a_b & 5% ~ {x}^2 \ #$ –") == (
        r"a\_b \& 5\% \textasciitilde{} \{x\}\textasciicircum{}2 \textbackslash{} \#\$ --"
    )


def test_a_table_as_pdf(tmp_path):
    table = Table(["NFE", "5", "10"], [["`ddim`", "**9.50** ± 0.71", "4"], ["a longer name", "", ""]], 1)
    for name in ("a.pdf", "b.pdf"):
        draw_table(table, tmp_path / name)
    first = (tmp_path / "a.pdf").read_bytes()
    assert first == (tmp_path / "b.pdf").read_bytes(), "the same numbers give the same bytes"
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", first)
    assert [round(float(side), 1) for side in box.groups()] == [round(72 * 2.628, 1), round(72 * 4 * 0.2, 1)]


def test_every_known_paper_is_in_the_library_once():
    library = entries(_LIBRARY.read_text(encoding="utf-8"))
    known = {key for table in (_METRICS, _SAMPLERS, _DATA) for keys in table.values() for key in keys}
    assert known == set(library)
    for entry in library.values():
        assert entry.count("{") == entry.count("}")
        assert all(f"  {name} = " in entry for name in ("title", "author", "year"))
    assert _LIBRARY.read_text(encoding="utf-8").count("\n@") + 1 == len(library)


def test_the_papers_of_a_report():
    recipe = yaml.safe_load((ROOT / "conf" / "experiment" / "gddim_vp.yaml").read_text(encoding="utf-8"))
    rows = [
        Row("r", "p", "e", "n", sampler, "g", 5, "fid", 1.0, 9, 0, PROTOCOL.hash, "c")
        for sampler in ("heun", "ddim(clip)", "control:real", "unheard_of")
    ]
    found = references([recipe, recipe], [PROTOCOL, replace(PROTOCOL, metric="kid", dataset="digits")], rows)
    assert list(found) == [
        "zhang2023gddim", "karras2022elucidating", "song2021denoising", "heusel2017gans", "szegedy2016rethinking",
        "binkowski2018demystifying", "krizhevsky2009learning",
    ]  # fmt: skip
    assert found["zhang2023gddim"] == recipe["paper"]["bibtex"].strip(), "the recipe's own words count"
    assert references([], [], []) == {}


def test_every_recipe_gives_its_paper():
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        paper = yaml.safe_load(path.read_text(encoding="utf-8")).get("paper") or {}
        assert len(entries(paper.get("bibtex") or "")) == (paper.get("bibtex") or "").count("@"), path.name
