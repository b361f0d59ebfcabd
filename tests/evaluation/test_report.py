"""The report, from a run folder alone: numbers, plots and pictures that say what was measured."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.chart import distance_chart, log_ticks, looks
from diffexp.evaluation.grid import draw_grid
from diffexp.evaluation.markdown import table
from diffexp.evaluation.pareto import front
from diffexp.evaluation.plot import draw_chart
from diffexp.evaluation.protocol import Protocol, write_protocol, write_provenance
from diffexp.evaluation.published import incomparable
from diffexp.evaluation.record import save_evaluation, save_row
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import read_rows, write_rows
from diffexp.evaluation.section import measured
from diffexp.evaluation.sweep import evaluate
from diffexp.evaluation.table import Summary, spell_spread, summarise_arms, summarise_controls, summarise_groups

CONFIG = """
recipe: toy_recipe
seed: 4
choices: {network: oracle, scale: quick}
paper:
  title: A paper
  arxiv: "2206.05564"
  results:
    - {dataset: CIFAR-10, sampler: gDDIM, nfe: 10, metric: FID, value: 4.17, table: "3"}
    - {dataset: CIFAR-10, sampler: EM, nfe: 10, metric: FID, value: ">100", table: "3"}
"""


@pytest.fixture
def found(arms, denoiser, dataset, settings, provenance):
    return evaluate(arms, denoiser, dataset, settings, provenance)


@pytest.fixture
def folder(tmp_path, found):
    save_evaluation(tmp_path, found)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_report_holds_every_mean_the_protocol_and_the_source(folder, found):
    text = write_report(folder).read_text(encoding="utf-8")
    summaries = summarise_arms(found.rows)
    assert len(summaries) == 4
    for summary in summaries:
        assert spell_spread(summary) in text
        assert f"{summary.minimum:.2f}" in text or f"{summary.minimum:.1f}" in text
    for needed in (
        "# toy_recipe", "2206.05564", f"Protocol `{found.protocols[0].hash}`", found.protocols[0].reference,
        "step_7@ema_0.9",
        "abc1234", "| real", "python -m diffexp experiment=toy_recipe scale=quick seed=4", ">100",
    ):  # fmt: skip
        assert needed in text
    assert "**Not comparable with the numbers above**: other data (CIFAR-10 there, gaussian here)" in text


def test_everything_linked_exists_and_the_folder_suffices(folder, tmp_path_factory):
    text = write_report(folder).read_text(encoding="utf-8")
    linked = {name for name in re.findall(r"\]\(([^)]+)\)", text) if not name.startswith("http")}
    drawn = {f"{name}.{form}" for name in ("distance", "pareto_distance") for form in ("png", "svg", "pdf")}
    papers = {"distance.tex", "distance_table.pdf", "references.bib"}
    assert linked == {*drawn, *papers, "samples_ddim.png", "samples_heun.png"}
    assert all((folder / name).stat().st_size > 200 for name in linked)
    elsewhere = tmp_path_factory.mktemp("copy")
    for path in folder.iterdir():
        if not path.name.startswith(("report", "distance", "pareto")):
            (elsewhere / path.name).write_bytes(path.read_bytes())
    assert write_report(elsewhere).read_text(encoding="utf-8") == text


def test_the_same_numbers_draw_the_same_files(folder):
    write_report(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("distance.*")}
    write_report(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("distance.*")} == before
    assert sorted(before) == ["distance.pdf", "distance.png", "distance.svg", "distance.tex"]
    with Image.open(folder / "distance.png") as image:
        assert image.size[0] == round(6.4 * 150)


def test_two_protocols_get_two_sections_that_say_what_differs(folder, found):
    other = replace(found.protocols[0], n=60)
    write_protocol(folder, other)
    write_rows(folder / "results.csv", [replace(row, protocol=other.hash, n=60) for row in found.rows])
    text = write_report(folder).read_text(encoding="utf-8")
    assert f"Not comparable with the section of protocol `{other.hash}`: n is 120 and 60." in text
    assert text.count("### All budgets") == 2
    assert {path.name for path in folder.glob("distance_*.png")} == {
        f"distance_{found.protocols[0].hash}.png", f"distance_{other.hash}.png"
    }  # fmt: skip


def test_evaluating_again_adds_no_duplicates(folder, found):
    count = len(read_rows(folder / "results.csv"))
    save_evaluation(folder, found)
    assert len(read_rows(folder / "results.csv")) == count == 4 * 2 + 3 * 2


def test_rows_that_are_saved_one_by_one_make_the_same_report(folder, found, tmp_path_factory):
    text = write_report(folder).read_text(encoding="utf-8")
    other = tmp_path_factory.mktemp("rows")
    for row in found.rows:
        save_row(other, found, row)
    assert (other / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()
    assert "distance.png" in write_report(other).read_text(encoding="utf-8"), "a stopped evaluation can be reported"
    (other / "config.yaml").write_text(CONFIG)
    save_evaluation(other, found)
    assert write_report(other).read_text(encoding="utf-8") == text


def test_the_floor_has_a_range_and_no_standard_deviation(folder, found):
    text = write_report(folder).read_text(encoding="utf-8")
    (floor,) = [control for control in summarise_controls(found.rows) if control.label == "real"]
    values = f"{floor.minimum:.2f} to {floor.maximum:.2f}"
    assert f"The floor is **{floor.mean:.2f}** (mean of 2 draws that share images, {values})" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| real ")]
    assert f"| {floor.mean:.2f} | {values} |" in line
    assert "±" not in line
    assert "Settings: `ddim`, `heun` on `uniform(t_end=0.001,last=state)`." in text
    assert "share many or all of them: their range is a lower bound" in text


def test_what_two_evaluations_of_a_checkpoint_ran_on_is_all_said(folder, found):
    write_provenance(folder, replace(found.provenance, commit="def5678"))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "| commit | `abc1234`; then `def5678` |" in text
    assert text.count("`step_7@ema_0.9` |") == 1


def test_a_damaged_configuration_is_named(folder):
    (folder / "config.yaml").write_text("- a\n- list\n")
    with pytest.raises(DiffexpError, match=r"config\.yaml: a mapping is needed"):
        write_report(folder)


def test_rows_without_their_protocol_are_refused(folder):
    (folder / "protocol.json").unlink()
    with pytest.raises(DiffexpError, match=r"not on record in protocol\.json"):
        write_report(folder)


def test_an_empty_folder_is_refused_and_pictures_alone_are_not(tmp_path, found):
    with pytest.raises(DiffexpError, match=r"no results\.csv and no samples"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    found.rows, found.protocols = [], []
    save_evaluation(tmp_path, found)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No distance was measured" in text
    assert "samples_ddim.png" in text


def test_published_numbers_are_comparable_only_on_equal_terms(found):
    paper = replace(found.protocols[0], dataset="cifar10", metric="fid", n=50_000)
    assert incomparable("CIFAR-10", "FID", paper) == []
    assert incomparable("CIFAR-10", "FID", replace(paper, n=1000)) == [
        "other number of images (50,000 as a rule there, 1,000 here)"
    ]
    assert len(incomparable("CIFAR-10", "FID", found.protocols[0])) == 3


def test_tables_line_up():
    lines = table(["NFE", "5", "10"], [["ddim", "20.55 ± 2.39", ""], ["x", "1", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ---- | -----------: | --: |"


def test_grid_shows_each_pixel_as_a_square(tmp_path):
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    grey = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)
    for name, given in (("colour", images), ("grey", grey)):
        path = tmp_path / f"{name}.png"
        draw_grid([("", given)], path)
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        expected = given.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().repeat(7, axis=1).repeat(7, axis=2)
        np.testing.assert_array_equal(pixels[12:68, 12:68], expected[0])
        np.testing.assert_array_equal(pixels[12:68, 72:128], expected[1])
        assert pixels.shape == (80, 140, 3)
        assert (pixels[:, 68:72] == 255).all()


@pytest.mark.filterwarnings("error")
def test_notes_of_any_length_leave_room_for_the_curves(tmp_path, found):
    controls = [Summary(f"a_control_with_a_long_name_{i}", "", "", None, (1.0, 2.0)) for i in range(6)]
    draw_chart(distance_chart(summarise_arms(found.rows), controls, found.protocols[0]), tmp_path / "plot")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (960, 630)


@pytest.mark.filterwarnings("error")
def test_many_runs_and_samplers_stay_legible(tmp_path, found):
    """Colour and dashes are the run, the marker the sampler; the legend stands beside the axes and is whole."""
    rows = [row for row in found.rows if row.control is None]
    tags = [f"optimizer.lr=0.00{i}, prediction=v" for i in range(8)]
    arms = summarise_groups([(tag, rows) for tag in tags])
    drawn = looks(arms)
    assert list(drawn) == [f"{name} ({tag})" for tag in tags for name in ("ddim", "heun")]
    assert len(set(drawn.values())) == 16
    assert len({look.colour for look in drawn.values()}) == 8
    assert len({(look.marker, look.dashes, look.filled) for look in drawn.values()}) == 16, "without colour too"
    assert {label[:4]: look.marker for label, look in drawn.items()} == {"ddim": "o", "heun": "s"}
    (wide, *_), (plain, *_) = (
        draw_chart(distance_chart(some, [], found.protocols[0]), tmp_path / name)
        for some, name in ((arms, "wide"), (summarise_arms(rows), "plain"))
    )
    with Image.open(wide) as image, Image.open(plain) as small:
        assert small.size == (960, 630)
        assert image.size[0] > 1400
        assert image.size[1] == round((1.6 + 0.19 * 16) * 150)
        pixels = np.asarray(image.convert("L"))
    assert (pixels[:, -6:] == 255).all(), "nothing is cut off at the right"
    assert (pixels[:, 960:] < 128).any(axis=0).mean() > 0.5, "the legend fills its place"


def test_runs_that_say_the_same_are_told_apart(found):
    rows = [row for row in found.rows if row.control is None]
    other = [replace(row, value=row.value + 1) for row in rows]
    alone, both = summarise_arms(rows), summarise_groups([("seed=0", rows), ("seed=1", other)])
    assert [(arm.label, arm.nfe) for arm in both] == [
        (f"{arm.label} (seed={seed})", arm.nfe) for seed in (0, 1) for arm in alone
    ]
    assert [arm.plain_label for arm in both] == [arm.label for arm in alone] * 2
    assert [arm.values for arm in both[:4]] == [arm.values for arm in alone]
    assert [arm.mean for arm in both[4:]] == pytest.approx([arm.mean + 1 for arm in alone])


def timed(label, nfe, seconds, value):
    return Summary(label, label, "g", nfe, (value,), seconds, metric="fd_digits", seeds=(0,))


def test_the_front_holds_what_nothing_beats():
    arms = [
        timed("a", 5, 0.2, 10.0), timed("b", 5, 0.1, 12.0), timed("a", 9, 0.2, 10.0), timed("b", 9, 0.3, 11.0),
        timed("a", 20, 0.4, 9.0), timed("untimed", 5, None, 1.0),
    ]  # fmt: skip
    assert [(arm.label, arm.nfe) for arm in front(arms)] == [("b", 5), ("a", 5), ("a", 20)]
    higher = [replace(arm, metric="psnr") for arm in arms]
    assert [(arm.label, arm.nfe) for arm in front(higher)] == [("b", 5)], "the fastest is the best there"


def test_the_front_is_in_the_report_and_not_across_devices(folder, found):
    text = write_report(folder).read_text(encoding="utf-8")
    part = text.partition("### Distance against time")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (ddim|heun) +\| +(\d+) \| +([\d.e-]+) \| +([\d.]+)", part, re.MULTILINE)
    arms = [(arm.label, str(arm.nfe)) for arm in front(summarise_arms(found.rows))]
    assert [row[:2] for row in rows] == arms
    means = [float(row[3]) for row in rows]
    assert means == sorted(means, reverse=True)
    write_provenance(folder, replace(found.provenance, device="Another"))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "Times of different devices (Another, cpu) are not comparable: there is no front." in text


def test_both_floors_are_drawn_and_the_first_is_told(found):
    arms, protocol = summarise_arms(found.rows), found.protocols[0]
    drawn = [row for row in found.rows if row.control == "real"]
    again = [replace(row, sampler="control:held_out", value=row.value + 1) for row in drawn]
    both = distance_chart(arms, summarise_controls([*drawn, *again]), protocol)
    mean = sum(row.value for row in drawn) / len(drawn)
    assert [floor.y for floor in both.floors] == pytest.approx([mean, mean + 1])
    assert [floor.above for floor in both.floors] == [False, True]
    (alone,) = distance_chart(arms, summarise_controls(again), protocol).floors
    assert alone.text == f"floor: held-out images, drawn with replacement, {mean + 1:.2f}"
    controls = summarise_controls(again)
    lead = measured(protocol, arms, controls, [], [])[1]
    assert f"The floor is **{spell_spread(controls[0])}**: as many held-out images, drawn with replacement" in lead


def test_ticks_are_round_and_within_the_axis():
    assert log_ticks(4.0, 230.0) == (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
    assert log_ticks(3.1, 4.4) == (3.2, 3.4, 3.6, 3.8, 4.0, 4.2, 4.4)
    assert distance_axis([0.1, 0.3]).ticks == (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def distance_axis(values):
    protocol = Protocol("fd_digits", 9, "d", "train", "f", 9, "digits", "", "round", "none")
    return distance_chart([timed("a", 5 + place, 1.0, value) for place, value in enumerate(values)], [], protocol).y


def test_measured_stands_beside_published_and_never_in_its_column(folder, found):
    text = write_report(folder).read_text(encoding="utf-8")
    part = text.partition("## Published")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    assert ["images", "50,000 as a rule", "120", "**differs**"] in lines
    assert ["metric", "FID", "fd_pixels", "**differs**"] in lines
    place = lines.index(["NFE", "published: gDDIM", "published: EM", "measured: ddim", "measured: heun"])
    arms = {(arm.label, arm.nfe): spell_spread(arm) for arm in summarise_arms(found.rows)}
    assert lines[place + 2 :] == [
        ["2", "", "", arms["ddim", 2], ""], ["3", "", "", "", arms["heun", 3]], ["5", "", "", "", arms["heun", 5]],
        ["6", "", "", arms["ddim", 6], ""], ["10", "4.17", ">100", "", ""],
    ]  # fmt: skip
