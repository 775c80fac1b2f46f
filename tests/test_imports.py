"""Who may import whom: layers, parsed from the source, including imports inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOT = REPOSITORY / "peftbench"
FILES = sorted(ROOT.rglob("*.py"))
COMPONENTS = {"backbones", "interventions", "methods", "objectives", "data", "train"}

# package -> parts of peftbench it may import besides itself
ALLOWED = {
    "results": {"cores", "errors", "identity", "progress"},
    "data": {"cores", "errors", "identity", "registry", "spec", "hub", "progress"},
    "train": {"errors", "seeding", "spec"},
    "backbones": {"errors", "spec", "hub"},
    "interventions": {"backbones.base", "errors"},
    "methods": {"backbones.base", "errors", "interventions", "registry", "seeding", "spec"},
    "objectives": {"backbones.base", "errors", "model", "registry", "seeding", "spec", "train.batches", "train.loss"},
}
# package -> libraries it must not import
FORBIDDEN = {
    "results": {"torch", "torchvision", "timm", "hydra", "omegaconf"},
    "data": {"torch", "timm", "hydra", "omegaconf"},
    "train": {"timm", "hydra", "omegaconf"},
    "backbones": {"hydra", "omegaconf"},
    "interventions": {"hydra", "omegaconf"},
    "methods": {"timm", "hydra", "omegaconf"},
    "objectives": {"timm", "hydra", "omegaconf"},
}
# the modules through which a configuration enters; everything behind them sees typed objects
CONFIGURATION = {
    "__main__",
    "config",
    "launch",
    "overrides",
    "registry",
    "evaluate_command",
    "data_command",
    "sweep/grid",
}


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


def files_of(package: str) -> list[Path]:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == package]
    assert files, f"peftbench/{package} has no files"
    return files


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for path in files_of(package):
        # `from peftbench.backbones import base` names the package itself as well, which is empty
        prefixes = {item.rpartition(".")[0] for item in ALLOWED[package]}
        wrong = {n for n in own(path) if not within(n, ALLOWED[package] | {package}) and n not in prefixes}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_does_without_some_libraries(package: str) -> None:
    for path in files_of(package):
        wrong = {name.split(".")[0] for name in imports(path)} & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_only_the_configuration_modules_know_hydra() -> None:
    users = {path.relative_to(ROOT) for path in FILES if any(within(n, {"hydra", "omegaconf"}) for n in imports(path))}
    assert {str(user.with_suffix("")) for user in users} <= CONFIGURATION


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent == ROOT and p.stem in {"spec", "registry", "identity", "errors"}]
)
def test_the_foundations_import_no_component(path: Path) -> None:
    assert not {name.split(".")[0] for name in own(path)} & (COMPONENTS | {"results", "config", "runner"})
    libraries = {name.split(".")[0] for name in imports(path)} - {"peftbench"}
    assert libraries <= sys.stdlib_module_names, "the foundations need the standard library only"


def test_no_module_collects_odds_and_ends() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "util", "helpers", "common", "misc"}]


@pytest.mark.parametrize("package", ["results", "data"])
def test_results_and_data_load_without_torch(package: str) -> None:
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files_of(package)]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "False"
