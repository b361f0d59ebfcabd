"""The wheel holds conf/, and installed elsewhere it composes what the repository composes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(ROOT)], check=True, capture_output=True)
    (found,) = folder.glob("diffexp-*.whl")
    return found


def test_the_wheel_holds_conf_and_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"diffexp/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(conf) > 30
    assert conf <= names
    assert any(name.startswith("diffexp/evaluation/weights/") and name.endswith(".safetensors") for name in names)
    assert not any(name.startswith(("tests/", "experiments/")) for name in names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"diffexp = diffexp.__main__:main" in zipfile.ZipFile(wheel).read(entry)


def test_installed_elsewhere_it_does_the_same(wheel, tmp_path):
    """Unpacked into a folder that precedes the repository on the path, and run from another one."""
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    words = ["experiment=gddim_vp", "scale=quick", "--cfg", "job", "--resolve"]

    def output(*path: str) -> str:
        code = f"import sys; sys.path[:0] = {list(path)!r}\nfrom diffexp.__main__ import main; import diffexp\n"
        code += f"assert diffexp.__file__.startswith({path[0]!r}), diffexp.__file__\nsys.exit(main({words!r}))"
        run = [sys.executable, "-c", code]
        return subprocess.run(run, check=True, capture_output=True, text=True, cwd=elsewhere).stdout

    assert output(str(installed)) == output(str(ROOT))
    assert "Denoising" in output(str(installed))
    assert not list(elsewhere.iterdir())
