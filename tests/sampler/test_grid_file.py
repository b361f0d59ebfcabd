"""Schedules of betas as grids: published ones, files, their levels on every process, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.evaluation.describe import describe_grid
from diffexp.launch.layout import read_layout, read_yaml
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP
from diffexp.sampler.grid_file import Betas, File
from diffexp.sampler.heun import Heun
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.schedule_file import Schedule, ScheduleFile, read_schedules, write_schedules
from diffexp.tasks.build import make_node

LAYOUT = read_layout()
EXAMPLE = Path(__file__).with_name("schedules.json")
PROCESSES = [VP(), Cosine(), VE(), EDM(), DDPM(), DDPM(200)]
GOLDEN = {"bddm_lj7": "lj7", "bddm_lj12": "lj12", "fastdiff3": "fd3", "fastdiff4": "fd4"}
GOLDEN |= {"fastdiff6": "fd6", "fastdiff8": "fd8"}
PUBLISHED = (*GOLDEN, "bddm_vctk8", "fastdiff4_lj")


def published(name: str) -> Betas:
    return make_node(read_yaml(LAYOUT.folder / "grid" / f"{name}.yaml"), "grid")


def levels(process, times) -> tuple[list[float], list[float]]:
    """(alpha, 1 - alpha^2) of the variance-preserving process with these signal-to-noise ratios."""
    log_snr = process.log_snr(times)
    return torch.sigmoid(log_snr).sqrt().tolist(), torch.sigmoid(-log_snr).tolist()


@pytest.mark.parametrize(("name", "tag"), GOLDEN.items())
def test_published_schedules_are_those_of_the_released_code(name, tag, golden_dir):
    """Betas bit by bit; levels and table indices at the tolerances of the golden file (ts: 1e-7)."""
    arrays = np.load(golden_dir / "bddm.npz")
    members = json.loads(str(arrays["config"]))["families"]["found_schedule"]["members"]
    (member,) = [member for member in members if member["tag"] == tag]
    said = json.loads(str(arrays["config"]))["tables"][member["table"]]
    table, grid = DDPM(said["T"], said["beta_first"], said["beta_last"]), published(name)
    assert (grid.name, grid.choices) == (name, (member["steps"],))
    assert grid.betas(member["steps"]).tolist() == arrays[member["inputs"]["beta"]].tolist()
    times = grid.times(table, member["steps"])
    assert float(times[-1]) == -1.0
    torch.testing.assert_close(
        table.index(times[:-1]).flip(0), torch.from_numpy(arrays[member["outputs"]["ts"]]), rtol=0, atol=1e-7
    )
    alphas = levels(table, times[:-1])[0]
    assert alphas[::-1] == pytest.approx(arrays[member["outputs"]["alpha"]].tolist(), rel=1e-9)


def test_published_schedules_without_an_array_have_the_printed_digits():
    betas = published("bddm_vctk8").betas(8)
    printed = "0.000354467251 0.000722075114 0.00147190574 0.00300414604 0.00614492921 0.0126150036 0.0260420963 "
    assert " ".join(f"{beta:.9g}" for beta in betas) == f"{printed}0.576754749"
    assert torch.equal(betas.float().double(), betas)
    assert published("fastdiff4_lj").betas(4).tolist() == [3.6701e-7, 1.7032e-5, 7.908e-4, 0.76146]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: f"{process.name}{process.num_steps or ''}")
def test_levels_keep_their_digits_on_every_process(process):
    """1 - alpha^2 = 3.5e-4 at the data's side to 1e-10 of itself, where alpha alone would leave 1e-13 / 3.5e-4."""
    grid, betas = published("bddm_vctk8"), published("bddm_vctk8").betas(8)
    alphas = (1.0 - betas).cumprod(0).sqrt()
    found, deltas = levels(process, grid.times(process, 8)[:-1])
    assert found[::-1] == pytest.approx(alphas.tolist(), rel=1e-10)
    assert deltas[-1] == pytest.approx(float(betas[0]), rel=1e-10)
    assert float(grid.times(process, 8)[-1]) == process.t_data


