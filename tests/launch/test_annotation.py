"""Values against annotations: a table."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from diffexp.launch.annotation import fault_of
from diffexp.launch.source import Module, load

MODULE = """
import pathlib
from enum import Enum
from typing import Literal, Optional, Union
Kind = Literal["cholesky", "R"]
Sizes = list[int]
class Grid: ...
class Mode(Enum):
    A = 1
class Rows(dict): ...
"""

GOOD: list[tuple[str, Any]] = [
    ("int", 3), ("int", -1), ("float", 3), ("float", 0.5), ("float", float("inf")), ("bool", True), ("str", "3"),
    ("None", None), ("int | None", None), ("int | None", 4), ("Optional[int]", None), ("typing.Optional[str]", "a"),
    ("Union[int, str]", "a"), ("int | str | None", "a"), ("'int | None'", 3), ("Literal['a', 'b']", "b"),
    ("Literal['a', None]", None), ("Literal[1, 2]", 2), ("Kind", "R"), ("Kind | None", None), ("list[int]", []),
    ("list[int]", [1, 2]), ("Sequence[float]", [1, 0.5]), ("tuple[float, float]", [0.9, 0.999]),
    ("tuple[int, ...]", [1, 2, 3]), ("tuple[int, ...]", []), ("list[list[int]]", [[1], []]), ("list", [1, "a"]),
    ("dict[str, int]", {"a": 1}), ("dict[str, list[int]]", {"a": [1]}), ("dict", {}), ("Sizes", [1]),
    ("Grid", {"_target_": "x.Y"}), ("Grid | None", None), ("dict[str, Grid]", {"a": {"_target_": "x.Y"}}),
    ("list[float]", {"_target_": "x.Y"}), ("Annotated[int, 'steps']", 3), ("Mode", 1), ("Rows", {"a": 1}),
    # unknown annotations fit everything
    ("Any", object()), ("object", 1), ("pathlib.Path", "data"), ("torch.Tensor", 3), ("Callable[[int], int]", "f"),
    ("Undefined", 3), ("type[Grid]", "a"),
]  # fmt: skip

BAD: list[tuple[str, Any, str]] = [
    ("int", "abc", "key=abc: expected int, got 'abc'"),
    ("int", 1.5, "key=1.5: expected int, got 1.5"),
    ("int", 1e6, "key=1000000.0: expected int, got 1000000.0; write 1000000"),
    ("int", True, "key=true: expected int, got true"),
    ("int", None, "key=null: expected int, got null"),
    ("float", "x", "key=x: expected float, got 'x'"),
    ("float", False, "key=false: expected float, got false"),
    ("bool", 1, "key=1: expected bool, got 1"),
    ("str", 3, "key=3: expected str, got 3"),
    ("None", 3, "expected null, got 3"),
    ("int | None", "a", "key=a: expected int or null, got 'a'"),
    ("Optional[int]", "a", "expected int or null, got 'a'"),
    ("Literal['plain', 'snr']", "sn", "expected one of 'plain', 'snr', got 'sn'; did you mean 'snr'?"),
    ("Literal['a', None]", 3, "expected one of 'a', null, got 3"),
    ("Literal[1, 2]", True, "expected one of 1, 2, got true"),
    ("Kind | None", "r", "expected one of 'cholesky', 'R'"),
    ("list[int]", 3, "expected list[int], got 3"),
    ("list[int]", "abc", "expected list[int], got 'abc'"),
    ("list[int]", [1, "a"], "key[1]=a: expected int, got 'a'"),
    ("list[int] | None", [1, "a"], "key[1]=a: expected int, got 'a'"),
    ("Sizes", [0.5], "key[0]=0.5: expected int"),
    ("tuple[float, float]", [0.9], "expected tuple[float, float] (2 values), got [0.9]"),
    ("tuple[float, str]", [0.9, 3], "key[1]=3: expected str"),
    ("tuple[int, ...]", [1, "a"], "key[1]=a: expected int"),
    ("dict[str, int]", [1], "expected dict[str, int], got [1]"),
    ("dict[str, list[int]]", {"a": [1, "b"]}, "key.a[1]=b: expected int"),
    ("Grid", "uniform", "expected a node with _target_ (a Grid), got 'uniform'"),
    ("Grid", {"a": 1}, "expected a node with _target_ (a Grid)"),
    ("dict[str, Grid]", {"a": 3}, "key.a=3: expected a node with _target_ (a Grid)"),
    ("str", "x" * 0 or ["long " * 40], "..."),
]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    (tmp_path / "annotated_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    found = load("annotated_module")
    assert found is not None
    return found


@pytest.mark.parametrize(("annotation", "value"), GOOD)
def test_fits(annotation: str, value: Any, module: Module) -> None:
    assert fault_of(value, ast.parse(annotation, mode="eval").body, module, "key") is None


@pytest.mark.parametrize(("annotation", "value", "message"), BAD)
def test_does_not_fit(annotation: str, value: Any, message: str, module: Module) -> None:
    text = str(fault_of(value, ast.parse(annotation, mode="eval").body, module, "key"))
    assert message in text
    assert "\n" not in text
    assert len(text) < 250


def test_no_annotation_fits_everything(module: Module) -> None:
    assert fault_of("anything", None, module, "key") is None
