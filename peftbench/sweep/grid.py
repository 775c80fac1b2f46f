"""From the words of a sweep to its plan: every combination is composed and typed, equal cells fall together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from peftbench.cells.cell import Cell, plan
from peftbench.config.gate import (
    FIXED,
    NAMED,
    as_tree,
    config_dir,
    launcher_of,
    register_schemas,
    to_run_config,
)
from peftbench.config.launcher import Launcher
from peftbench.config.overrides import choices_of, named_options, word_problems
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.suites import suite as datasets_of
from peftbench.foundation.errors import ConfigError, MissingInput, PeftbenchError
from peftbench.records.store import Store
from peftbench.sweep.plan import Plan, PlannedCell, file_state

HYDRA_PLUGINS = ("hydra/launcher", "hydra/sweeper")


def plan_grid(words: list[str]) -> tuple[Plan, Launcher]:
    """The plan of a sweep and who is to run it. Builds no model.

    `+suite=NAME` stands for the words of that suite, `method=all` for every method; Hydra's `a,b`, `range(...)` and
    `glob(...)` give several values. Raises `ConfigError` for wrong words, before any cell is planned.
    """
    words = expanded(words)
    problems = word_problems(words, config_dir(), [*FIXED, *NAMED, "seed"]) + _sweep_problems(words)
    if problems:
        raise ConfigError(problems)
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            combinations, seeds = _combinations(words)
            trees = [(combination, compose("config", combination)) for combination in combinations]
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    return _planned(trees, seeds), launcher_of(trees[0][1])


def expanded(words: list[str]) -> list[str]:
    """The words with suites and `all` written out; a dataset named beside a suite wins."""
    result = []
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") == "suite":
            result.append("dataset=" + ",".join(name for suite in value.split(",") for name in datasets_of(suite)))
        elif word == "method=all":
            result.append("method=" + ",".join(choices_of(config_dir() / "method")))
        else:
            result.append(word)
    own = {_key(word) for word in words if word in result}
    return [word for word in result if word in words or _key(word) not in own]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _sweep_problems(words: list[str]) -> list[str]:
    problems = []
    for word in words:
        if _key(word) in HYDRA_PLUGINS:
            problems.append(f"'{word}': sweeps are planned here; choose launcher=local, joblib, slurm or ray instead")
        elif _key(word).partition(".")[0] == "launcher" and "," in word and "[" not in word and "{" not in word:
            problems.append(f"'{word}': a sweep has one launcher")
    return problems


def _combinations(words: list[str]) -> tuple[list[list[str]], list[int | str]]:
    """Every combination of the words but for the seed, and the seeds: composing takes time and does not need them."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    lists: list[list[str]] = []
    seeds: list[int | str] = []
    for override in parser.parse_overrides(words):
        if not override.is_sweep_override():
            lists.append([str(override.input_line)])
            continue
        values = list(override.sweep_string_iterator())
        if override.get_key_element() == "seed":
            seeds += [int(value) if value.isdecimal() else value for value in values]
        else:
            lists.append([f"{override.get_key_element()}={value}" for value in values])
    return [list(combination) for combination in itertools.product(*lists)], seeds


def _planned(trees: list[tuple[list[str], DictConfig]], seeds: list[int | str]) -> Plan:
    """Cells in order, without repetitions. Wrong options end the sweep before it starts; absent inputs are noted."""
    cells: dict[str, PlannedCell] = {}
    absent: list[tuple[str, str]] = []
    wrong: dict[str, None] = {}
    known: dict[Path, set[str]] = {}
    revisions: dict[str, str] = {}
    for words, tree in trees:
        for seed in seeds or [tree.get("seed", 0)]:
            tree.seed = seed
            all_words = [*words, f"seed={seed}"] if seeds else words
            try:
                config, runtime = to_run_config(tree, named_options(all_words))
                cell = _planned_cell(plan(config, revisions), runtime, all_words, known)
                cells.setdefault(cell.fingerprint, cell)
            except ConfigError as error:
                wrong |= dict.fromkeys(error.problems)
            except PeftbenchError as error:
                absent.append((" ".join(all_words), str(error)))
    if wrong:
        raise ConfigError(wrong)
    if not cells:
        raise MissingInput("\n".join(dict.fromkeys(message for _, message in absent)))
    _refuse_existing(cells.values())
    return Plan(str(Path.cwd()), list(cells.values()), absent)


def _planned_cell(cell: Cell, runtime: RuntimeSpec, words: list[str], known: dict[Path, set[str]]) -> PlannedCell:
    store = Store(runtime.results_root)
    # a look at each cell's own path costs little; only records that lie elsewhere need the list of all
    path = store.path_of(cell.labels, cell.fingerprint)
    if not path.is_file():
        if store.root not in known:
            known[store.root] = store.fingerprints()
        if cell.fingerprint in known[store.root]:
            path = store.find(cell.fingerprint) or path
    failure = store.failure_path(cell.fingerprint)
    tree: dict[str, Any] = as_tree(cell.config, runtime)
    return PlannedCell(
        fingerprint=cell.fingerprint,
        title=cell.title,
        labels=cell.labels,
        seed=cell.config.seed,
        words=words,
        config=tree,
        record_path=str(path),
        record=file_state(path),
        failure_path=str(failure),
        failure=file_state(failure),
    )


def _refuse_existing(cells: Iterable[PlannedCell]) -> None:
    forbidden = [cell for cell in cells if cell.record is not None and cell.config["runtime"]["on_existing"] == "error"]
    if forbidden:
        more = f" and {len(forbidden) - 1} more" if len(forbidden) > 1 else ""
        raise PeftbenchError(f"{forbidden[0].record_path}{more}: already recorded (runtime.on_existing=error)")