def test_a_tables_own_betas_are_its_own_indices():
    table = DDPM(50)
    assert Betas(table.betas.tolist()).times(table, 50).tolist() == pytest.approx(list(range(49, -2, -1)), abs=1e-9)
    # one step: alpha = sqrt(1 - b)
    times = Betas([0.3]).times(VP(), 1)
    assert float(VP().signal(times[0]).value) ** 2 == pytest.approx(0.7, rel=1e-12)


def test_a_file_is_read_as_it_was_written(tmp_path):
    betas = (1.0 / 3.0 * 1e-4, 0.1, math.pi / 4)
    made = ScheduleFile(
        "vp",
        (Schedule(betas, {"alpha": 0.4, "beta": 0.5}, "ddim", {"fd": -1.5}), Schedule((0.1, 0.1))),
        {"metric": "fd"},
        "a test",
    )
    write_schedules(tmp_path / "schedules.json", made)
    found = read_schedules(tmp_path)  # a run folder
    assert [schedule.steps for schedule in found.schedules] == [2, 3]
    assert found.schedules[1] == made.schedules[0]
    assert found.schedules[1].betas == betas  # all digits
    assert (found.process, found.judge, found.made_by) == ("vp", {"metric": "fd"}, "a test")
    write_schedules(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "schedules.json").read_bytes()
    grid = File(str(tmp_path))
    assert torch.equal(grid.times(VP(), 3), Betas(list(betas)).times(VP(), 3))


def test_budgets_are_the_numbers_of_steps_of_the_file():
    """2, 5 and 10 steps."""
    grid = File(str(EXAMPLE))
    assert grid.choices == (2, 5, 10)
    ddim, heun = Sampler("ddim", DDIM(), grid), Sampler("heun", Heun(), grid)
    assert [ddim.nearest_nfe(nfe) for nfe in (1, 2, 4, 9, 50)] == [2, 2, 2, 5, 10]
    assert [heun.steps(nfe) for nfe in (3, 9, 19)] == [2, 5, 10]
    with pytest.raises(ConfigError, match=r"nfe=4 is not .* ddim: choose 2 or 5, the 2 or 5 steps of grid file$"):
        ddim.steps(4)
    with pytest.raises(ConfigError, match=r"nfe=8 is not .* heun: choose 3 or 9, the 2 or 5 steps of grid file$"):
        heun.steps(8)
    with pytest.raises(ConfigError, match=r"nfe=11 .*: choose 10, the 10 steps of grid file$"):
        ddim.steps(11)
    with pytest.raises(ConfigError, match=r"grid file: has no schedule of 7 steps: choose 5 or 10$"):
        grid.times(VP(), 7)


def test_labels_tell_schedules_apart_by_content(tmp_path):
    (tmp_path / "copy.json").write_bytes(EXAMPLE.read_bytes())
    label = describe_grid(File(str(EXAMPLE)))
    assert label == describe_grid(File(str(tmp_path / "copy.json")))
    changed = EXAMPLE.read_text(encoding="utf-8").replace("0.00015", "1.50e-4")
    (tmp_path / "changed.json").write_text(changed, encoding="utf-8")
    assert describe_grid(File(str(tmp_path / "changed.json"))) == label  # the same float
    (tmp_path / "changed.json").write_text(changed.replace("0.6", "0.6000000000000001"), encoding="utf-8")
    assert describe_grid(File(str(tmp_path / "changed.json"))) != label
    assert label.startswith("file(t_end=null,last=state,schedule=")
    named = {name: describe_grid(published(name)) for name in PUBLISHED}
    assert all(text.startswith(f"{name}(") for name, text in named.items())
    assert len({text.partition("schedule=")[2] for text in named.values()}) == len(PUBLISHED)


def test_a_file_that_is_not_known_yet_says_so_when_it_is_used():
    grid = File()
    assert describe_grid(grid) == "file(t_end=null,last=state,schedule=null)"
    for use in (lambda: Sampler("ddim", DDIM(), grid).steps(5), lambda: grid.times(VP(), 5)):
        with pytest.raises(ConfigError, match=r"^grid\.path=null: name a file of schedules, e\.g\. grid\.path=runs/"):
            use()


