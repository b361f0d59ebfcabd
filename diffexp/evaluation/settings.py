"""What an evaluation is told: how many images, which seeds, which samplers at which budgets, which features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffexp.core.errors import ConfigError, nearest
from diffexp.core.image import Quantise
from diffexp.dataset.split import SplitName
from diffexp.evaluation.controls import CONTROLS
from diffexp.evaluation.describe import describe_grid, describe_sampler, shorten, slug
from diffexp.evaluation.features import Extractor
from diffexp.evaluation.metric import PAIRED_METRICS, SET_METRICS
from diffexp.evaluation.statistics import Published
from diffexp.evaluation.tuning import Candidates, sampler_of
from diffexp.sampler.loop import Sampler

Policy = Literal["exact", "below"]
Make = Callable[[Mapping[str, Any], str], Any]
"""make(node, path): the object of a configuration node."""


class EvaluationSettings:
    """The group `evaluation`, without its arms.

    Args:
        n: images for each sampler, budget and seed.
        seeds: the evaluation seeds; a number is reported with its spread over them.
        batch_size: images at a time; without influence on the numbers.
        extractor: the features in which distances are measured; None: pictures only.
        quantise: how floats become bytes.
        controls: which of `real`, `source`, `noise`, `mean`, `resampled` are measured.
        nfe: a budget or a list of budgets for all samplers that take one; None: each arm's own.
        nfe_policy: a budget that a sampler cannot meet is refused ("exact") or lowered to the next one ("below").
        nfe_max: leave out the arms' own budgets above this one, and arms that have no other; None: keep all. Budgets
            that an arm names for the very scale stay.
        only: evaluate this sampler alone; None: all arms.
        arms: the recipe's samplers with their budgets; built by `build_arms`.
        ema: which EMA profile is sampled from; None: the first.
        grid_images: images in a row of the picture grids.
        again: measure also what the run folder holds already; else only what is missing.
        reference: the split whose images distances are taken from.
        pairs: of a data set of pairs, the split whose sources images are made from; None: the held-out one.
        metrics: what is measured beside the Frechet distance: is, kid, precision, recall, density, coverage of the
            set, in the extractor's features; mse, psnr, ssim, lpips of each image against the target of its pair.
        allow_off_grid: sample a student of N steps with other numbers of steps too, see `at_own_steps`.
        statistics: published statistics that stand in for the images of the reference split; none: those images.
        references: the folder that keeps what is computed of references; None: nothing is kept.

    Raises:
        ConfigError: for a value out of range.
    """

    def __init__(
        self,
        n: int,
        seeds: list[int],
        batch_size: int = 256,
        extractor: Extractor | None = None,
        quantise: Quantise = "round",
        controls: list[str] | None = None,
        nfe: int | list[int] | None = None,
        nfe_policy: Policy = "exact",
        nfe_max: int | None = None,
        only: str | None = None,
        arms: dict[str, Any] | None = None,
        ema: str | None = None,
        grid_images: int = 10,
        again: bool = False,
        reference: SplitName = "train",
        pairs: SplitName | None = None,
        metrics: list[str] | None = None,
        allow_off_grid: bool = False,
        statistics: Published | dict[str, Any] | None = None,
        references: str | None = None,
    ) -> None:
        if n < 2:
            raise ConfigError(f"evaluation.n={n}: a distance needs at least 2 images")
        if batch_size < 1:
            raise ConfigError(f"evaluation.batch_size={batch_size}: must be at least 1")
        if nfe_max is not None and nfe_max < 1:
            raise ConfigError(f"evaluation.nfe_max={nfe_max}: a budget is at least one evaluation, or null for all")
        if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ConfigError(f"evaluation.seeds={seeds}: give different seeds >= 0, e.g. [0,1,2]")
        if not 0 <= grid_images <= n:
            raise ConfigError(f"evaluation.grid_images={grid_images}: must be between 0 and evaluation.n={n}")
        for name in controls or ():
            if name not in CONTROLS:
                raise ConfigError(f"evaluation.controls: no control '{name}'; {nearest(name, CONTROLS)}")
        for name in metrics or ():
            if name not in (*PAIRED_METRICS, *SET_METRICS):
                known = (*PAIRED_METRICS, *SET_METRICS)
                raise ConfigError(f"evaluation.metrics: no metric '{name}'; {nearest(name, known)}")
        for key, name in (("reference", reference), ("pairs", pairs)):
            if name not in ("train", "test", *([None] if key == "pairs" else [])):
                raise ConfigError(f"evaluation.{key}={name}: choose from train, test")
        if statistics and not isinstance(statistics, Published):
            raise ConfigError(f"evaluation.statistics={statistics}: choose evaluation/statistics=npz, or none")
        self.n = n
        self.seeds = list(seeds)
        self.batch_size = batch_size
        self.extractor = extractor
        self.quantise = quantise
        self.controls = list(dict.fromkeys(controls or ()))
        self.nfe = nfe
        self.nfe_policy = nfe_policy
        self.nfe_max = nfe_max
        self.only = only
        self.ema = ema
        self.grid_images = grid_images
        self.again = again
        self.reference = reference
        self.pairs = pairs
        self.metrics = list(dict.fromkeys(metrics or ()))
        self.allow_off_grid = allow_off_grid
        self.statistics = statistics or None
        self.references = references


@dataclass(frozen=True)
class Arm:
    """One sampler and the budgets at which it is evaluated: (None,) for one whose evaluations are counted only."""

    sampler: Sampler
    nfe: tuple[int | None, ...]
    tune: Candidates | None = None  # what takes its place at each budget, see `selection`

    @property
    def name(self) -> str:
        """The sampler's name."""
        return self.sampler.name

    @property
    def label(self) -> str:
        """The sampler with its settings, as in the results' column `sampler`."""
        return describe_sampler(self.sampler)

    @property
    def grid(self) -> str:
        """The grid with its settings, as in the results' column `grid`."""
        return describe_grid(self.sampler.grid)

    def feasible(self, policy: Policy) -> list[int | None]:
        """The budgets that will be run, in order and without repeats; ConfigError names one that cannot be met."""
        if policy == "below":
            return list(dict.fromkeys(self.sampler.nearest_nfe(nfe) for nfe in self.nfe))
        for nfe in self.nfe:
            self.sampler.steps(nfe)
        return list(dict.fromkeys(self.nfe))


