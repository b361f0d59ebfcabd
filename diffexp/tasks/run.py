"""task=run: train, evaluate at the recipe's budgets, report; what can be refused is refused before the first step."""

from __future__ import annotations

from diffexp.checkpoint.file import load
from diffexp.evaluation.sweep import check
from diffexp.launch.signals import StopRequest
from diffexp.tasks.build import Config, build
from diffexp.tasks.evaluate import plan_evaluation, run_evaluation
from diffexp.tasks.restore import Restored
from diffexp.tasks.train import open_folder, prepare, train


def main(config: Config) -> float | None:
    """Train (or go on from `ckpt=`), then evaluate; returns the smallest mean distance."""
    parts = build(config)
    plan = plan_evaluation(config, parts)
    restored = prepare(config, parts)
    check(plan.arms, parts.meta_denoiser(), parts.dataset, plan.settings)
    with open_folder(config, restored) as folder, StopRequest() as stop:
        path = train(config, parts, folder.path, restored, stop)
        state = load(path)
        trained = Restored(folder.path, path, state, int(state["global_step"]))
        return run_evaluation(config, parts, plan, trained, folder.path, stop)
