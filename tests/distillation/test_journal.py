"""The journal of a search: whatever it stops at, it goes on, asks nothing twice, and ends with the same file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import DiffexpError
from diffexp.distillation.bilateral.journal import Journal
from diffexp.distillation.bilateral.scheduling import Start
from diffexp.distillation.bilateral.search import Buckets, search

GRID = [Start(0.11, 0.5), Start(0.32, 0.4), Start(0.33, 0.3)]


class StoppedError(Exception):
    pass


def run(path: Path, asked: list[str], stop: int = 10**9, key: str = "a") -> tuple[Buckets, Journal]:
    """A search that stops before its `stop`-th question; schedules cost their steps, judgements ten times as much."""
    journal, spent = Journal(path, key), {"made": 0, "judged": 0}

    def count(kind: str, what: object, cost: int) -> None:
        if len(asked) == stop:
            raise StoppedError
        asked.append(f"{kind} {what}")
        spent[kind] += cost

    def make(start: Start, mode: str) -> Tensor:
        known = journal.schedule(start, mode)
        if known is None:
            n = 2 + int(10.0 * start.alpha)
            count("made", (start, mode), n)
            known = torch.linspace(0.1 * start.beta, start.beta, n, dtype=torch.float64)
        return known

    def judge(betas: Tensor) -> tuple[float, ...]:
        known = journal.scores(betas)
        if known is None:
            count("judged", betas.tolist(), 10 * len(betas))
            known = (float(betas.sum()),)
        return known

    def note(found) -> None:
        journal.note(found, spent["made"], spent["judged"])
        spent.update(made=0, judged=0)

    return search(GRID, make, judge, 2, on_assessed=note, cuts=[2]), journal


def best(buckets: Buckets) -> dict[int, tuple[list[float], tuple[float, ...]]]:
    return {steps: (found.betas.tolist(), found.scores) for steps, found in buckets.best.items()}


def test_a_search_that_is_stopped_anywhere_goes_on_to_the_same_end(tmp_path):
    asked: list[str] = []
    whole, journal = run(tmp_path / "whole", asked)
    assert sorted(whole.best) == [2, 3, 5]
    assert len(asked) == len(set(asked))  # both modes give the same betas here: judged once
    judged = {word for word in asked if word.startswith("judged")}
    assert 0 < len(judged) < len((tmp_path / "whole").read_text().splitlines())
    assert journal.made == sum(len(line["betas"]) for line in lines(tmp_path / "whole") if line["made"])
    assert journal.judged == sum(10 * (word.count(",") + 1) for word in judged)
    for stop in range(1, len(asked), 5):
        first: list[str] = []
        with pytest.raises(StoppedError):
            run(tmp_path / str(stop), first, stop)
        with open(tmp_path / str(stop), "a") as handle:
            handle.write('{"key": "a", "alp')  # a kill in the middle of a line
        second: list[str] = []
        again, resumed = run(tmp_path / str(stop), second)
        assert best(again) == best(whole)
        assert len(second) <= len(asked) - len(first) + 1  # a schedule that was made and not yet judged
        assert (resumed.made, resumed.judged) == (journal.made, journal.judged)
        assert (tmp_path / str(stop)).read_text() == (tmp_path / "whole").read_text()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_that_is_repeated_asks_nothing_and_costs_the_same(tmp_path):
    whole, journal = run(tmp_path / "file", [])
    asked: list[str] = []
    again, other = run(tmp_path / "file", asked)
    assert asked == []
    assert best(again) == best(whole)
    assert (other.made, other.judged) == (journal.made, journal.judged)


def test_lines_of_another_search_stay_and_are_not_looked_at(tmp_path):
    run(tmp_path / "file", [])
    before, asked = (tmp_path / "file").read_text(), []
    run(tmp_path / "file", asked, key="b")
    assert len(asked) > 5
    assert (tmp_path / "file").read_text().startswith(before)
    assert {line["key"] for line in lines(tmp_path / "file")} == {"a", "b"}


def test_a_damaged_line_is_named(tmp_path):
    run(tmp_path / "file", [])
    text = (tmp_path / "file").read_text().splitlines()
    (tmp_path / "file").write_text("\n".join([text[0], '{"key": 1}', *text[2:]]) + "\n")
    with pytest.raises(DiffexpError, match="file, line 2: no assessment of a search"):
        Journal(tmp_path / "file", "a")
