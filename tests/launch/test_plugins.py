"""Plugins: who may permit them, how they are found without running them, and what they can be built from."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from diffexp.core.errors import ConfigError
from diffexp.launch import plugins
from diffexp.launch.command import normalise
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import read_layout
from diffexp.launch.plugins import allowed, check, conf_folders, environment, inherited, permission, take
from diffexp.launch.schema import check_targets, validate
from tests.e2e import lab

ROOT = Path(__file__).parents[2]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists once the package was imported."""
    return tmp_path / "imported"


@pytest.fixture
def package(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable `mylab`, which nothing here may import."""
    folder = lab.write(tmp_path / "site", marker)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "names", "written"),
    [
        (["seed=1", "plugins=[mylab]"], ("mylab",), ["seed=1", "plugins=[mylab]"]),
        (["plugins=mylab"], ("mylab",), ["plugins=[mylab]"]),
        (["++plugins=['mylab',mylab]", "a=1"], ("mylab",), ["plugins=[mylab]", "a=1"]),
        (["plugins=[]"], (), ["plugins=[]"]),
        (["seed=1"], (), ["seed=1"]),
    ],
)
def test_the_words_of_a_command(words: list[str], names: tuple[str, ...], written: list[str], package: Path) -> None:
    assert take(words) == (names, written)


REFUSED = [
    ("plugins=[os]", "plugins=[os]: is Python's own, not a plugin"),
    ("plugins=[builtins]", "is Python's own"),
    ("plugins=[torch]", "plugins=[torch]: is one of diffexp's own packages"),
    ("plugins=[torch.hub]", "is one of diffexp's own packages"),
    ("plugins=[diffexp]", "is one of diffexp's own packages"),
    ("plugins=[mylab.net]", "a plugin is a whole package: did you mean plugins=[mylab]?"),
    ("plugins=[mylap]", "there is no such package; did you mean 'mylab'?"),
    ("plugins=[zzqqj]", "there is no such package; install it, or put the folder that holds it on PYTHONPATH"),
    ("plugins=[__main__]", "is no name of a package"),
    ("plugins=['my-lab']", "is no name of a package"),
    ("plugins=[3]", "a list of package names is needed"),
    ("plugins={a:1}", "a list of package names is needed"),
    ("plugins=null", "a list of package names is needed"),
    ("plugins=mylab,other", "a sweep cannot change its plugins: write one list, plugins=[a,b]"),
    ("plugins=[${seed}]", "is no name of a package"),
    ("plugins=[bare]", "there is a folder of that name, but no bare/__init__.py in it"),
    ("plugins=[compiled]", "it has no Python source that could be read"),
    ("plugins=[broken]", "it has no Python source that could be read"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_names_that_are_no_plugins(word: str, message: str, package: Path, marker: Path) -> None:
    (package / "bare").mkdir()
    (package / "compiled.pyc").write_bytes(b"")
    (package / "broken.py").write_text("def (:\n")
    with pytest.raises(ConfigError) as caught:
        take([word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_two_lists_are_refused(package: Path) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        take(["plugins=[mylab]", "+plugins=[mylab]"])


def test_a_package_that_only_lies_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(ConfigError, match=r"in the working folder, where this command does not look: use python -m"):
        check(["mylab"])
    monkeypatch.syspath_prepend(tmp_path)
    check(["mylab"])


def test_every_dependency_is_reserved() -> None:
    """A folder that is called like one of them is no plugin."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    body = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    wanted = {_canonical(name) for name in re.findall(r'"([A-Za-z][\w-]*)[<>=!\[]', body)}
    by_module = metadata.packages_distributions().items()
    modules = {module for module, owners in by_module if wanted & set(map(_canonical, owners))}
    assert {"torch", "yaml", "PIL", "sklearn", "hydra", "torch_fidelity"} <= modules
    strays = {"tests", "py", "pydevd_plugins"}  # which some of them install beside their own
    assert {module for module in modules if not module.startswith("_")} - strays <= plugins.RESERVED


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_permission_ends_with_its_block(package: Path, marker: Path) -> None:
    assert allowed() == ()
    with permission(["mylab"]):
        assert allowed() == ("mylab",)
        assert environment() == {"DIFFEXP_RANK_PLUGINS": "mylab"}
        with pytest.raises(ConfigError), permission(["os"]):
            pass
        assert allowed() == ("mylab",)
        assert [folder.name for folder in conf_folders()] == ["conf"]
    assert allowed() == conf_folders() == ()
    assert inherited(environment()) == ()
    assert inherited({"DIFFEXP_RANK_PLUGINS": "a,b"}) == ("a", "b")
    assert not marker.exists()


NODES = [
    ({"_target_": "mylab.net.Tiny"}, ""),
    ({"_target_": "mylab.tools.VP"}, ""),  # leads to diffexp
    ({"_target_": "mylab.net.nn.Module"}, "leads to torch.nn.modules.module.Module, which is not in"),
    ({"_target_": "mylab.tools.system"}, "comes from os, which is not in an allowed package"),
    ({"_target_": "mylab.tools.os.system"}, "mylab.tools.os.system: "),
    ({"_target_": "mylab.tools.sp.Popen"}, "leads to subprocess.Popen, which is not in an allowed package"),
    ({"_target_": "mylab.tools.shell"}, "mylab.tools.shell: is not a class"),
    ({"_target_": "mylab.net.Tinny"}, "mylab.net has no 'Tinny'; did you mean 'Tiny'?"),
    ({"_target_": "mylap.net.Tiny"}, "; did you mean 'mylab'?"),
    ({"_target_": "other.net.Tiny"}, "if 'other' is a plugin that you trust, name it: plugins=[mylab,other]"),
    ({"_target_": "os.system"}, "not in an allowed package (diffexp, torch.optim, lightning, torchmetrics, mylab)"),
]


@pytest.mark.parametrize(("node", "message"), NODES)
def test_what_a_target_may_be(node: dict[str, Any], message: str, package: Path, marker: Path) -> None:
    with permission(["mylab"]):
        if not message:
            check_targets({"network": node})
        else:
            with pytest.raises(ConfigError) as caught:
                check_targets({"network": node})
            assert message in str(caught.value)
            assert str(caught.value).startswith(f"network._target_={node['_target_']}: ")
    with pytest.raises(ConfigError, match="not in an allowed package"):
        check_targets({"network": node})
    assert not marker.exists()


ARGUMENTS = [
    ("+network.widht=4", "network.widht: Tiny has no argument 'widht'; did you mean 'width'?"),
    ("network.width=wide", "network.width=wide: expected int"),
    ("+network.law=relu", "network.law=relu: expected one of 'silu'"),
    ("dataset.radius=far", "dataset.radius=far: expected float"),
    ("+process.beta_maks=3", "process.beta_maks: Steep has no argument 'beta_maks'; did you mean 'beta_max'?"),
    ("process.beta_max=x", "process.beta_max=x: expected float"),
    ("network.width=4", ""),
]


@pytest.mark.parametrize(("word", "message"), ARGUMENTS)
def test_arguments_are_checked_like_diffexps_own(word: str, message: str, package: Path, marker: Path) -> None:
    """Also those of a constructor that is inherited from a class of diffexp."""
    with permission(["mylab"]):
        layout = read_layout(extras=conf_folders())
        assert "bumps" in layout.choices["experiment"]
        (job,) = compose_jobs([normalise(["plugins=[mylab]", "experiment=bumps", word], layout)], layout)
        if message:
            with pytest.raises(ConfigError) as caught:
                validate(job.config, layout)
            assert message in str(caught.value)
        else:
            validate(job.config, layout)
            assert job.config["plugins"] == ["mylab"]
    assert not marker.exists()
    assert "mylab" not in sys.modules


def test_dataclasses_inherit_fields_from_diffexp_and_are_open_to_bases_out_of_sight(package: Path) -> None:
    from diffexp.launch.signature import signature_of
    from diffexp.launch.source import find

    text = (
        "from dataclasses import dataclass\nfrom diffexp.training.ema import EMASettings\nfrom nowhere import Base\n"
        "@dataclass\nclass Near(EMASettings):\n    extra: int = 0\n"
        "@dataclass\nclass Far(Base):\n    extra: int = 0\n"
    )
    (package / "mylab" / "more.py").write_text(text)
    near, far = (signature_of(find(f"mylab.more.{name}")) for name in ("Near", "Far"))
    assert {"decays", "ramp", "power_stds", "extra"} <= set(near.parameters)
    assert (near.open, far.open) == (False, True)
    assert isinstance(near.parameters["extra"].annotation, ast.Name)


def test_runs_record_which_code_a_plugin_was(package: Path, marker: Path) -> None:
    from diffexp.launch.folder import versions

    assert "mylab" not in versions()
    with permission(["mylab"]):
        before = versions()["mylab"]
        assert re.fullmatch(r"not installed \(sources [0-9a-f]{12}\)", before)
        assert versions()["mylab"] == before
        (package / "mylab" / "net.py").write_text(lab.NET + "\n# changed\n")
        assert versions()["mylab"] != before
    assert not marker.exists()
