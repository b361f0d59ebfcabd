"""task=evaluate: distances of a checkpoint's samples at the recipe's NFE budgets."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from diffexp.core.errors import ConfigError
from diffexp.evaluation.generate import Conditioner, class_labels
from diffexp.evaluation.protocol import Provenance, library_versions
from diffexp.evaluation.record import save_evaluation
from diffexp.evaluation.report import write_report
from diffexp.evaluation.settings import Arm, EvaluationSettings, build_arms, build_settings
from diffexp.evaluation.sweep import check, evaluate
from diffexp.launch.folder import git_revision
from diffexp.launch.signals import StopRequest
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.tasks import console
from diffexp.tasks.build import Config, Parts, build, make_node
from diffexp.tasks.restore import Restored, load_network, open_checkpoint
from diffexp.tasks.train import open_folder
from diffexp.training.settings import Device

log = logging.getLogger("diffexp")


@dataclass(frozen=True)
class Plan:
    """What will be evaluated, checked."""

    arms: list[Arm]
    settings: EvaluationSettings


def main(config: Config) -> float | None:
    """Evaluate `ckpt=` into its run folder, and write the report."""
    parts = build(config)
    plan = plan_evaluation(config, parts)
    restored = open_checkpoint(config)
    parts.dataset.prepare()
    check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    with open_folder(config, restored, resume=False) as folder, StopRequest() as stop:
        return run_evaluation(config, parts, plan, restored, folder.path, stop)


def plan_evaluation(config: Config, parts: Parts) -> Plan:
    """Samplers, budgets and settings; everything that can be refused without data."""
    plan = Plan(
        build_arms(config["evaluation"], config["sampler"], make_node),
        build_settings(config["evaluation"], make_node),
    )
    for arm in plan.arms:
        arm.sampler.check(parts.head.gives)
        for nfe in arm.feasible(plan.settings.nfe_policy):
            arm.sampler.times(parts.process, nfe)
    return plan


def torch_device(device: Device) -> torch.device:
    """The device that a configuration means; ConfigError when it asks for a GPU that is not there."""
    if device.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: no GPU is visible to torch; use cpu or auto")
    wanted = "cuda" if device.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


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
    provenance = Provenance(
        experiment=config["recipe"],
        process=config["choices"]["process"],
        prediction=config["choices"]["prediction"],
        network=config["choices"]["network"],
        checkpoint=f"{restored.path.stem}@{profile}",
        ema=profile,
        training_seed=restored.config["seed"],
        commit=git_revision()["git"],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision="bfloat16 autocast" if denoiser.autocast else "float32",
        versions=library_versions(),
    )
    began = time.perf_counter()
    found = evaluate(
        plan.arms,
        denoiser,
        parts.dataset,
        plan.settings,
        provenance,
        conditioner_of(parts),
        device,
        on_batch=lambda images: stop.check("while evaluating; task=evaluate starts that again"),
    )
    save_evaluation(run, found)
    report = write_report(run)
    log.info("evaluated in %.0f s", time.perf_counter() - began)
    console.say(f"report: {report}")
    means: dict[tuple[str, int | None], list[float]] = {}
    for row in found.rows:
        if row.control is None:
            means.setdefault((row.sampler, row.nfe), []).append(row.value)
    return min((sum(values) / len(values) for values in means.values()), default=None)
