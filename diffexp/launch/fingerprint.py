"""What names run folders: a fingerprint of all that training depends on, and a hash of the whole job.

`TRAINING` and `NOT_TRAINING` are the one list of what makes two trainings the same; resuming compares by it too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffexp.launch.compose import config_hash
from diffexp.launch.folder import CONFIG, load_frozen

TRAINING = (
    "seed", "process", "prediction", "objective", "network", "dataset", "optimizer", "ema", "training", "trainer",
    "distillation", "teacher_weights",
)  # fmt: skip
"""The weights follow from these keys and the training images. A new argument in one of these groups counts. A task adds
`teacher_weights` to its configuration, the hash of the weights that `teacher=` names."""

NOT_TRAINING = (
    # where images lie and how they are read; what they show has a fingerprint of its own
    "dataset.path", "dataset.root", "dataset.download", "dataset.verify", "dataset.in_memory",
    "dataset.images.path", "dataset.images.root", "dataset.images.download", "dataset.images.verify",
    "dataset.images.in_memory", "dataset.target", "dataset.source", "dataset.test",
    # of a progressive distillation, which stages come before and after this one
    "distillation.start_steps", "distillation.end_steps", "distillation.updates", "distillation.updates_at",
    "distillation.convert", "distillation.convert_lr",
    # what is written, how often, and who loads the data
    "training.log_every", "training.checkpoint_every", "training.keep", "training.workers",
    # the number of devices counts (dropout belongs to the rank), their kind does not
    "trainer.accelerator", "trainer.compile",
)  # fmt: skip
"""The exceptions."""

MODEL = ("process", "prediction", "network")
"""What an evaluation takes from a checkpoint, and a student shares with its teacher."""

LENGTH = "training.max_steps"
"""How far a training goes: it names the folder, but a longer training may go on from a shorter one."""

NOT_JOB = (
    *NOT_TRAINING, "task", "runs", "ckpt", "samples", "pngs", "images", "teacher", "adopt", "sweep", "base", "beside",
    "a", "b", "logger", "plugins", "paper", "interpolation", "matrix", "evaluation.batch_size",
    "evaluation.again", "evaluation.references",
)  # fmt: skip
"""What makes no other job of the same work: two commands that differ in these alone share a run folder."""


def training_fingerprint(config: Mapping[str, Any], data: str, steps: int | None = None) -> str:
    """The name of a training.

    Args:
        config: a resolved configuration.
        data: fingerprint of the training images.
        steps: the length, when it is another than the configuration's.

    Returns:
        12 hexadecimal digits; equal for equal weights, as far as a configuration can say.
    """
    part = dict(training_part(config))
    if steps is not None:
        part[LENGTH] = steps
    return config_hash(_plain({"config": part, "data": data}))[:12]


def job_hash(config: Mapping[str, Any], start: str = "") -> str:
    """The name of a job among those of one training.

    Args:
        config: a resolved configuration.
        start: which weights it starts from, where the configuration does not say.

    Returns:
        6 hexadecimal digits.
    """
    return config_hash(_plain({"config": dict(_leaves(config, "", NOT_JOB)), "start": start}))[:6]


def job_of(run: Path) -> str | None:
    """The job that a folder was made for, by its frozen configuration; None where there is none (yet).

    Raises:
        ConfigError: the configuration is unreadable.
    """
    return job_hash(load_frozen(run)) if (run / CONFIG).is_file() else None


def training_part(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that training depends on."""
    return _leaves({key: config.get(key) for key in TRAINING}, "", NOT_TRAINING)


def difference(trained: Mapping[str, Any], wanted: Mapping[str, Any], keys: Collection[str] = ()) -> str | None:
    """The first entry in which two trainings differ, apart from their length.

    Args:
        trained: the configuration of the weights.
        wanted: this command's.
        keys: compare these keys instead of all that training depends on.

    Returns:
        ``key=old, this command has new``, or None.
    """
    before, now = (
        dict(_leaves({key: config.get(key) for key in keys or TRAINING}, "", (*NOT_TRAINING, LENGTH)))
        for config in (trained, wanted)
    )
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            return f"{key}={before.get(key)}, this command has {now.get(key)}"
    return None


def difference_of_models(
    teacher: Mapping[str, Any], student: Mapping[str, Any], keys: Collection[str] = MODEL
) -> str | None:
    """The first entry in which the model of a teacher is another than its student's, classes first; None: they agree.

    Dropout is no part of it: teachers are asked in evaluation mode. `keys`: the parts of the model that have to agree.
    """
    nodes = [{key: _without_dropout(config[key]) for key in keys} for config in (teacher, student)]
    classes = [{key: {"_target_": node[key]["_target_"]} for key in keys} for node in nodes]
    return difference(*classes, keys) or difference(*nodes, keys)


def _without_dropout(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "dropout"}


def _leaves(node: Mapping[str, Any], path: str, without: Collection[str]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a tree, but for some keys; what is null counts as left out."""
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if here in without or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, here, without)
        else:
            yield here, value


def _plain(value: Any) -> Any:
    """Plain data in one spelling: 20.0 is 20."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value
