"""task=evaluate: distances of a checkpoint's samples at the recipe's NFE budgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffexp.core.errors import ConfigError, nearest
from diffexp.evaluation.generate import Conditioner, class_labels
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.record import save_evaluation, save_row
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import RESULTS_FILE, Row, read_rows
from diffexp.evaluation.settings import Arm, EvaluationSettings, build_arms, build_settings
from diffexp.evaluation.sweep import check, evaluate
from diffexp.evaluation.table import summarise_arms
from diffexp.launch.find import newest
from diffexp.launch.fingerprint import job_hash, training_fingerprint
from diffexp.launch.folder import RunFolder, versions
from diffexp.launch.place import recipe_folder
from diffexp.launch.signals import StopRequest
from diffexp.launch.sweep import note_folder
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, make_node, torch_device
from diffexp.tasks.restore import Restored, load_network, open_checkpoint

log = logging.getLogger("diffexp")


@dataclass(frozen=True)
class Plan:
    """What will be evaluated, checked."""

    arms: list[Arm]
    settings: EvaluationSettings


def main(config: Config) -> float | None:
    """Evaluate `ckpt=` into its run folder, and write the report."""
    parts = build(config)
    restored = open_checkpoint(config)
    plan = plan_evaluation(config, parts, restored)
    parts.dataset.prepare()
    check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    with open_folder(config, restored) as folder, StopRequest() as stop:
        return run_evaluation(config, parts, plan, restored, folder.path, stop)


def open_folder(config: Config, restored: Restored) -> RunFolder:
    """The folder for what is made from a checkpoint: its run's, when it is the newest there.

    What an older checkpoint gives would contradict the files of the newer one, and one outside of any run has no
    folder: a new one that refers to it is made, with a name that the same command finds again.
    """
    if restored.run is not None and newest(restored.run) == restored.path:
        folder = RunFolder.open(restored.run)
    else:
        weights = training_fingerprint(restored.config, restored.state["data"]["fingerprint"], restored.step)
        folder = RunFolder.claim(recipe_folder(config) / f"{weights}-{job_hash(config)}")
        if not folder.config:
            folder.freeze(config)
        folder.refer(restored.run, restored.path)
    note_folder(folder.path)
    return folder


def plan_evaluation(config: Config, parts: Parts, restored: Restored | None = None) -> Plan:
    """Samplers, budgets, settings and device; everything that can be refused without data.

    Args:
        restored: the checkpoint that is to be evaluated, whose averages count; None: one that `parts` will train.

    Raises:
        ConfigError: for what cannot be evaluated so.
    """
    torch_device(parts.device)
    profiles = parts.ema.profiles if restored is None else restored.state["ema"]["profiles"]
    _check_profile(config["evaluation"]["ema"], profiles)
    plan = Plan(
        build_arms(config["evaluation"], config["sampler"], make_node),
        build_settings(config["evaluation"], make_node),
    )
    for arm in plan.arms:
        arm.sampler.check(parts.head.gives)
        for nfe in arm.feasible(plan.settings.nfe_policy):
            arm.sampler.times(parts.process, nfe)
    return plan


def _check_profile(name: str | None, profiles: Iterable[str]) -> None:
    choices = [*profiles, "none"]
    if name is not None and name not in choices:
        raise ConfigError(f"evaluation.ema={name}: there is no such average; {nearest(name, choices)}")


def trained_denoiser(config: Config, parts: Parts, restored: Restored) -> tuple[NetworkDenoiser, str, torch.device]:
    """(denoiser, EMA profile, device) of a checkpoint, ready to sample in float32 or under bfloat16 autocast."""
    network, profile = load_network(parts, restored, config["evaluation"]["ema"])
    device = torch_device(parts.device)
    return parts.denoiser(network.to(device), autocast(parts)), profile, device


def conditioner_of(parts: Parts) -> Conditioner | None:
    """Uniform labels for class-conditional networks, else nothing."""
    return class_labels(parts.data.num_classes) if parts.data.num_classes else None


def run_evaluation(
    config: Config, parts: Parts, plan: Plan, restored: Restored, run: Path, stop: StopRequest
) -> float | None:
    """Evaluate into `run` and return the smallest mean distance; None without an extractor."""
    denoiser, profile, device = trained_denoiser(config, parts, restored)
    began = time.perf_counter()
    found = evaluate(
        plan.arms,
        denoiser,
        parts.dataset,
        plan.settings,
        _provenance(config, restored.path, profile, denoiser.autocast, **_origin(restored, device)),
        conditioner_of(parts),
        device,
        on_batch=lambda images: stop.check("while evaluating; task=evaluate goes on with it"),
        known=[] if plan.settings.again else read_rows(run / RESULTS_FILE),
        on_row=partial(save_row, run),
    )
    save_evaluation(run, found)
    report = write_report(run)
    log.info("evaluated in %.0f s", time.perf_counter() - began)
    console.say(f"report: {report}")
    return best([*found.kept, *found.rows])


def best(rows: Iterable[Row]) -> float | None:
    """The smallest mean distance among samplers; None without any."""
    return min((arm.mean for arm in summarise_arms(rows)), default=None)


def expected(config: Config, parts: Parts, checkpoint: Path) -> Provenance:
    """What will name the rows of a checkpoint of this training: the columns of results only."""
    profile = config["evaluation"]["ema"] or next(iter(parts.ema.profiles))
    return _provenance(config, checkpoint, profile, autocast(parts))


def autocast(parts: Parts) -> torch.dtype | None:
    """The type that the network computes in where that is not its parameters'."""
    return torch.bfloat16 if parts.device.precision == "bf16-mixed" else None


def _provenance(config: Config, checkpoint: Path, profile: str, low: torch.dtype | None, **others: Any) -> Provenance:
    """Names of rows; what changes the network's output is part of the checkpoint's name."""
    choices = config["choices"]
    return Provenance(
        experiment=config["recipe"],
        process=choices["process"],
        prediction=choices["prediction"],
        network=choices["network"],
        checkpoint=f"{checkpoint.stem}@{profile}" + ("+bfloat16" if low else ""),
        ema=profile,
        precision="bfloat16 autocast" if low else "float32",
        **others,
    )


def _origin(restored: Restored, device: torch.device) -> dict[str, Any]:
    """Where numbers come from, besides what names their rows."""
    found = versions()
    return {
        "training_seed": restored.config["seed"],
        "commit": found["git"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: value for name, value in found.items() if value is not None and not name.startswith("git")},
    }
