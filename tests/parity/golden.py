"""Golden files: arrays whose `config` (JSON) says how each was made, and a record of what the tests did with them.

`layout` reads the layouts that exist. Keys are labels: nothing is read from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.layout import Words, members, texts
from tests.parity.tolerance import Tolerance, stated

DIFFEXP = {"schema": "diffexp-golden", "schema_version": 1}
SCHEMAS: dict[str, dict[str, object]] = {
    "gddim": {"schema": "gddim/1"},
    "progressive_distillation": {**DIFFEXP, "topic": "progressive_distillation", "part": "process"},
    "progressive_distillation_unet": {**DIFFEXP, "topic": "progressive_distillation", "part": "unet"},
    "bddm": {**DIFFEXP, "topic": "bddm"},
    "cdbm": {"schema": 1, "topic": "cdbm"},
    "ddm": {"schema": "ddm-golden/1", "topic": "ddm"},
}
"""What `config` must say for the tests to understand the file."""

Numbers = Tensor | np.ndarray | float


class GoldenError(Exception):
    """A golden file that cannot be used as it is; the message is one line."""


class Golden:
    """One golden file and what was done with each of its arrays.

    Args:
        path: the file.

    Attributes:
        path: the file.
        name: its name without extension.
        config: the parsed `config`.
        keys: all arrays but `config`.
        members: of all families, in the file's order.
        checked: keys of the arrays that were used as an input or compared.
        touched: a test of this file ran.
        worst: family -> largest error divided by the allowed one.
        later: pattern of family names -> why they have no test yet.

    Raises:
        FileNotFoundError: there is no such file.
        GoldenError: it is of another schema, or not a golden file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(path)
        self.path, self.name = path, path.stem
        self._file = np.load(path, allow_pickle=False)
        if "config" not in self._file.files:
            raise GoldenError(f"golden {path.name} has no array `config`")
        self.config: Words = json.loads(str(self._file["config"].item()))
        for word, expected in SCHEMAS[self.name].items():
            if self.config.get(word) != expected:
                said = self.config.get(word)
                raise GoldenError(f"golden {path.name}: {word} is {said!r}, these tests read {expected!r}")
        self.keys = [key for key in self._file.files if key != "config"]
        self.members = [Member(self, *parts) for parts in members(self.config)]
        self.checked: set[str] = set()
        self.touched = False
        self.worst: dict[str, float] = {}
        self.later: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def array(self, key: str) -> np.ndarray:
        """One array as it is stored; counted as used."""
        if key not in self.keys:
            raise GoldenError(f"golden {self.name}: config names the array {key!r}, which is not in the file")
        self.checked.add(key)
        return self._file[key]

    def tensor(self, key: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """One array as a tensor, floating point numbers in `dtype`; counted as used."""
        value = torch.from_numpy(np.array(self.array(key)))
        return value.to(dtype) if value.is_floating_point() else value

    def of(self, *families: str) -> list[Member]:
        """The members of these families, in the file's order."""
        return [member for member in self.members if member.family in families]

    def leave(self, member: Member, reason: str) -> None:
        """Note why the arrays of a member are not compared."""
        for key in texts(member.words):
            self._reasons.setdefault(key, reason)

    def unchecked(self) -> dict[tuple[str, str], list[str]]:
        """(family, reason) -> keys of the arrays that nothing used, in the file's order."""
        owner = self._owners()
        groups: dict[tuple[str, str], list[str]] = {}
        for key in self.keys:
            if key not in self.checked:
                family = owner.get(key, "no family")
                groups.setdefault((family, self._reason(family, key)), []).append(key)
        return groups

    def told(self) -> Words:
        """What was done with the file, as plain values that another process can `add`."""
        return {
            "checked": sorted(self.checked), "worst": self.worst, "later": self.later, "reasons": self._reasons,
        }  # fmt: skip

    def add(self, told: Words) -> None:
        """Take in what another process did with the same file."""
        self.touched = True
        self.checked.update(told["checked"])
        self.later.update(told["later"])
        self._reasons = {**told["reasons"], **self._reasons}
        for label, ratio in told["worst"].items():
            self.worst[label] = max(self.worst.get(label, 0.0), ratio)

    def _reason(self, family: str, key: str) -> str:
        if family == "inputs":
            read = any(key in member.inputs.values() for member in self.members)
            return "of members that are not checked" if read else "read by no member"
        general = (why for pattern, why in self.later.items() if fnmatch(family, pattern))
        return self._reasons.get(key) or next(general, "no test read it")

    def _owners(self) -> dict[str, str]:
        """The family of each array: the one that names it as its own, else the first that names it at all."""
        owners: dict[str, str] = {}
        for member in self.members:
            for key in (*member.owned, *member.outputs.values()):
                owners.setdefault(key, member.family)
        for member in self.members:
            for key in texts(member.words):
                owners.setdefault(key, member.family)
        return owners


@dataclass(frozen=True, eq=False, repr=False)
class Member:
    """One member of a family.

    Attributes:
        golden: its file.
        family: the family's name.
        shared: what the family says.
        words: what the member and its family say; the member wins.
        inputs: {role: key} of the arrays it reads.
        owned: the keys among them that no other member owns.
        outputs: {role: key} of the arrays to reproduce.
        own: what the member itself says.
    """

    golden: Golden
    family: str
    shared: Words
    words: Words
    inputs: dict[str, str]
    owned: tuple[str, ...]
    outputs: dict[str, str]
    own: Words

    def __str__(self) -> str:
        return next(iter((*self.outputs.values(), *self.inputs.values())), self.family)

    def __repr__(self) -> str:
        return f"golden {self.golden.name}, family {self.family}, member {self}"

    def __getitem__(self, word: str) -> Any:
        return self.words[word]

    def input(self, role: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """The input array of a role, floating point numbers in `dtype`."""
        return self.golden.tensor(self.inputs[role], dtype)

    def part(self, words: Words) -> Member:
        """A part of the member that has outputs of its own, `words["out"]`; what it does not say is the member's."""
        return replace(self, words={**self.words, **words}, outputs=words["out"])

    def check(self, role: str, got: Numbers, at_end: Tensor | None = None) -> None:
        """Compare an output; float32 values at the tolerance for float32, whole numbers and texts exactly.

        Args:
            role: the output.
            got: our values.
            at_end: which entries stand at the end point, where the file may state another tolerance.

        Raises:
            AssertionError: naming file, family, member, role, largest error and tolerance.
            GoldenError: the file states no tolerance for it.
        """
        __tracebackhide__ = True
        self.compare(role, got, self.golden.array(self.outputs[role]), at_end=at_end)

    def check_each(self, **got: Numbers) -> None:
        """Compare every output that the member has among these; what it has beside them stays unchecked."""
        __tracebackhide__ = True
        for role in self.outputs:
            if role in got:
                self.check(role, got[role])

    def compare(
        self,
        role: str,
        got: Numbers,
        want: np.ndarray,
        rule: Tolerance | None = None,
        at_end: Tensor | None = None,
    ) -> None:
        """Compare with an array at `rule`, or at the tolerance of an output role; errors as for `check`."""
        __tracebackhide__ = True
        where = f"{self!r}, {role}"
        got = got.detach().numpy() if isinstance(got, Tensor) else np.asarray(got)
        assert got.shape == want.shape, f"{where}: shape {got.shape} instead of {want.shape}"
        if want.dtype.kind not in "fc":
            assert np.array_equal(got, want), f"{where}: {got} instead of exactly {want}"
            return
        rule = rule or stated(self.golden.config, self.shared, self.own, role, got.dtype == np.float32)
        if rule is None:
            raise GoldenError(f"{where}: the file states no tolerance for {got.dtype}")
        ratio = rule.ratio(got, want, None if at_end is None else at_end.numpy())
        label = f"{self.family} {got.dtype}" if got.dtype == np.float32 else self.family
        self.golden.worst[label] = max(self.golden.worst.get(label, 0.0), ratio)
        error = np.abs(got - want.astype(np.float64)).max(initial=0.0)
        assert ratio <= 1.0, f"{where}: max error {error:.3g}, {ratio:.3g} times the allowed {rule} ({got.dtype})"

    def keeps_away(self, role: str, got: Numbers) -> None:
        """Compare how far an array that is not to be reproduced is from `got`: as far as the file says, within 1 %.

        These are arrays whose own error was amplified to the size of the state; `measured` is their largest error.
        """
        __tracebackhide__ = True
        want, measured = self.golden.array(self.outputs[role]), self["tol"][role]["measured"]
        assert got.shape == want.shape, f"{self!r}, {role}: shape {tuple(got.shape)} instead of {want.shape}"
        error = float(np.abs(np.asarray(got) - want).max())
        ratio = abs(error / measured - 1.0) / 0.01
        self.golden.worst[f"{self.family} (diverged)"] = max(
            self.golden.worst.get(f"{self.family} (diverged)", 0.0), ratio
        )
        assert ratio <= 1.0, f"{self!r}, {role}: {error:.4g} away, but the file says {measured:.4g}"

    def repeats(self, role: str, *constants: float | str) -> None:
        """Check an input array that only repeats constants of `config`; a member without such an input passes."""
        __tracebackhide__ = True
        if role in self.inputs:
            found = np.ravel(self.golden.array(self.inputs[role])).tolist()
            assert found == list(constants), f"{self!r}, {role}: {found}, but config says {list(constants)}"
