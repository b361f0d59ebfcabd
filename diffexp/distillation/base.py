"""The contract of a distillation: a training whose loss is more than an objective on data.

A distillation says what it needs, and builds a loss. Whoever trains finds the teacher (`teacher=`), starts the student
from it where that is wanted, and calls the loss in the place of the objective:

    distillation.check(head, process, objective)          before anything is read
    distillation.prepare(shape)                           before a training makes its folder
    loss = distillation.loss(student, teacher, objective, steps)     once, when the student has its first weights
    loss.begin_step(k); loss(student, batch, seed); loss.end_step()      for each optimiser step k = 0, 1, ...

Methods in stages (a schedule that tightens, a student that becomes the next teacher) move on in `begin_step`, which is
told how many steps are done: after a resumption it is told the same. What a stage needs beyond the student's weights
and k goes through `state_dict`, into every checkpoint. A checkpoint holds all that sampling needs: the teacher is asked
for again only to go on with the training.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffexp.checkpoint.match import load_strict
from diffexp.objective.base import Objective
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Process


class Loss(abc.ABC):
    """What is minimised; stands where an objective would. The hooks do nothing unless a method needs them."""

    @abc.abstractmethod
    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        """The loss of a batch, a scalar tensor; arguments as for `objective.denoising.Denoising`."""

    def begin_step(self, step: int) -> None:  # noqa: B027
        """Before the loss of an optimiser step; `step` of them are done."""

    def end_step(self) -> None:  # noqa: B027
        """After the optimiser's step, with the student's new weights."""

    def figures(self) -> dict[str, Tensor]:
        """Scalars of the last call besides its loss, by the names that they have in metrics.jsonl; always the same."""
        return {}

    def networks(self) -> list[nn.Module]:
        """The networks that are asked beside the student: moved and compiled with it, never trained."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints; empty for a loss that remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore a `state_dict`."""


class Distillation(abc.ABC):
    """One entry of the group `distillation`.

    Attributes:
        asks_teacher: the loss evaluates the teacher.
        initialise: the student starts from the teacher's weights.
        teacher_ema: which of the teacher's averages counts; None: the first; "none": its raw parameters.
        teacher_prediction: the dotted key of the student's configuration to which the teacher's prediction is equal;
            None: the teacher has one of its own, which its checkpoint names.
        hint_of_prediction: how a teacher of another prediction can be had nevertheless, for its refusal.
        plan: it stands for several trainings, which a command carries out one after the other; by itself it is none.
        searches: a search belongs to it, which a whole run does between training and evaluation.
    """

    asks_teacher: bool = True
    initialise: bool = True
    teacher_ema: str | None = None
    teacher_prediction: str | None = "prediction"
    hint_of_prediction: str = ""
    plan: bool = False
    searches: bool = False

    def told(self) -> str:
        """What it is, for a person."""
        return type(self).__name__

    @property
    def needs_teacher(self) -> bool:
        """Whether `teacher=` has to be given; else it is refused."""
        return self.asks_teacher or self.initialise

    @abc.abstractmethod
    def check(self, head: Head, process: Process, objective: Objective) -> None:
        """Raise ConfigError when the student's prediction, the process or the objective does not suit the method."""

    def prepare(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - most methods need nothing besides
        """Read what a training on images (C, H, W) needs beside data and teacher; ConfigError when it is missing."""

    def check_teacher(self, trained: Mapping[str, Any], path: str) -> None:  # noqa: B027 - most methods take any
        """Raise CheckpointError when a teacher of the right model was trained in a way that does not suit the method.

        Args:
            trained: the configuration that the teacher was trained with.
            path: where it is, for messages.
        """

    def dressed(self, network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
        """What is trained, saved and sampled, around a new network of the configuration, for images (C, H, W)."""
        return network

    def start(self, network: nn.Module, teacher: nn.Module) -> None:
        """Give a new, dressed network the teacher's weights; CheckpointError when they do not fit."""
        load_strict(network, teacher.state_dict(), "teacher")

    def teacher_head(self, head: Head) -> Head:
        """The teacher's prediction, given the student's: the object that `teacher_prediction` names, if it does."""
        return head

    @abc.abstractmethod
    def loss(self, student: NetworkDenoiser, teacher: NetworkDenoiser | None, objective: Objective, steps: int) -> Loss:
        """The loss.

        Args:
            student: with its first weights.
            teacher: frozen, in evaluation mode; None where the loss does not ask it.
            objective: the one that `check` has seen.
            steps: the training's length.
        """
