"""The section of a report about a chain of distillations: what each stage cost, and how far its student is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from diffexp.evaluation.collect import Run, first_protocol, mixed, run_in
from diffexp.evaluation.document import Block, Heading, Table
from diffexp.evaluation.results import Row
from diffexp.evaluation.selection import how, read_choices
from diffexp.evaluation.table import Summary, best_of, spell_spread, summarise_controls, summarise_groups
from diffexp.launch.find import newest
from diffexp.launch.folder import CONFIG

STAGE_PASSES, CONVERSION_PASSES, BASE_PASSES = 5, 4, 3
"""Forward passes that an image of a step costs, a backward pass counted as two: a stage asks its teacher twice, a
conversion once."""

_FLOORS = ("held_out", "real")
_FEW = 4  # steps of the student whose distance from the first teacher is said in words


def chains(runs: Sequence[Run]) -> list[Block]:
    """One table for each chain among the runs, and one for all of them where there are several; empty without any."""
    stages = {_checkpoint(run): run for run in runs if run.folder is not None}
    taught = {_teacher(run) for run in runs if _steps(run) is not None}
    found: list[_Chain] = []
    refused: list[Block] = []
    for run in runs:
        if _steps(run) is not None and run.rows and _checkpoint(run) not in taught:
            chain = _behind(run, stages)
            if len(chain) > 1:
                reason = mixed(chain)
                refused += [reason] if reason else []
                found += [] if reason else [_Chain.of(chain)]
    alike = mixed([line.run for chain in found for line in chain.lines]) is None
    together = side_by_side(found) if len(found) > 1 and alike else []
    parts = [*refused, *(block for chain in found for block in _section(chain))]
    return [Heading(2, "Distillation"), *together, *parts] if parts else []


def side_by_side(found: Sequence[_Chain]) -> list[Block]:
    """The distances of all students, a line for each chain, beside what their teachers have without distillation."""
    budgets = sorted({line.steps for chain in found for line in chain.lines}, reverse=True)
    teachers = list(dict.fromkeys(chain.teacher for chain in found))
    bases = {chain.teacher: chain for chain in found if chain.base is not None}
    body = [[chain.name, *(_told(chain.student(n), chain.noise) for n in budgets)] for chain in found]
    for place, teacher in enumerate(teachers, start=1):
        if teacher in bases:
            name = "undistilled teacher" + (f" {place}" if len(teachers) > 1 else "")
            body.append([name, *(_told(bases[teacher].undistilled(n), bases[teacher].noise) for n in budgets)])
    header = ["distance with", *(f"{n} step{'s' * (n > 1)}" for n in budgets)]
    one = len(teachers) == 1
    return [
        Heading(3, "Students of one teacher" if one else "Chains side by side"),
        Table(header, body, 1),
        "Each student at its own number of steps, the same noise for all. "
        + ("A chain that begins at the teacher's own number of steps converts its prediction first. " * _any(found))
        + "*Worse than noise*: above what Gaussian noise scores.",
    ]


def _any(found: Sequence[_Chain]) -> bool:
    """Whether a chain has a conversion."""
    return any(_converts(line.run) for chain in found for line in chain.lines)


def _told(arm: Summary | None, noise: Summary | None) -> str:
    worse = arm is not None and noise is not None and noise.metric == arm.metric and arm.mean > noise.mean
    return _spelled(arm) + (" *worse than noise*" if worse else "")


def _section(chain: _Chain) -> list[Block]:
    """Title, table and notes of one chain, from its first training to its last."""
    lines, base = chain.lines, chain.base
    numbers = ", ".join(line.name for line in lines[1 if base else 0 :])
    title = f"{chain.lines[-1].run.config.get('recipe')}, prediction {chain.name}: {numbers}"
    choices = read_choices(base.folder) if base is not None and base.folder is not None else []
    header = [
        "steps", "updates", "passes per image, million", "training, s", "distance at these steps",
        "undistilled, same sampler", "undistilled, tuned" if choices else "undistilled, best other",
        "from the first teacher, floor spreads",
    ]  # fmt: skip
    parts: list[Block] = [Heading(3, title), Table(header, [line.cells() for line in lines])]
    parts += [_cost(lines)] if base else []
    return [*parts, _distance(lines, chain.start), f"{_NOTE} {how(choices) if choices else _UNTUNED}"]


_NOTE = (
    "Passes are forward passes of one image, a backward one counted as two: 3 for an image of an ordinary step, 5 for "
    "one of a stage, 4 for one of a conversion. Seconds are those of the steps, as long as they took on the machine as "
    "it was. A spread is the standard deviation of the floor over the evaluation seeds."
)
_UNTUNED = (
    "The other samplers of the undistilled network are its listed arms; which is best is decided by these very "
    "distances, in its favour."
)


@dataclass(frozen=True)
class _Chain:
    """A chain of trainings.

    Attributes:
        lines: one for each.
        base: the first training, where that is no student.
        start: steps of the first teacher.
        teacher: the checkpoint of the first teacher.
        noise: what Gaussian noise scores.
    """

    lines: Sequence[_Line]
    base: Run | None
    start: int
    teacher: Path | None
    noise: Summary | None

    @classmethod
    def of(cls, chain: Sequence[Run]) -> _Chain:
        base = chain[0] if _steps(chain[0]) is None else None
        first = chain[1] if base is not None else chain[0]
        start = (_steps(first) or 0) * (1 if _converts(first) else 2)
        noise = next((each for each in summarise_controls(chain[-1].rows) if each.label == "noise"), None)
        teacher = _checkpoint(base) if base is not None else _teacher(first)
        return cls([_Line.of(run, base, start) for run in chain], base, start, teacher, noise)

    @property
    def name(self) -> str:
        """The prediction of the students."""
        return str((self.lines[-1].run.config.get("choices") or {}).get("prediction"))

    def student(self, steps: int) -> Summary | None:
        """The student of this many steps."""
        return next((line.own for line in self.lines if line.run is not self.base and line.steps == steps), None)

    def undistilled(self, steps: int) -> Summary | None:
        """The first teacher with this many steps of the students' sampler."""
        own = self.lines[-1].own
        arms = _arms(self.base.rows) if self.base is not None else []
        return next((arm for arm in arms if own and arm.nfe == steps and arm.sampler == own.sampler), None)


