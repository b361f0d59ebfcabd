"""The text of `--help`: tasks, recipes, groups with their choices, examples; made from the conf folder itself."""

from __future__ import annotations

import textwrap

import diffexp
from diffexp.launch.layout import GLOBAL_GROUPS, Layout

_WIDTH = 100
_TASKS = {
    "run": "train, evaluate, and write the report (the default)",
    "train": "train only; the same command with ckpt= resumes",
    "search": "noise schedules with a trained schedule network, for nfe: searched and grid=file (needs ckpt=)",
    "evaluate": "samplers at their NFE budgets: results.csv, report.md, plots (needs ckpt=)",
    "sample": "a grid of images for each NFE budget, from the same noise (needs ckpt=)",
    "interpolate": "strips of images from the noise of one seed to that of another (needs ckpt=)",
    "report": "report.md and its plots again, from the files of one run (ckpt=) or of several together (sweep=)",
    "dashboard": "a W&B view of the runs of sweep= or of all, defined in code (needs logger=wandb)",
    "check": "what would be run: parameter count, NFE plans; builds nothing heavy",
    "list": "the recipes: paper, data, parameters, best published row",
    "diff": "how two configurations differ: a=... b=..., each a recipe, recipe@scale, run folder or checkpoint",
    "matrix": "every process with every sampler and prediction: exact errors and orders, or why it is refused",
    "selfcheck": "the numbers of diffexp beside torch-fidelity's, on a folder of pictures (needs images=)",
}
_KEYS = {
    "seed=0": "initialisation, data order, noise and times all follow from it",
    "ckpt=...": "a checkpoint, a run folder, or latest:<recipe>; recipe and scale need not be named: they are those "
    "of its run folder (other words of that command have to be repeated)",
    "teacher=...": "whose weights a distillation learns from: a checkpoint, a run folder, or latest:<recipe>",
    "sampler=...": "this sampler alone, in place of the recipe's; sampler.<key>=... (e.g. sampler.clip=true) does the "
    "same with the present one",
    "plugins=[mylab]": "importable packages of your own that a configuration may build from; what their folder conf/ "
    "offers can be chosen. Only the command line can name them",
    "runs=runs": "where run folders are made (or DIFFEXP_RUNS): <runs>/<recipe>/<fingerprint of the training>, and "
    "-<hash> for further jobs on the same weights; a sweep's report is in <runs>/sweeps",
}
_EXAMPLES = {
    "{recipe} scale=quick": "train and evaluate in minutes, on two CPU cores; the same command again goes on",
    "{recipe} task=check": "the published size: parameters and NFE plans",
    "task=evaluate ckpt=latest:{name} sampler=heun": "one sampler alone, with the recipe and scale of the newest run",
    "{recipe} scale=quick -m sampler=ddim,heun": "a sweep: one training, two evaluations, one report",
    "{recipe} scale=quick -m seed=0,1,2": "a sweep: three trainings",
    "{recipe} training.max_steps=500 optimizer.lr=1e-3": "change any value",
    "{recipe} --cfg job": "print the configuration and stop",
}
_FLAGS = {
    "-m, --multirun": "run every combination of a=1,2 b=x,y",
    "--cfg job": "print the composed configuration; with --resolve, interpolations replaced",
    "--config-dir DIR": "take further choices from a folder of your own",
    "--version, --hydra-help": "our version; all that Hydra can do",
}


def manual(layout: Layout) -> str:
    """The help text.

    Args:
        layout: the conf folder to describe.

    Returns:
        about fifty lines, at most 100 columns wide (a recipe's own remark may be cut to fit).
    """
    recipes = layout.choices.get("experiment", ())
    name = recipes[0] if recipes else "<recipe>"
    groups = [group for group in layout.choices if group not in GLOBAL_GROUPS]
    parts = [
        f"diffexp {diffexp.__version__}: fast diffusion sampling, one recipe per paper, NFE-exact evaluation.",
        "usage: python -m diffexp experiment=<recipe> [scale=...] [task=...] [group=choice] [group.key=value] [flags]",
        _table("Tasks (task=)", _TASKS),
        _table("Recipes (experiment=)", {recipe: remark(layout, "experiment", recipe) for recipe in recipes}),
        _table("Scales (scale=)", {scale: remark(layout, "scale", scale) for scale in layout.choices.get("scale", ())}),
        _table("Groups (* is the default; a recipe may choose another)", {g: _choices(layout, g) for g in groups}),
        _table("Keys", _KEYS),
        _examples(name),
        _table("Flags", _FLAGS),
        "A plus sign (+scale=quick) and the order of the words make no difference.",
    ]
    return "\n\n".join(part for part in parts if part)


def remark(layout: Layout, group: str, choice: str) -> str:
    """The first comment of a choice's file, as its description; empty when there is none."""
    for folder in (layout.folder, *layout.extras):
        path = folder / group / f"{choice}.yaml"
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.removeprefix("#").strip()
            if line and not line.startswith("#"):
                return ""
            if text and not text.startswith("@package"):
                return text
    return ""


def _choices(layout: Layout, group: str) -> str:
    """The choices of a group, the default marked."""
    default = layout.defaults.get(group)
    return "  ".join(f"{choice}*" if choice == default else choice for choice in layout.choices[group])


def _table(title: str, rows: dict[str, str]) -> str:
    """A titled block of two columns; long second columns are wrapped."""
    if not rows:
        return ""
    left = max(len(key) for key in rows) + 4
    lines = [title]
    for key, text in rows.items():
        wrapped = textwrap.wrap(text, _WIDTH - left, break_on_hyphens=False) or [""]
        lines.append(f"  {key:<{left - 2}}{wrapped[0]}".rstrip())
        lines += [" " * left + line for line in wrapped[1:]]
    return "\n".join(lines)


def _examples(name: str) -> str:
    """Commands to copy."""
    lines = ["Examples"]
    for words, text in _EXAMPLES.items():
        lines.append(f"  # {text}")
        lines.append("  python -m diffexp " + words.format(recipe=f"experiment={name}", name=name))
    return "\n".join(lines)
