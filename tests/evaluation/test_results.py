"""results.csv: exact, tidy, without duplicates."""

from dataclasses import replace

import pytest

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.results import COLUMNS, Row, read_rows, write_rows

ROW = Row("toy", "vp", "v", "net", "ddim", "uniform", 5, "fd_digits", 1 / 3, 512, 0, "abcd", "step_7", 0.0012345678)


def test_columns_are_the_documented_ones():
    assert ",".join(COLUMNS) == (
        "experiment,process,prediction,network,sampler,grid,nfe,metric,value,n,seed,protocol,checkpoint,seconds_per_image"
    )


def test_rows_come_back_bit_for_bit(tmp_path):
    control = replace(ROW, sampler="control:real", grid="", nfe=None, seconds_per_image=None, value=1e-17)
    write_rows(tmp_path / "results.csv", [ROW, control])
    assert read_rows(tmp_path / "results.csv") == [ROW, control]
    assert (ROW.control, control.control) == (None, "real")


def test_evaluations_of_an_adaptive_sampler_are_a_result(tmp_path):
    row = replace(ROW, grid="ends(t_end=0.001,last=state)", nfe=40.5)
    write_rows(tmp_path / "results.csv", [row])
    assert read_rows(tmp_path / "results.csv") == [row]
    assert row.key == replace(row, nfe=None).key != replace(row, seed=1).key
    assert ROW.key != replace(ROW, nfe=40.5).key


def test_controls_do_not_depend_on_the_model_and_samples_do():
    control = replace(ROW, sampler="control:real", grid="", nfe=None)
    changes = [{"checkpoint": "step_8"}, {"network": "x"}, {"process": "x"}, {"prediction": "x"}, {"experiment": "x"}]
    for change in changes:
        assert replace(control, **change).key == control.key
        assert replace(ROW, **change).key != ROW.key
    for change in ({"seed": 1}, {"protocol": "x"}, {"n": 5}):
        assert replace(control, **change).key != control.key


def test_a_repeated_measurement_replaces_and_others_are_added(tmp_path):
    path = tmp_path / "results.csv"
    other = replace(ROW, seed=1)
    write_rows(path, [ROW, other])
    again = replace(ROW, value=9.0, seconds_per_image=1.0)
    kept = write_rows(path, [again, replace(ROW, checkpoint="step_8")])
    assert kept == [again, other, replace(ROW, checkpoint="step_8")]
    assert read_rows(path) == kept


def test_damaged_files_are_refused_by_line(tmp_path):
    path = tmp_path / "results.csv"
    assert read_rows(path) == []
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DiffexpError, match="columns"):
        read_rows(path)
    write_rows(tmp_path / "good.csv", [ROW])
    path.write_text((tmp_path / "good.csv").read_text().replace("0.333", "x"))
    with pytest.raises(DiffexpError, match="line 2"):
        read_rows(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_rows(path, [ROW])
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_rows(path, [replace(ROW, seed=4)])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.csv"]
