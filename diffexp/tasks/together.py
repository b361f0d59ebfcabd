"""Several ranks evaluate one checkpoint: rank 0 leads, the others make and measure their part of every set of images.

Rank 0 alone finds checkpoints, folders and known rows, searches, writes and speaks. When it comes to evaluate, it tells
the others what (`lead`), who wait for that (`assist`); then all call `evaluate`, and part.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffexp.core.errors import PreemptedError
from diffexp.evaluation.results import Row
from diffexp.evaluation.settings import Arm, build_settings
from diffexp.evaluation.sweep import evaluate
from diffexp.launch import ranks
from diffexp.launch.fingerprint import MODEL
from diffexp.launch.ranks import RankLostError
from diffexp.launch.signals import StopRequest
from diffexp.tasks.build import Config, Parts, check_device, make_node
from diffexp.tasks.conditions import conditioner_of
from diffexp.tasks.restore import Restored, read_checkpoint
from diffexp.tasks.source import make_source

PREEMPTED = "while evaluating; task=evaluate goes on with it"


@dataclass(frozen=True)
class _Job:
    """What rank 0 tells the others.

    Attributes:
        arms: samplers and budgets.
        run, checkpoint: of the weights; None for an oracle.
        folder: where rank 0 writes the results.
        known: rows that need not be measured.
    """

    arms: Sequence[Arm]
    run: Path | None
    checkpoint: Path | None
    folder: Path
    known: Sequence[Row]


def lead(arms: Sequence[Arm], restored: Restored | None, folder: Path, known: Sequence[Row]) -> None:
    """Tell the other ranks what this one is about to evaluate; nothing where there are none."""
    run, checkpoint = (None, None) if restored is None else (restored.run, restored.path)
    ranks.world().share(_Job(arms, run, checkpoint, folder, known))


@contextmanager
def heeding() -> Iterator[None]:
    """Stop as the other ranks do: one that was asked to stop has said so, and is no failure of this one.

    In the midst of a set nobody waits for the others, so that ranks cannot agree to stop as they do when they train.

    Raises:
        PreemptedError: on the rank that got the signal, and on rank 0.
    """
    try:
        yield
    except PreemptedError as error:
        ranks.tell(str(error))
        raise
    except RankLostError as error:
        word = re.search(r"stopped by (SIG[A-Z]+).*", (ranks.world().main and ranks.told()) or "")
        if word is None:
            raise
        raise PreemptedError(word[0], 128 + signal.Signals[word[1]]) from error


def assist(config: Config, parts: Parts, trained_here: bool = False) -> None:
    """Take part in the evaluation that rank 0 leads; for ranks > 0.

    Args:
        config, parts: the same as rank 0's.
        trained_here: this rank took part in the training too, and has a log.
    """
    with StopRequest() as stop:
        check_device(parts)
        job: _Job = ranks.world().share(None)
        if not trained_here:
            ranks.log_to(job.folder)
        parts.dataset.prepare()
        restored = None
        if job.checkpoint is not None:
            restored = read_checkpoint(config, job.run, job.checkpoint, MODEL)
        source, settings = make_source(config, parts, restored), build_settings(config["evaluation"], make_node)
        with heeding():
            evaluate(
                list(job.arms),
                source.denoiser,
                parts.dataset,
                settings,
                source.provenance,
                conditioner_of(parts, settings),
                source.device,
                on_batch=lambda images: stop.check(PREEMPTED),
                known=job.known,
                here=ranks.world(),
            )
    ranks.leave()
