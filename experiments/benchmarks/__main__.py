"""`make bench`: measure every ratio, print it beside its target, write results.{json,md}; exit 1 when one fails.

    python -m experiments.benchmarks                   # all, a few minutes on two quiet cores
    python -m experiments.benchmarks --only glue step  # some; nothing is written
    python -m experiments.benchmarks --only sweep --write --out experiments/benchmarks/sweep  # kept by themselves
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from experiments.benchmarks import evaluation, report, sampling, startup, sweep, training
from experiments.benchmarks.clock import Ratio
from experiments.benchmarks.parts import single_thread

QUIET = 0.95  # share of a core below which a missed target says more about the machine than about the code
MEASUREMENTS: dict[str, Callable[[], list[Ratio]]] = {
    "wall": lambda: sampling.wall(40),
    "glue": lambda: sampling.glue(100),
    "step": lambda: training.step(30),
    "start": lambda: startup.start(5),
    "average": lambda: startup.average(200),
    "pass": lambda: evaluation.one_pass(5),
    "frechet": lambda: evaluation.frechet(2),
    "sweep": lambda: sweep.sweep(2),
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), help="measure these, write nothing")
    parser.add_argument("--write", action="store_true", help="write the results of --only too, see --out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where results are written")
    options = parser.parse_args(words)
    chosen = options.only or list(MEASUREMENTS)
    if "glue" in chosen and find_spec("diffusers") is None:
        print("diffusers is not installed: use `make bench`, or pip install -e '.[bench]'", file=sys.stderr)
        return 2
    load = os.getloadavg()
    single_thread()
    results: list[Ratio] = []
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        results += MEASUREMENTS[name]()
    print(report.table(results))
    if options.only is None or options.write:
        report.write(options.out, results, report.protocol(load))
    failed = [found for found in results if not found.passed]
    for found in failed:
        share = found.notes["core_share"]
        busy = f" (it had {share:.0%} of a core: repeat on a quiet machine)" if share < QUIET else ""
        print(f"failed: {found.text}: {found.value:.3f} > {found.target:g}{busy}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
