"""The W&B dashboard of diffexp's runs, defined in code: distances by NFE, sample grids, training, runs side by side.

Panels name what `WandB` logs. Nothing here needs a network; `task=dashboard` saves what this builds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffexp.evaluation.metric import meaning
from diffexp.training.loggers import NFE, by_nfe

_CURVES = ("loss", "gradient_norm", "lr", "images_per_second")
_AXIS = "trainer/step"


@dataclass(frozen=True)
class Contents:
    """What the runs have to show.

    Attributes:
        arms: metric -> labels of its arms, as their evaluations logged them.
        pictures: names of the sample grids.
        group: the sweep that they are jobs of; None for runs of several.
    """

    arms: Mapping[str, Sequence[str]]
    pictures: Sequence[str]
    group: str | None = None

    @classmethod
    def of(cls, arms: Iterable[tuple[str, str]], pictures: Iterable[str], group: str | None) -> Contents:
        """Put together (metric, label) pairs and names, without repeats."""
        found: dict[str, dict[str, None]] = {}
        for metric, label in arms:
            found.setdefault(metric, {})[label] = None
        return cls({metric: list(labels) for metric, labels in found.items()}, sorted(set(pictures)), group)


def build_workspace(entity: str, project: str, name: str, contents: Contents) -> Any:
    """The workspace, unsaved: `save()` sends it, `_to_model()` is what would be sent.

    Args:
        entity: user or team.
        project: W&B's project.
        name: of the saved view.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sections = [
        ws.Section(name="By NFE", panels=[_curve(metric, labels) for metric, labels in contents.arms.items()]),
        ws.Section(name="Samples", panels=[_pictures(picture) for picture in contents.pictures]),
        ws.Section(
            name="Training",
            panels=[wr.LinePlot(title=curve, x=_AXIS, y=[f"train/{curve}"], title_x="step") for curve in _CURVES],
        ),
        ws.Section(name="Runs", panels=[wr.RunComparer()]),
    ]
    for section in sections:
        section.is_open = True
    filters = "" if contents.group is None else expr.And(expr.Metric("Group") == contents.group)
    runs = ws.RunsetSettings(groupby=[expr.Metric("Group"), expr.Metric("JobType")], filters=filters)
    shown = [section for section in sections if section.panels]
    return ws.Workspace(entity=entity, project=project, name=name, sections=shown, runset_settings=runs)


def _pictures(name: str) -> Any:
    """A sample grid of every run."""
    import wandb_workspaces.reports.v2 as wr

    return wr.MediaBrowser(title=name, media_keys=[f"eval/{name}"], num_columns=1)


def _curve(metric: str, labels: Sequence[str]) -> Any:
    """The means of all arms by NFE; distances on a logarithmic axis."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=f"{metric} by NFE, {meaning(metric).better}",
        x=NFE,
        y=[by_nfe(metric, label) for label in labels],
        log_x=True,
        log_y=not meaning(metric).higher,
        title_x="network evaluations per image",
        title_y=metric,
    )
