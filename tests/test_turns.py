"""Tests that need the machine to themselves get it, whichever workers run the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import json, os, time
from pathlib import Path
import pytest

def stay(name):
    began = time.monotonic()
    time.sleep(0.05)
    said = [os.environ["PYTEST_XDIST_WORKER"], began, time.monotonic()]
    Path(__file__).with_name(f"{name}.json").write_text(json.dumps(said))

@pytest.mark.parametrize("place", range(12))
def test_beside_others(place):
    stay(f"beside{place}")

@pytest.mark.alone
@pytest.mark.parametrize("place", range(4))
def test_alone(place):
    stay(f"alone{place}")
"""


def test_nobody_else_is_in_the_room(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_times.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.turns", "-n", "2"]
    line = [*command, "--dist=load", "--maxschedchunk=1", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    done = subprocess.run(line, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    spans = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(spans) == 16
    assert {worker for worker, _, _ in spans.values()} == {"gw0", "gw1"}
    met = set()
    for name, (_, began, ended) in spans.items():
        for other, (_, start, _) in spans.items():
            if other != name and began <= start < ended:
                met |= {name, other}
    assert not any(name.startswith("alone") for name in met)
    assert met, "ordinary tests of two workers run side by side"
