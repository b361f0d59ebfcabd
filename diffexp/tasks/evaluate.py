"""task=evaluate: distances of a checkpoint's samples at the recipe's NFE budgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from diffexp.core.errors import ConfigError, nearest
from diffexp.evaluation.generate import Conditioner, class_labels
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.record import save_evaluation, save_row
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import RESULTS_FILE, read_rows
from diffexp.evaluation.settings import Arm, EvaluationSettings, build_arms, build_settings
from diffexp.evaluation.sweep import check, evaluate
from diffexp.evaluation.table import summarise_arms
from diffexp.launch.folder import versions
from diffexp.launch.signals import StopRequest
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, make_node, torch_device
from diffexp.tasks.restore import Restored, load_network, open_checkpoint
from diffexp.tasks.train import open_folder

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
    with open_folder(config, restored, resume=False) as folder, StopRequest() as stop:
        return run_evaluation(config, parts, plan, restored, folder.path, stop)


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
    autocast = torch.bfloat16 if parts.device.precision == "bf16-mixed" else None
    return parts.denoiser(network.to(device), autocast), profile, device


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
        _provenance(config, restored, profile, denoiser, device),
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
    means = [arm.mean for arm in summarise_arms([*found.kept, *found.rows])]
    return min(means, default=None)


def _provenance(
    config: Config, restored: Restored, profile: str, denoiser: NetworkDenoiser, device: torch.device
) -> Provenance:
    """Where the numbers come from; what changes the network's output is part of the checkpoint's name."""
    found, choices = versions(), config["choices"]
    return Provenance(
        experiment=config["recipe"],
        process=choices["process"],
        prediction=choices["prediction"],
        network=choices["network"],
        checkpoint=f"{restored.path.stem}@{profile}" + ("+bfloat16" if denoiser.autocast else ""),
        ema=profile,
        training_seed=restored.config["seed"],
        commit=found["git"],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision="bfloat16 autocast" if denoiser.autocast else "float32",
        versions={name: value for name, value in found.items() if value is not None and not name.startswith("git")},
    )