def build_settings(node: Mapping[str, Any], make: Make) -> EvaluationSettings:
    """The settings of the resolved node `evaluation`; its arms are left to `build_arms`."""
    return make({**node, "arms": None}, "evaluation")


def build_arms(node: Mapping[str, Any], sampler: Mapping[str, Any], make: Make, scale: str = "paper") -> list[Arm]:
    """The samplers and budgets of an evaluation.

    Args:
        node: the resolved node `evaluation`; each entry of its `arms` is a sampler's node with `nfe` beside it: a
            budget, a list of them, or a mapping from scales to such. An arm that does not name the scale is left out.
        sampler: the resolved node `sampler`, which is what `evaluation.only` evaluates.
        make: builds an object from a node.
        scale: the choice in the group `scale`.

    Returns:
        the recipe's arms, or with `evaluation.only` that sampler alone. `evaluation.nfe` replaces their budgets;
        `evaluation.nfe_max` limits those that it does not replace.

    Raises:
        ConfigError: without samplers or budgets, or for a budget that cannot be met under `evaluation.nfe_policy`.
    """
    only, nodes = node.get("only"), dict(node.get("arms") or {})
    if only is not None:
        alone = _alone(only, nodes, sampler)
        own = alone.get("nfe")
        nodes = {only: {**alone, "nfe": own.get(scale)} if isinstance(own, Mapping) else alone}
    if not nodes:
        nodes = {sampler["name"]: dict(sampler)}
    if node.get("nfe") is None or only is None:
        nodes = _at_scale(nodes, scale, node.get("nfe_max") if node.get("nfe") is None else None)
    arms = [_arm(name, entry, node.get("nfe"), make) for name, entry in nodes.items()]
    if node.get("nfe") is not None and not any(arm.sampler.budgeted for arm in arms):
        raise ConfigError(f"evaluation.nfe={node['nfe']}: {', '.join(nodes)} takes no budget; leave evaluation.nfe out")
    for arm in arms:
        arm.feasible(node.get("nfe_policy", "exact"))
    _require_distinct(list(nodes), arms)
    return arms


def at_own_steps(arms: Sequence[Arm], steps: int, named: bool) -> list[Arm]:
    """The arms of a student that was distilled to take exactly `steps` steps.

    Args:
        arms: of its recipe, which names the steps of all students.
        steps: its own.
        named: the budgets are no recipe's but were asked for (`evaluation.nfe`).

    Raises:
        ConfigError: another number of steps was asked for, or no arm has the student's own.
    """
    found = []
    for arm in arms:
        own = tuple(nfe for nfe in arm.nfe if nfe is not None and arm.sampler.steps(nfe) == steps)
        if named and own != arm.nfe:
            raise ConfigError(off_grid(arm.nfe, steps))
        found += [replace(arm, nfe=own)] if own else []
    if not found:
        raise ConfigError(off_grid([nfe for arm in arms for nfe in arm.nfe], steps))
    return found