@pytest.mark.parametrize(
    ("process", "why"),
    [
        ("cld", "has more than one number for each noise level"),
        ("blurring", "has more than one number for each noise level"),
        ("bridge_vp", "starts from an image, not from noise"),
        ("ddm_linear", "draws a second image with its data"),
    ],
)
def test_levels_need_a_process_whose_noise_is_one_number(process, why):
    built = make_node(read_yaml(LAYOUT.folder / "process" / f"{process}.yaml"), "process").on((1, 4, 4))
    with pytest.raises(ConfigError, match=f"grid fastdiff3: holds noise levels, and process {built.name} {why}: use"):
        published("fastdiff3").times(built, 3)


def test_levels_that_a_process_does_not_reach_are_refused():
    said = r"grid betas: its last step, beta_1 = 1e-05, is less noise than process {} has at t = {}, {}: use {}"
    with pytest.raises(ConfigError, match=said.format("vp", "0.001", "0.00011", "grid.t_end=null")):
        Betas([1e-5, 0.5], t_end=1e-3).times(VP(), 2)
    with pytest.raises(ConfigError, match=said.format("ve", "0", "0.0001", "a process that ends in cleaner data")):
        Betas([1e-5, 0.5]).times(VE(), 2)
    late = VP()
    assert float(Betas([0.1, 0.999999]).times(late, 2)[0]) == late.t_max  # beyond the end: the end


BAD = {
    "damaged": ("{", "damaged, or no file of schedules: Expecting property name"),
    "binary": (b"\xff\xfe\x00", "damaged, or no file of schedules"),
    "foreign": ('{"format": "other/3"}', "its format is 'other/3', not 'diffexp-schedules/1'"),
    "list": ("[1, 2]", "its format is None"),
}
WRONG = {
    "none": ([], "holds no schedules"),
    "no betas": ([{"steps": 2}], "schedule 1: has no list of betas"),
    "empty": ([{"steps": 0, "betas": []}], r"schedule 1, betas=\[\]: name at least one beta"),
    "one": ([{"steps": 2, "betas": [0.1, 1.0]}], "schedule 1, betas: beta_2 = 1.0: a step's variance lies between 0"),
    "nan": ([{"steps": 1, "betas": [math.nan]}], "beta_1 = nan: a step's variance lies"),
    "text": ([{"steps": 1, "betas": ["0.1"]}], "beta_1 = 0.1: a step's variance lies"),
    "order": ([{"steps": 2, "betas": [0.5, 0.1]}], "beta_1 = 0.5 is above beta_2 = 0.1: list them from the data on"),
    "count": ([{"steps": 3, "betas": [0.1, 0.5]}], "says steps=3, and has 2 betas"),
    "twice": ([{"steps": 1, "betas": [0.1]}] * 2, "holds two schedules of 1 steps"),
    "scores": ([{"steps": 1, "betas": [0.1], "scores": {"fd": "x"}}], "scores: should map names to numbers"),
    "start": ([{"steps": 1, "betas": [0.1], "start": {"alpha": math.inf}}], "start: holds a number that is not finite"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "table"), [*((case, BAD) for case in BAD), *((case, WRONG) for case in WRONG)])
def test_a_wrong_file_is_refused_in_one_line(case, table, tmp_path):
    text, said = table[case]
    if table is WRONG:
        text = json.dumps({"format": "diffexp-schedules/1", "schedules": text})
    path = tmp_path / "found.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said) as refused:
        File(str(path))
    assert str(refused.value).startswith(f"grid.path={path}: ")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused_and_a_wrong_schedule_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match=r"grid\.path=.*nothing\.json: no such file; task=search writes"):
        File(str(tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match=r"beta_1 = 0\.5 is above"):
        write_schedules(tmp_path / "x.json", ScheduleFile("vp", (Schedule((0.5, 0.1)),)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"grid\.betas=\[\]: name at least one beta"):
        Betas([])
