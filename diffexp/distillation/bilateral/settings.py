"""What a search of schedules is told: where it begins, how far it goes, and by what it judges."""

from __future__ import annotations

from diffexp.core.errors import ConfigError, nearest
from diffexp.dataset.split import SplitName
from diffexp.distillation.bilateral.scheduling import Mode, Start
from diffexp.distillation.bilateral.search import MODES

DISTANCE = "distance"
"""The name of the distance in the features of `evaluation.extractor`, whatever these are."""


class SearchSettings:
    """The group `search` (Lam et al. 2022, section 4.3 and the released code; generic metrics are ours).

    Args:
        bins: values of alpha_N and of beta_N in the grid of starts.
        caps: the largest numbers of steps; a schedule that goes on beyond one of them is judged cut off there, too.
        attempts: random starts around that of each number of steps, once the grid is done.
        modes: whose steps the schedules are made with: ddpm, ddim.
        sampler: whose steps the judge samples with, whatever a schedule was made with; ddpm in the released code.
        clip: the judge holds data estimates in [-1, 1].
        batch: samples that make a schedule together, by the mean of their ratios; 1 in the released code.
        floor: no step below this variance; None: the smallest step of the training.
        rounded: attempts begin from starts with two decimals, as the released code's do.
        metrics: what a schedule has to be strictly better in, all of them, to take another one's place.
        n: images that judge a schedule, for each seed.
        seeds: of these images; none of `evaluation.seeds`.
        reference: the split that the judge compares with; not that of the report, `evaluation.reference`.
        shown: how many of the numbers of steps that were found stand in the report, evenly in their logarithm; None:
            all.
        starts: pairs (alpha_N, beta_N) in the place of the grid; None: the grid of `bins`.

    Raises:
        ConfigError: for a value out of range.
    """

    def __init__(
        self,
        n: int,
        seeds: list[int],
        bins: int = 9,
        caps: list[int] | None = None,
        attempts: int = 10,
        modes: list[Mode] | None = None,
        sampler: Mode = "ddpm",
        clip: bool = False,
        batch: int = 1,
        floor: float | None = None,
        rounded: bool = False,
        metrics: list[str] | None = None,
        reference: SplitName = "test",
        shown: int | None = None,
        starts: list[list[float]] | None = None,
    ) -> None:
        caps, modes = [100] if caps is None else caps, list(MODES) if modes is None else modes
        metrics = [DISTANCE] if metrics is None else metrics
        _require_counts(bins=bins, batch=batch, n=n - 1, shown=1 if shown is None else shown)
        if attempts < 0:
            raise ConfigError(f"search.attempts={attempts}: must be 0 or larger")
        if not caps or min(caps) < 1 or len(set(caps)) != len(caps):
            raise ConfigError(f"search.caps={caps}: give different numbers of steps >= 1, e.g. [10,20,50]")
        if not modes or len(set(modes)) != len(modes):
            raise ConfigError(f"search.modes={modes}: give ddpm, ddim or both")
        for key, mode in (*(("modes", mode) for mode in modes), ("sampler", sampler)):
            if mode not in MODES:
                raise ConfigError(f"search.{key}: no steps '{mode}'; {nearest(str(mode), MODES)}")
        if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ConfigError(f"search.seeds={seeds}: give different seeds >= 0, e.g. [100]")
        if floor is not None and not 0.0 < floor < 1.0:
            raise ConfigError(f"search.floor={floor}: must lie between 0 and 1, or be null")
        if not metrics:
            raise ConfigError(f"search.metrics=[]: a search needs something to judge by, e.g. [{DISTANCE}]")
        if reference not in ("train", "test"):
            raise ConfigError(f"search.reference={reference}: choose from train, test")
        self.n = n
        self.seeds = list(seeds)
        self.bins = bins
        self.caps = sorted(caps)
        self.attempts = attempts
        self.modes = [mode for mode in MODES if mode in modes]
        self.sampler: Mode = sampler
        self.clip = clip
        self.batch = batch
        self.floor = floor
        self.rounded = rounded
        self.metrics = list(dict.fromkeys(metrics))
        self.reference: SplitName = reference
        self.shown = shown
        self.starts = starts
        if starts is not None:
            _check_starts(starts)


def _check_starts(pairs: list[list[float]]) -> None:
    """Refuse what is no start: ConfigError."""
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ConfigError(f"search.starts={pairs}: give pairs [alpha_N,beta_N], e.g. [[0.5,0.3]], or null for the grid")
    for pair in pairs:
        Start(*pair).check()


def _require_counts(**counts: int) -> None:
    """Refuse what has to be at least 1; `n` counts the images beyond the first."""
    for key, value in counts.items():
        if value < 1:
            told, least = (value + 1, "2: a distance needs as many images") if key == "n" else (value, "1")
            raise ConfigError(f"search.{key}={told}: must be at least {least}")