@dataclass(frozen=True)
class _Line:
    """One training of a chain; `floor` is what a set of real images scores."""

    run: Run
    steps: int
    updates: int
    passes: int
    seconds: float | None
    own: Summary | None
    same: Summary | None
    other: Summary | None
    goal: Summary | None
    floor: Summary | None

    @classmethod
    def of(cls, run: Run, base: Run | None, start: int) -> _Line:
        steps, training = _steps(run), run.config["training"]
        arms = _arms(run.rows)
        at = steps or start
        mine = [arm for arm in arms if arm.nfe == at]
        own = mine[0] if mine else None
        others = _arms(base.rows) if base else []
        goal = next((arm for arm in others if own and arm.nfe == start and arm.sampler == own.sampler), None)
        same = next((arm for arm in others if own and steps and arm.nfe == at and arm.sampler == own.sampler), None)
        found = _rivals(base, [arm for arm in others if own and arm.nfe == at and arm.sampler != own.sampler])
        controls = {floor.label: floor for floor in summarise_controls(run.rows) if own and floor.metric == own.metric}
        updates = int(training["max_steps"])
        cost = BASE_PASSES if steps is None else CONVERSION_PASSES if _converts(run) else STAGE_PASSES
        passes = updates * int(training["batch_size"]) * cost
        floor = next((controls[name] for name in _FLOORS if name in controls), None)
        return cls(run, at, updates, passes, _seconds(run), own, same, best_of(found), goal, floor)

    @property
    def spreads(self) -> float | None:
        """How many of the floor's spreads the distance is above that of the first teacher with all its steps."""
        if self.own is None or self.goal is None or self.floor is None or len(self.floor.values) < 2:
            return None
        spread = statistics.stdev(self.floor.values)
        return (self.own.mean - self.goal.mean) / spread if spread > 0.0 else None

    @property
    def name(self) -> str:
        """By its number of steps."""
        if _steps(self.run) is None:
            return f"teacher, {self.steps}"
        return f"{self.steps} (conversion)" if _converts(self.run) else str(self.steps)

    def cells(self) -> list[str]:
        spell = [_spelled(self.own), _spelled(self.same), _spelled(self.other, named=True)]
        seconds = "–" if self.seconds is None else f"{self.seconds:.0f}"
        spreads = "–" if self.spreads is None or _steps(self.run) is None else f"{self.spreads:.1f}"
        return [self.name, f"{self.updates:,}", f"{self.passes / 1e6:.3g}", seconds, *spell, spreads]


