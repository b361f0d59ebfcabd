"""The shape of the house, read from the import statements: imports point down the list of rooms only."""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffexp"
# Each room with the rooms that it may import; the root package may reach anything, lazily.
LEAVES = "launch checkpoint network dataset"
ORDER = ("tasks", "training", "evaluation", "distillation", "sampler objective", "prediction", "process", LEAVES)
HEAVY = ("matplotlib", "sklearn", "PIL", "pandas", "torchvision", "torch_fidelity", "wandb", "rich", "scipy")


def allowed(room: str) -> set[str]:
    level = next(place for place, names in enumerate(ORDER) if room in names.split())
    below = {name for names in ORDER[level + 1 :] for name in names.split()}
    return below | {room, "core"}


def imports(path: Path, everywhere: bool = True) -> list[str]:
    """Dotted names that a file imports: anywhere in it, or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_room_imports_only_rooms_below_it():
    rooms = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    assert {"core", "launch", "process", "tasks"} <= set(rooms)
    wrong = []
    for room in rooms:
        may = {"core"} if room == "core" else allowed(room)
        for path in (PACKAGE / room).rglob("*.py"):
            used = {name.split(".")[1] for name in imports(path) if name.startswith("diffexp.")}
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in used - may if (PACKAGE / name).is_dir()]
    assert wrong == []


def test_nothing_heavy_is_imported_with_a_module():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imports(path, everywhere=False)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_the_launch_room_never_imports_torch():
    """Only a rank does, when it meets the others; whoever starts ranks or refuses a command need not wait for it."""
    modules = [*(PACKAGE / "launch").rglob("*.py"), PACKAGE / "__init__.py", PACKAGE / "core" / "errors.py"]
    found = {path.name: [name for name in imports(path) if name.split(".")[0] == "torch"] for path in modules}
    assert {name for name, torch in found.items() if torch} == {"ranks.py"}
    assert not any(name.split(".")[0] == "torch" for path in modules for name in imports(path, everywhere=False))


def test_only_one_module_makes_random_numbers():
    """No call of torch's or numpy's global generators outside core/random.py."""
    names = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "normal_", "default_rng"}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] == "network" or path.name == "random.py":
            continue  # modules initialise their weights inside core.random.seeded
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_files_stay_short():
    long = {
        str(path.relative_to(ROOT)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}


def test_every_target_in_conf_exists_and_every_group_is_a_room():
    """Each file of a group names a class of diffexp, so that who sees the choice knows where to read."""
    checked = 0
    files = set((ROOT / "conf").rglob("*.yaml")) - set((ROOT / "conf" / "hydra").rglob("*.yaml"))  # Hydra's launchers
    for path in sorted(files):
        node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        target = node.get("_target_") if isinstance(node, dict) else None
        if target is None:
            continue
        module, _, name = target.rpartition(".")
        source = ROOT / Path(*module.split(".")).with_suffix(".py")
        names = {item.name for item in ast.parse(source.read_text()).body if isinstance(item, ast.ClassDef)}
        assert name in names, f"{path}: {target}"
        checked += 1
    assert checked > 20