def off_grid(budgets: Sequence[int | None], steps: int) -> str:
    """Why a student of `steps` steps is not sampled at these budgets."""
    asked = ", ".join("adaptive" if nfe is None else str(nfe) for nfe in budgets)
    return (
        f"evaluation.nfe={asked}: the network was distilled to take exactly {steps} step{'s' * (steps > 1)}, trained "
        "for no others: leave evaluation.nfe out, or add evaluation.allow_off_grid=true"
    )


def short_names(arms: list[Arm]) -> dict[str, Arm]:
    """The arms by what tells them apart: as few of the sampler's settings as that needs, and the grid where it must."""
    labels = [arm.label for arm in arms]
    short, grids = shorten(labels), shorten(arm.grid for arm in arms)
    return {short[arm.label] + f" on {grids[arm.grid]}" * (labels.count(arm.label) > 1): arm for arm in arms}


def file_stems(arms: list[Arm]) -> dict[str, Arm]:
    """The arms by names for files: the sampler with its settings, and its grid where that alone tells two apart."""
    stems: dict[str, Arm] = {}
    labels = [slug(arm.label) for arm in arms]
    for place, arm in enumerate(arms):
        alone = labels.count(labels[place]) == 1
        stem = labels[place] if alone else slug(f"{arm.label} {arm.grid}")
        stems[stem if stem not in stems else f"{stem}_{place}"] = arm
    return stems


def _require_distinct(names: list[str], arms: list[Arm]) -> None:
    """Two arms that would share the rows of the results are a mistake."""
    seen: dict[tuple[str, str], str] = {}
    for name, arm in zip(names, arms, strict=True):
        other = seen.setdefault((arm.label, arm.grid), name)
        if other != name:
            raise ConfigError(
                f"evaluation.arms.{name}: the same as arm '{other}' ({arm.label} on {arm.grid}); change a setting, or "
                f"its name with evaluation.arms.{name}.name={name}"
            )


def _alone(only: str, nodes: Mapping[str, Any], sampler: Mapping[str, Any]) -> dict[str, Any]:
    budgets = nodes.get(only, {}).get("nfe")
    if sampler["name"] == only:  # the command line's sampler, with whatever was overridden in it
        return {**sampler, "nfe": budgets}
    if only not in nodes:
        raise ConfigError(f"evaluation.only={only}: not among the arms; {nearest(only, [*nodes, sampler['name']])}")
    return dict(nodes[only])


def _at_scale(nodes: Mapping[str, Any], scale: str, largest: int | None) -> dict[str, Any]:
    """The arms with their budgets of one scale, the general ones only up to `largest`; without those that have none."""
    kept: dict[str, Any] = {}
    for name, node in nodes.items():
        own = node.get("nfe")
        if isinstance(own, Mapping):
            if scale in own:
                kept[name] = {**node, "nfe": own[scale]}
            continue
        budgets = [own] if isinstance(own, int) else own
        left = budgets and [budget for budget in budgets if largest is None or budget <= largest]
        if left or not budgets:  # an arm without any is refused later, by name
            kept[name] = {**node, "nfe": left}
    if not kept:
        limit = "" if largest is None else f" up to evaluation.nfe_max={largest}"
        raise ConfigError(
            f"evaluation.arms: {', '.join(nodes)} has no budgets for scale={scale}{limit}; add evaluation.nfe=[...]"
        )
    return kept


def _arm(name: str, node: Mapping[str, Any], common: list[int] | None, make: Make) -> Arm:
    own = {key: value for key, value in node.items() if key != "nfe"}
    sampler, tune = sampler_of(own, make, f"evaluation.arms.{name}")
    budgets = common if common is not None and sampler.budgeted else node.get("nfe")
    budgets = [budgets] if isinstance(budgets, int) else budgets
    if not sampler.budgeted and (not budgets or isinstance(budgets, Mapping)):
        budgets = [None]
    if not budgets:
        raise ConfigError(f"evaluation.arms.{name}: no budgets; add e.g. evaluation.nfe=[10,20]")
    if budgets != [None] and min(budgets) < 1:
        raise ConfigError(f"evaluation.nfe={list(budgets)}: a budget is at least one evaluation")
    return Arm(sampler, tuple(budgets), tune)
