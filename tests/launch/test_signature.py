"""Definitions and signatures found by reading sources, compared with what `inspect` says of the imported objects."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffexp.launch.signature import Signature, signature_of
from diffexp.launch.source import Definition, find, load, submodules

FILES = {
    "__init__.py": "from .first import Plain, Frozen as Renamed\nfrom . import second as other\nfrom .stars import *\n",
    "first.py": """
import abc
import dataclasses
from dataclasses import dataclass, field, KW_ONLY, InitVar
from typing import ClassVar, NamedTuple
import os

class Plain:
    def __init__(self, a, b: int, c: str = "x", *rest, d: float, e=None): ...
    @classmethod
    def small(cls, a: int = 1): ...
    @staticmethod
    def fixed(a: int): ...

class Child(Plain):
    pass

class GrandChild(abc.ABC, Child):
    '''No constructor of its own.'''

class Anything:
    def __init__(self, a: int, **rest): ...

class Empty:
    pass

@dataclass(frozen=True)
class Frozen:
    a: int
    b: list = field(default_factory=list)
    shared: ClassVar[int] = 3
    computed: int = field(default=0, init=False)
    given: InitVar[int] = 3

@dataclasses.dataclass(frozen=True)
class Derived(Frozen):
    c: float = 1.0
    a: int = 5
    _: KW_ONLY
    last: str = "z"

class Pair(NamedTuple):
    x: int
    y: int = 0

def function(a, *, b=1): ...

Alias = Plain
if True:
    def chosen(a): ...
else:
    def chosen(b): ...
try:
    from .second import Twice
except ImportError:
    Twice = None
""",
    "second.py": "class Twice:\n    def __init__(self, n: int): ...\n",
    "stars.py": "class Starred:\n    def __init__(self, s): ...\n",
    "loop_a.py": "from sigpack.loop_b import Name\n",
    "loop_b.py": "from sigpack.loop_a import Name\n",
    "broken.py": "def (:\n",
}

NAMES = [
    "sigpack.Plain", "sigpack.Renamed", "sigpack.other.Twice", "sigpack.Starred", "sigpack.first.Child",
    "sigpack.first.GrandChild", "sigpack.first.Frozen", "sigpack.first.Derived", "sigpack.first.Pair",
    "sigpack.first.Empty", "sigpack.first.Anything", "sigpack.first.function", "sigpack.first.Alias",
    "sigpack.first.chosen", "sigpack.first.Twice", "sigpack.Plain.small", "sigpack.Plain.fixed",
]  # fmt: skip


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "sigpack"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sigpack"]:
        del sys.modules[name]


def _read(name: str) -> tuple[Definition, Signature]:
    definition = find(name)
    assert definition is not None
    return definition, signature_of(definition)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_agree_with_inspect(name: str) -> None:
    _, signature = _read(name)
    assert "sigpack" not in sys.modules  # it was read, not run
    module, _, attribute = name.rpartition(".")
    holder = importlib.import_module("sigpack.first") if module == "sigpack.Plain" else None
    module = "sigpack.second" if module == "sigpack.other" else module
    owner = holder.Plain if holder else importlib.import_module(module)
    found = inspect.signature(getattr(owner, attribute)).parameters.values()
    named = [entry for entry in found if entry.kind not in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD)]
    assert {key: entry.required for key, entry in signature.parameters.items()} == {
        entry.name: entry.default is inspect.Parameter.empty for entry in named
    }
    assert signature.open == any(entry.kind is entry.VAR_KEYWORD for entry in found)


def test_every_dataclass_of_this_room_agrees_with_inspect() -> None:
    from diffexp.launch import annotation, command, compose, layout

    for module in (annotation, command, compose, layout):
        for name, entry in vars(module).items():
            if dataclasses.is_dataclass(entry) and entry.__module__ == module.__name__:  # type: ignore[union-attr]
                _, signature = _read(f"{module.__name__}.{name}")
                assert list(signature.parameters) == list(inspect.signature(entry).parameters)  # type: ignore[arg-type]


def test_reexports_lead_to_the_definition() -> None:
    assert _read("sigpack.Renamed")[0].name == "sigpack.first.Frozen"
    assert _read("sigpack.Starred")[0].name == "sigpack.stars.Starred"
    assert _read("sigpack.Plain.small")[0].name == "sigpack.first.Plain.small"
    assert _read("torch.optim.Adam")[0].name == "torch.optim.adam.Adam"
    assert "lr" in _read("torch.optim.Adam")[1].parameters


@pytest.mark.parametrize(
    "name", ["sigpack.Plian", "sigpack.nothing.Plain", "nowhere_at_all.A", "sigpack.loop_a.Name", "sigpack.broken.A"]
)
def test_what_is_not_there_is_not_found(name: str) -> None:
    assert find(name) is None


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    import os

    path = tmp_path / "sigpack" / "second.py"
    assert list(_read("sigpack.second.Twice")[1].parameters) == ["n"]
    path.write_text("class Twice:\n    def __init__(self, m: int): ...\n")
    os.utime(path, ns=(1, 1))
    assert list(_read("sigpack.second.Twice")[1].parameters) == ["m"]


def test_submodules_are_listed() -> None:
    assert submodules("sigpack") == ["broken", "first", "loop_a", "loop_b", "second", "stars"]
    assert submodules("sigpack.first") == []
    assert load("sigpack.broken") is None