def _spelled(arm: Summary | None, named: bool = False) -> str:
    if arm is None:
        return "–"
    return f"{spell_spread(arm)} ({arm.label})" if named else spell_spread(arm)


def _cost(lines: Sequence[_Line]) -> str:
    """The stages against the training of the first teacher."""
    base, stages = lines[0], lines[1:]
    text = f"**Distillation took {sum(line.passes for line in stages) / base.passes:.2f} x the passes"
    seconds = [line.seconds for line in lines]
    if all(seconds):
        text += f" and {sum(s or 0.0 for s in seconds[1:]) / (seconds[0] or 1.0):.2f} x the time"
    return f"{text} of the base training.**"


def _distance(lines: Sequence[_Line], start: int) -> str:
    """How far the student of four steps is from the first teacher, or that of the fewest steps above."""
    line = min(lines, key=lambda line: (abs(line.steps - _FEW), line.steps))
    if line.spreads is None or line.own is None or line.goal is None or line.floor is None:
        return "The floor has no spread here, or the first teacher no distance: no comparison with it."
    return (
        f"The student of {line.steps} steps is at {spell_spread(line.own)}, the teacher of {start} steps at "
        f"{spell_spread(line.goal)}: {line.spreads:.1f} times the floor's spread apart (floor {line.floor.label}, "
        f"{spell_spread(line.floor)})."
    )


def _arms(rows: Sequence[Row]) -> list[Summary]:
    """The samplers of a run, of its first metric."""
    name = first_protocol(rows)
    return summarise_groups([("", [row for row in rows if row.protocol == name])]) if name else []


def _behind(run: Run, stages: dict[Path | None, Run]) -> list[Run]:
    """The trainings from the first teacher to this one, as far as they are among the runs or on this machine."""
    chain = [run]
    while _steps(chain[0]) is not None and (before := stages.get(_teacher(chain[0]))) is not None:
        chain.insert(0, before)
    given = _teacher(chain[0])
    if given is not None and (given.parent.parent / CONFIG).is_file():  # `teacher=` of the command
        chain.insert(0, run_in(given.parent.parent))
    return chain


def _rivals(base: Run | None, arms: Sequence[Summary]) -> Sequence[Summary]:
    """Other samplers of the undistilled network: what was tuned for the number of steps, where anything was tuned."""
    choices = read_choices(base.folder) if base is not None and base.folder is not None else []
    chosen = {(choice.chosen, choice.nfe) for choice in choices}
    return [arm for arm in arms if (arm.sampler, arm.nfe) in chosen] if chosen else arms


def _converts(run: Run) -> bool:
    """Whether a student takes as many steps as its teacher."""
    node = run.config.get("distillation") or {}
    return node.get("teacher_steps") is not None and node.get("teacher_steps") == node.get("student_steps")


def _steps(run: Run) -> int | None:
    """The number of steps of a student; None for another run."""
    return (run.config.get("distillation") or {}).get("student_steps")


def _teacher(run: Run) -> Path | None:
    """The checkpoint that a run learns from."""
    spec = run.config.get("teacher")
    return None if spec is None else Path(spec).resolve()


def _checkpoint(run: Run) -> Path | None:
    """The last checkpoint of a run."""
    found = None if run.folder is None else newest(run.folder)
    return None if found is None else found.resolve()


def _seconds(run: Run) -> float | None:
    """How long the steps of a run took, by the lines of its training; None where there are none."""
    checkpoint = _checkpoint(run)
    path = None if checkpoint is None else checkpoint.parent.parent / "metrics.jsonl"
    if path is None or not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    size, marks = int(run.config["training"]["batch_size"]), [{"step": 0}, *lines]
    return sum((now["step"] - then["step"]) * size / now["images_per_second"] for then, now in pairwise(marks))
