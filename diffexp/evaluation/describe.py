"""Samplers and grids as text: the name with every setting that changes the numbers, and the short form for tables.

The long form stands in results.csv, where it tells rows apart: ``ddim(clip)`` on ``power(p=2,t_end=0.001,last=state)``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from diffexp.sampler.grid import Grid
from diffexp.sampler.loop import Sampler


def describe_sampler(sampler: Sampler) -> str:
    """The sampler's name with those settings of its stepper and its own that are not the usual ones; without the grid.

    E.g. ``ddim``, or ``ddim(eta=0.5,clip)``.
    """
    own = _settings(sampler, ("name", "stepper", "grid"), usual=False)
    return _call(sampler.name, _settings(sampler.stepper, usual=False) + own)


def describe_grid(grid: Grid) -> str:
    """The grid's name and settings, e.g. ``power(p=2,t_end=0.001,last=state)``."""
    return _call(grid.name, _settings(grid))


def shorten(texts: Iterable[str]) -> dict[str, str]:
    """Each text with as few settings as tell it from the others of its name.

    A name that occurs in one form only stands alone; else the settings that all its forms share are left out.
    """
    forms: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        name, settings = _parse(text)
        forms.setdefault(name, {})[text] = settings
    short = {}
    for name, group in forms.items():
        shared = set.intersection(*(set(settings) for settings in group.values()))
        for text, settings in group.items():
            short[text] = _call(name, [setting for setting in settings if setting not in shared])
    return short


def slug(text: str) -> str:
    """A text as part of a file name: ``ddim(clip)`` becomes ``ddim_clip``."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")


def _call(name: str, settings: list[str]) -> str:
    return f"{name}({','.join(settings)})" if settings else name


def _settings(thing: object, without: tuple[str, ...] = ("name",), usual: bool = True) -> list[str]:
    """The public attributes as ``key=value``: the constructor's in its order, then the others. False is left out.

    With `usual` false also what the constructor has as its default.
    """
    found = {key: value for key, value in vars(thing).items() if not key.startswith("_") and key not in without}
    parameters = inspect.signature(type(thing)).parameters
    order = [key for key in parameters if key in found]
    settings = []
    for key in [*order, *sorted(set(found) - set(order))]:
        value = found[key]
        if not usual and key in parameters and value == parameters[key].default:
            continue
        if value is True:
            settings.append(key)
        elif value is not False:
            text = _spell(value)
            settings += [f"{key}={text}"] if text else []
    return settings


def _spell(value: Any) -> str:
    """A value as text; empty for tensors and the like, which follow from the others."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (bool, int, str)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_spell(entry) for entry in value)}]"
    if type(value).__module__.startswith("diffexp."):
        return _call(getattr(value, "name", type(value).__name__), _settings(value))
    return ""


def _parse(text: str) -> tuple[str, list[str]]:
    """(name, settings) of a text made here; commas inside brackets do not part settings."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return name, []
    settings, depth = [""], 0
    for letter in rest[:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            settings.append("")
        else:
            settings[-1] += letter
    return name, settings
