"""The dashboard names what the logger logs: built and written without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffexp.training.loggers import WandB
from diffexp.training.mirror import Work
from diffexp.training.workspace import Contents, build_workspace
from tests.training.test_loggers import ROWS, history, offline_runs

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore")  # the package's own, about pydantic

PAIRS = [("fd", "ddim"), ("fd", "heun"), ("precision_digits", "ddim"), ("fd", "ddim")]


def panels(workspace: Any) -> dict[str, list[dict[str, Any]]]:
    """Section -> the panels that would be sent."""
    view = json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_every_panel_is_there() -> None:
    contents = Contents.of(PAIRS, ["samples_heun", "samples_ddim", "samples_ddim"], "sweep7")
    workspace = build_workspace("team", "diffexp", "a view", contents)
    found = panels(workspace)
    assert list(found) == ["By NFE", "Samples", "Training", "Runs"]
    distance, precision = (panel["config"] for panel in found["By NFE"])
    assert (distance["xAxis"], distance["metrics"]) == ("nfe", ["by_nfe/fd/ddim", "by_nfe/fd/heun"])
    assert (distance["xLogScale"], distance["yLogScale"]) == (True, True)
    assert precision["metrics"] == ["by_nfe/precision_digits/ddim"]
    assert not precision.get("yLogScale", False)
    pictures = [panel["config"]["mediaKeys"] for panel in found["Samples"]]
    assert pictures == [["eval/samples_ddim"], ["eval/samples_heun"]]
    assert found["Training"][0]["config"]["metrics"] == ["train/loss"]
    assert {panel["config"]["xAxis"] for panel in found["Training"]} == {"trainer/step"}
    (runs,) = workspace._to_model().spec.section.run_sets
    assert [key.name for key in runs.grouping] == ["group", "jobType"]
    assert [(item["key"]["name"], item["value"]) for item in runs.filters["filters"]] == [("group", "sweep7")]


def test_panels_ask_for_what_the_logger_logs(tmp_path: Path) -> None:
    """Read back from the offline file: an axis or a name that nobody logs would be an empty panel."""
    with WandB(mode="offline").open(Work(tmp_path, "train", {}, 0)) as mirror:
        mirror.line({"step": 10, "loss": 1.0, "gradient_norm": 1.0, "lr": 1.0, "images_per_second": 1.0})
    with WandB(mode="offline").open(Work(tmp_path, "eval", {}, 40)) as mirror:
        mirror.results(ROWS, [])
    logged = {key for folder in offline_runs(tmp_path) for row in history(folder) for key in row}
    found = panels(build_workspace("team", "diffexp", "a view", Contents.of(PAIRS[:2], [], None)))
    assert list(found) == ["By NFE", "Training", "Runs"]
    for panel in [*found["By NFE"], *found["Training"]]:
        assert {panel["config"]["xAxis"], *panel["config"]["metrics"]} <= logged
