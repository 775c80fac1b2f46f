"""Who may import whom: rooms in an order, parsed from the source, including imports inside functions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOT = REPOSITORY / "peftbench"
FILES = sorted(ROOT.rglob("*.py"))

# From the ground up: a room imports rooms that stand before it, never one behind it. docs/architecture.md draws it.
ROOMS = (
    "foundation",
    "backbones",
    "interventions",
    "data",
    "train",
    "tasks",
    "methods",
    "objectives",
    "config",
    "records",
    "boards",
    "adapters",
    "cells",
    "tune",
    "sweep",
    "launchers",
    "advise",
    "api",
    "cli",
    "contracts",
)
# Of the rooms below, these import no others: what a part of a cell knows stays small.
ALLOWED = {
    "foundation": set[str](),
    "backbones": {"foundation"},
    "interventions": {
        "foundation",
        "backbones.base",
        "backbones.class_texts",
        "backbones.relative",
        "backbones.rotary",
        "backbones.tokenizers",
    },
    "data": {"foundation"},
    "train": {"foundation"},
    "tasks": {
        "foundation",
        "backbones.base",
        "backbones.beside",
        "backbones.maps",
        "backbones.pair",
        "backbones.vl_t5",
        "data.halves",
        "data.templates",
        "data.texted",
        "train",
    },
    "methods": {"foundation", "backbones.base", "backbones.class_texts", "backbones.pair", "interventions"},
    "objectives": {
        "foundation",
        "backbones.base",
        "backbones.class_texts",
        "backbones.pair",
        "data.templates",
        "interventions.class_aware",
        "interventions.codes",
        "interventions.dispatch",
        "interventions.guided",
        "interventions.heard",
        "interventions.kept",
        "interventions.kernels",
        "interventions.noise",
        "interventions.redundancy",
        "interventions.streams",
        "interventions.tokens",
        "tasks",
        "train.batches",
        "train.loss",
    },
    "records": {"foundation"},
    "boards": {"foundation", "records"},
}
# room -> libraries it must not import
FORBIDDEN = {
    "records": {"torch", "torchvision", "timm", "hydra", "omegaconf"},
    "boards": {"torch", "torchvision", "timm", "hydra", "omegaconf"},
    "data": {"torch", "timm", "hydra", "omegaconf"},
    "train": {"timm", "hydra", "omegaconf"},
    "tasks": {"timm", "hydra", "omegaconf"},
    "backbones": {"hydra", "omegaconf"},
    "interventions": {"hydra", "omegaconf"},
    "methods": {"timm", "hydra", "omegaconf"},
    "objectives": {"timm", "hydra", "omegaconf"},
}
# the modules through which a configuration enters; everything behind them sees typed objects
CONFIGURATION = {
    "config/gate",
    "config/compose",
    "config/overrides",
    "config/shipped",
    "cells/restore",
    "cli/showing",
}
LIGHT = ("records", "boards", "data")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules a file imports: `from a import b` counts as `a` and as `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """The imports from this project, without the leading package name."""
    return {name.removeprefix("peftbench.") for name in imports(path) if name.startswith("peftbench.")}


def within(name: str, allowed: set[str]) -> bool:
    return any(name == item or name.startswith(f"{item}.") for item in allowed)


def files_of(room: str) -> list[Path]:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == room]
    assert files, f"peftbench/{room} has no files"
    return files


def test_the_drawing_shows_these_rooms_in_this_order() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    drawn = page.split("<!-- rooms -->")[1].split("```")[1].strip().splitlines()
    assert tuple(line.split()[0] for line in drawn) == ROOMS


def test_the_walk_names_files_that_are_there() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = {name for name in re.findall(r"`([a-z_/]+\.py)`", page) if not name.startswith("tests/")}
    assert len(named) > 10 and not [name for name in named if not (ROOT / name).is_file()]


def test_every_room_has_its_place_and_says_what_it_is() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__", "assets"} == set(ROOMS)
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), f"{folder} does not say what it is"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    below = set(ROOMS[: ROOMS.index(room) + 1])
    for path in files_of(room):
        back_up = {name for name in own(path) if name.split(".")[0] in ROOMS and name.split(".")[0] not in below}
        assert not back_up, f"{path.relative_to(ROOT)} imports {sorted(back_up)}, which stand above it"


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in files_of(room):
        # `from peftbench.backbones import base` names the package itself as well
        prefixes = {item.rpartition(".")[0] for item in ALLOWED[room]}
        wrong = {n for n in own(path) if not within(n, ALLOWED[room] | {room}) and n not in prefixes}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_does_without_some_libraries(room: str) -> None:
    for path in files_of(room):
        wrong = {name.split(".")[0] for name in imports(path)} & FORBIDDEN[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_only_the_configuration_modules_know_hydra() -> None:
    users = {path.relative_to(ROOT) for path in FILES if any(within(n, {"hydra", "omegaconf"}) for n in imports(path))}
    assert {str(user.with_suffix("")) for user in users} <= CONFIGURATION


def test_no_two_modules_import_each_other() -> None:
    """No cycle among modules at all, inside rooms included."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    edges = {
        name: {target for target in own(path) if target in modules and target != name} for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " imports ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in edges[name]:
                # a module of a package names the package; that is no import of its front door
                if not name.startswith(f"{target}."):
                    visit(target, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_no_module_collects_odds_and_ends() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "util", "helpers", "common", "misc"}]


@pytest.mark.parametrize("room", LIGHT)
def test_records_boards_and_data_load_without_torch(room: str) -> None:
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files_of(room)]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "False"
