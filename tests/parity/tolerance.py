"""How far a value may be from a golden one: the rules and the precedence that the files state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Tolerance:
    """An allowed error.

    Attributes:
        abs: absolute part.
        rel: relative part, of each entry, or of max(1, largest entry) when `whole`.
        whole: see `rel`.
        above: with a number, the relative part alone counts, and only for entries above it.
        peak: `rel` is of the largest entry.
        at_end: the rule for entries at the end point of a bridge, where it is another one.
    """

    abs: float = 0.0
    rel: float = 0.0
    whole: bool = False
    above: float | None = None
    peak: bool = False
    at_end: Tolerance | None = None

    def allowed(self, want: np.ndarray) -> np.ndarray:
        """The largest allowed error of each entry of `want` (float64)."""
        size = np.abs(want)
        if self.above is not None:
            return np.where(size > self.above, self.rel * size, np.inf)
        if self.whole or self.peak:
            size = np.full_like(size, max(1.0 if self.whole else 0.0, size.max(initial=0.0)))
        return self.abs + self.rel * size

    def ratio(self, got: np.ndarray, want: np.ndarray, at_end: np.ndarray | None = None) -> float:
        """The largest error of an entry, divided by the allowed one; NaN when an entry is NaN.

        Args:
            got, want: the values.
            at_end: which entries stand at the end point.
        """
        want = want.astype(np.float64)
        allowed = self.allowed(want)
        if at_end is not None and self.at_end is not None:
            allowed = np.where(at_end, self.at_end.allowed(want), allowed)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(got == want, 0.0, np.abs(got - want))  # also equal infinities
            return float(np.where(error == 0.0, 0.0, error / allowed).max(initial=0.0))

    def __str__(self) -> str:
        of = "max(1, max|golden|)" if self.whole else "max|golden|" if self.peak else "|golden|"
        limit = "" if self.above is None else f" where |golden| > {self.above:g}"
        return f"abs {self.abs:g} + rel {self.rel:g} {of}{limit}"


def stated(config: Settings, family: Settings, member: Settings, role: str, single: bool) -> Tolerance | None:
    """The tolerance that a file states for an output role; None when the output is not to be compared.

    Args:
        config: the whole of `config`.
        family: the words of the family.
        member: the words of the member.
        role: the output.
        single: for a float32 implementation with coefficients in float64.
    """
    if config.get("topic") == "cdbm":
        own = family["tolerance"].get(role, family["tolerance"].get("default"))
        return None if own is None else _at_peak(own)
    if config.get("topic") == "ddm":
        general = config["tolerance_float32"].get(family["kind"]) if single else None
        return _rule(general or member.get("tolerance_by_role", {}).get(role, member["tolerance"]), whole=False)
    if config["schema"].startswith("gddim"):
        own = {**family.get("tol", {}), **member.get("tol", {})}.get(role)
        return None if own is None or single or own.get("compare") is False else _rule(own, whole=True)
    if single:
        general = config.get("tolerance_f32", {})
        chain = [family.get("tolerance_f32_by_output", {}), _everywhere(family, "tolerance_f32", role)]
        chain.append({role: general} if {"abs", "rel"} & general.keys() else general)
    else:
        chain = [
            found
            for words in (member, family)
            for found in (words.get("tolerance_by_output", {}), _everywhere(words, "tolerance", role))
        ]
        chain.append(_everywhere(config, "tolerance", role))
    own = next((found[role] for found in chain if role in found), None)
    return _rule(own, whole=False) if isinstance(own, Mapping) else None


def _everywhere(words: Settings, word: str, role: str) -> Settings:
    return {role: words[word]} if word in words else {}


def _rule(own: Settings, whole: bool) -> Tolerance:
    if "above" in own:
        return Tolerance(rel=own["elementwise_rel"], above=own["above"])
    return Tolerance(own.get("abs", 0.0), own.get("rel", 0.0), whole)


def _at_peak(own: Settings) -> Tolerance:
    """The rule of a bridge's file, with the one that replaces it at the end point."""
    end = own.get("at_T")
    return Tolerance(own["abs"], own["rel"], peak=True, at_end=None if end is None else _at_peak(end))
