"""From the resolved configuration to objects: one place that instantiates, and checks that the parts fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.core.image import to_float
from diffexp.dataset.split import Dataset, PairedSplit, augment_dim_of, conditions_of
from diffexp.distillation.base import Distillation
from diffexp.launch.ranks import world
from diffexp.launch.schema import check_targets
from diffexp.network.spec import NetworkSpec
from diffexp.objective.base import Objective
from diffexp.objective.distilled import Distilled
from diffexp.prediction.denoiser import Denoiser, NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.prediction.oracle.base import Oracle
from diffexp.prediction.oracle.spec import OracleSpec
from diffexp.prediction.time_input import SIGNED
from diffexp.process.base import Process
from diffexp.training.compile import check_compiler
from diffexp.training.ema import EMASettings
from diffexp.training.loggers import NoLogger
from diffexp.training.mirror import Logger
from diffexp.training.optimizer import Descent
from diffexp.training.settings import Device, Training

Config = Mapping[str, Any]

# What the rest relies on: a plugin's class that is something else is refused here, not in the middle of a run.
_ROLES = {
    "process": Process, "prediction": Head, "dataset": Dataset, "network": NetworkSpec, "distillation": Distillation,
    "objective": Objective,
}  # fmt: skip


def make(config: Config, key: str) -> Any:
    """The object of one group.

    Args:
        config: the resolved configuration.
        key: the group's name; the node holds `_target_` and the constructor's arguments.

    Raises:
        DiffexpError: the constructor's own refusal, or one line naming the group when it fails otherwise.
    """
    made = make_node(config[key], key)
    role = _ROLES.get(key, object)
    if not isinstance(made, role):
        raise ConfigError(f"{key}: {config[key]['_target_']} is no {role.__module__}.{role.__name__}")
    return made


def make_node(node: Config, where: str) -> Any:
    """The object of one node; `where` names it in errors. Errors as for `make`."""
    check_targets({where: node})  # also when the configuration comes out of a checkpoint
    try:
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{where}: no _target_; it should name the class to build")
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, DiffexpError):
            raise cause from None
        reason = " ".join(str(cause or error).split())
        raise ConfigError(f"{where}: {node.get('_target_')} cannot be built: {reason}") from error


@dataclass(frozen=True)
class DataShape:
    """What a network must know of its data; stored in checkpoints, so that a model can be loaded without them.

    Attributes:
        shape: (C, H, W).
        num_classes: 0 for unlabelled data.
    """

    shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Parts:
    """The objects of one experiment, built but nothing read, trained or allocated.

    Attributes:
        distillation: what takes the objective's place; None: nothing does.
        teacher: its teacher, frozen and in evaluation mode, once `tasks.teacher` has found it.
        teacher_head: the teacher's prediction, where that is its own; None: the distillation knows it.
    """

    data: DataShape
    process: Process
    head: Head
    objective: Objective
    network: Any
    dataset: Any
    optimizer: Descent
    ema: EMASettings
    training: Training
    device: Device
    distillation: Distillation | None = None
    teacher: nn.Module | None = None
    teacher_head: Head | None = None

    @property
    def trainable(self) -> bool:
        """Whether there is a network to train; an oracle has none."""
        return not isinstance(self.network, OracleSpec)

    @property
    def guidable(self) -> bool:
        """Whether the training shows images without their labels too, so that guidance has a meaning."""
        return self.data.num_classes > 0 and self.objective.label_dropout > 0.0

    @property
    def gives(self) -> frozenset[str]:
        """What the predictions will hold."""
        if not self.trainable:
            return self.network.gives(self.data.num_classes)
        return self.head.gives | ({"unconditional"} if self.guidable else frozenset())

    def build_network(self) -> nn.Module:
        """A new network for these data and this prediction, on torch's present default device."""
        channels, height, _ = self.process.state_shape(self.data.shape)
        shown = self.head.condition_channels(self.data.shape[0])
        sizes = channels + shown, self.head.out_channels(channels), height, self.data.num_classes
        network = self.network.build(*sizes)
        return network if self.distillation is None else self.distillation.dressed(network, self.data.shape)

    def denoiser(self, network: nn.Module, autocast: torch.dtype | None = None) -> NetworkDenoiser:
        """The denoiser around `network`; see `NetworkDenoiser` for `autocast`."""
        return NetworkDenoiser(network, self.head, self.process, autocast, unconditional=self.guidable)

    def oracle(self) -> Oracle:
        """The closed-form denoiser that stands in the place of a network; prepare the data set first."""
        return self.network.build(self.process, self.data.shape, self._images)

    def meta_denoiser(self) -> Denoiser:
        """The denoiser without memory: for shapes, parameter counts and checks; an oracle as it is."""
        if not self.trainable:
            return self.oracle()
        with torch.device("meta"):
            return self.denoiser(self.build_network())

    def _images(self, split: str, limit: int | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images, labels and end points of a split, for oracles."""
        found = self.dataset.split(split)
        indices = range(len(found) if limit is None else min(limit, len(found)))
        ends = found.pairs(indices).endpoint if isinstance(found, PairedSplit) else None
        return to_float(found.images(indices)), found.labels(indices), ends


def build(config: Config, data: DataShape | None = None) -> Parts:
    """All objects of an experiment, checked against each other on the meta device.

    Args:
        config: the resolved configuration.
        data: the shape of the data; None asks the data set.

    Raises:
        ConfigError: for parts that do not fit together.
        DataError: when the data set's folder is missing.
    """
    dataset = make(config, "dataset")
    data = data or DataShape(tuple(dataset.shape), dataset.num_classes)
    process = make(config, "process").on(data.shape)
    parts = Parts(
        data=data,
        process=process,
        head=make(config, "prediction").on(process),
        objective=make(config, "objective"),
        network=make(config, "network"),
        dataset=dataset,
        optimizer=make(config, "optimizer"),
        ema=make(config, "ema"),
        training=make(config, "training"),
        device=make(config, "trainer"),
        distillation=make(config, "distillation") if config.get("distillation") else None,
    )
    parts.head.check(parts.process)
    if parts.distillation is not None:  # before the data: why a teacher will not do, not which data it would need
        parts.distillation.check(parts.head, parts.process, parts.objective)
    _check_conditions(parts)
    _check_objective(parts, config)
    if parts.trainable:
        _check_network(parts)
        parts.meta_denoiser()
    else:
        parts.network.check(parts.process, parts.data.shape)
    return parts


def _check_conditions(parts: Parts) -> None:
    """Refuse data without the images that process, prediction or loss need, and pairs whose sources nobody looks at."""
    given = conditions_of(parts.dataset)
    wanted = {"endpoint"} if parts.process.endpoint else set()
    wanted |= {parts.head.shows} if parts.trainable and parts.head.shows else set()
    what = f"process {parts.process.name} with prediction {parts.head.name}"
    if not wanted <= given:
        raise ConfigError(
            f"{what} needs pairs of images, and '{parts.dataset.name}' has none: use e.g. dataset=digits_paired"
        )
    if given and not wanted:
        raise ConfigError(
            f"{what} takes no source images, which '{parts.dataset.name}' gives: use a plain data set, or "
            "process=bridge_vp prediction=ddbm"
        )
    if getattr(parts.objective, "masked", False) and "mask" not in given:
        raise ConfigError(f"objective.masked=true: '{parts.dataset.name}' has no masks; set it to false")


def _check_objective(parts: Parts, config: Config) -> None:
    """Refuse a loss that does not suit the prediction or the process, and one that is nowhere defined."""
    distilled = isinstance(parts.objective, Distilled) or "jump" in parts.head.gives
    if parts.distillation is None and distilled:
        what = "objective=distilled" if isinstance(parts.objective, Distilled) else f"prediction={parts.head.name}"
        raise ConfigError(f"{what}: the loss comes from a distillation: add distillation=cbt or distillation=cbd")
    parts.objective.check(parts.head, parts.process)


def _check_network(parts: Parts) -> None:
    """Refuse what the network would ignore (labels) or cannot take (the logarithm of a time input that may be <= 0)."""
    if parts.data.num_classes and not getattr(parts.network, "class_conditional", True):
        raise ConfigError("dataset.labels=true has no effect on this network: add network.class_conditional=true")
    if parts.objective.label_dropout and not parts.data.num_classes:
        raise ConfigError("objective.label_dropout has no effect without labels: add dataset.labels=true")
    given, taken = augment_dim_of(parts.dataset), getattr(parts.network, "augment_dim", None)
    if given and given != taken:
        raise ConfigError(
            f"network.augment_dim={taken or 'null'}: {given} numbers tell how images were changed: set it to {given}, "
            f"or use {parts.dataset.name} without augmentation"
        )
    told = parts.head.time
    if told in SIGNED and getattr(parts.network, "embedding", None) == "fourier":
        raise ConfigError(f"prediction.time={told}: a Fourier embedding takes the time's logarithm: use 999t")
    check_told(parts.head, parts.process)


def check_told(head: Head, process: Process) -> None:
    """Raise ConfigError where a network would be told the numbers by which a table counts as if they were times."""
    if process.num_steps is not None and head.time in ("t", "999t"):
        raise ConfigError(f"prediction.time={head.time}: process {process.name} counts its times: use index")


def make_logger(config: Config) -> Logger:
    """The dashboard, on rank 0; the others speak to none. Apart from `build`: a loaded model has no use for it."""
    return make(config, "logger") if world().main else NoLogger()


def initialised_network(parts: Parts, seed: int) -> nn.Module:
    """A network whose random initialisation belongs to `seed`."""
    with random.seeded(seed, "train/init"):
        return parts.build_network()


def check_device(parts: Parts) -> None:
    """Refuse a device that is not there, and a compilation that would fail or compile nothing: ConfigError."""
    device = torch_device(parts.device)
    if parts.device.compile and not parts.trainable:
        raise ConfigError("trainer.compile=true: an oracle has no network to compile; leave it out")
    if parts.device.compile and world().main:
        check_compiler(device)


def torch_device(device: Device) -> torch.device:
    """The device that a configuration means; ConfigError when it asks for GPUs that are not there."""
    if device.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: no GPU is visible to torch; use cpu or auto")
    if device.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    wanted, there = world().local_size, torch.cuda.device_count()
    if wanted > there:
        raise ConfigError(
            f"trainer.devices={device.devices}: torch sees {there} GPU{'s' * (there > 1)} for {wanted} ranks on this "
            f"machine; set trainer.devices={device.devices // wanted * there}, or trainer.accelerator=cpu"
        )
    if world().local_size == 1:
        return torch.device("cuda")
    here = torch.device("cuda", world().local_rank)
    torch.cuda.set_device(here)  # collectives ask for it
    return here
