"""From the words of a sweep to its plan: every combination is composed and typed, equal cells fall together."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftbench.cells.applies import why_not
from peftbench.cells.cell import Asked, plan
from peftbench.config.choices import choices_of
from peftbench.config.compose import BroughtAlong, Trees
from peftbench.config.gate import Builder, RunConfig, as_tree, config_dir, from_tree, launcher_of
from peftbench.config.having import UNKNOWN
from peftbench.config.launcher import Launcher
from peftbench.config.overrides import named_options, values_of
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.words import problems_of
from peftbench.data.base import DATASETS
from peftbench.data.suites import suite as datasets_of
from peftbench.data.suites import task_of
from peftbench.foundation.errors import ConfigError, HeldPacked, MissingInput, PeftbenchError, brief
from peftbench.records.packed import SUFFIX
from peftbench.records.store import Store
from peftbench.sweep.plan import Plan, PlannedCell, file_state
from peftbench.sweep.summary import unplanned_lines
from peftbench.sweep.wrong import choice_of, key_of, problem_lines

ALL_METHODS = "method=all"
ROOT = "dataset.root"
# sections that the title of every cell names
_TITLED = {"method", "dataset", "backbone", "seed"}


def plan_grid(words: list[str]) -> tuple[Plan, Launcher]:
    """The plan of a sweep and who is to run it. Builds no model and needs no torch.

    `+suite=NAME` stands for the words of that suite, whose sets without files go without `dataset.root`; `method=all`
    for every method but those that bring along another task or objective than the words name, and but those that refuse
    an option which others take (`Plan.left_out`); Hydra's `a,b`, `range(...)` and `glob(...)` give several values.
    Raises `ConfigError` for wrong words, before any cell is planned.
    """
    keys = {key_of(word) for word in words}
    of_all, for_suite = ALL_METHODS in words, {"suite", ROOT} <= keys and "dataset" not in keys
    words = expanded(words)
    problems = problems_of(words, sweep=True) + _sweep_problems(words)
    if problems:
        raise ConfigError(problems)
    trees = Trees()
    combinations, seeds = _combinations(words)
    if for_suite:
        combinations = _with_own_root(trees, combinations)
    if of_all:
        combinations = [own for own in combinations if _goes_together(trees, own)] or combinations
    return _planned(trees, combinations, seeds, of_all), launcher_of(trees.of(combinations[0]))


def _goes_together(trees: Trees, words: list[str]) -> bool:
    try:
        trees.of(words)
    except BroughtAlong:
        return False
    except ConfigError:
        # said where the cell is planned
        return True
    return True


def _with_own_root(trees: Trees, combinations: list[list[str]]) -> list[list[str]]:
    """A folder that is named for a suite is for its sets with files; those that are drawn go without."""
    choices = {choice_of("dataset", words) for words in combinations}
    kinds = {choice: DATASETS.get(trees.of([f"dataset={choice}"])["dataset"]["kind"]) for choice in choices}
    taking = {choice for choice, spec in kinds.items() if "root" in {field.name for field in dataclasses.fields(spec)}}
    if not taking:
        return combinations
    return [
        words if choice_of("dataset", words) in taking else [word for word in words if key_of(word) != ROOT]
        for words in combinations
    ]


def expanded(words: list[str]) -> list[str]:
    """The words with suites and `all` written out; a dataset or task named beside a suite wins."""
    result = []
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") == "suite":
            suites = value.split(",")
            result.append("dataset=" + ",".join(name for suite in suites for name in datasets_of(suite)))
            if task := task_of(suites):
                result.append(f"task={task}")
        elif word == ALL_METHODS:
            result.append("method=" + ",".join(choices_of(config_dir() / "method")))
        else:
            result.append(word)
    own = {key_of(word) for word in words if word in result}
    return [word for word in result if word in words or key_of(word) not in own]


def _sweep_problems(words: list[str]) -> list[str]:
    problems = []
    for word in words:
        if key_of(word).partition(".")[0] == "launcher" and "," in word and "[" not in word and "{" not in word:
            problems.append(f"'{word}': a sweep has one launcher")
    return problems


def _combinations(words: list[str]) -> tuple[list[list[str]], list[int | str]]:
    """Every combination of the words but for the seed, and the seeds: composing takes time and does not need them."""
    lists: list[list[str]] = []
    seeds: list[int | str] = []
    for word in words:
        key, values = values_of(word, config_dir())
        if values is None:
            lists.append([word])
        elif key == "seed":
            seeds += [int(value) if value.isdecimal() else value for value in values]
        else:
            lists.append([f"{key}={value}" for value in values])
    return [list(combination) for combination in itertools.product(*lists)], seeds


def _planned(trees: Trees, combinations: list[list[str]], seeds: list[int | str], of_all: bool) -> Plan:
    """Cells in order, without repetitions. Wrong options end the sweep before it starts; absent inputs are noted.

    of_all: the methods are all there are, and one that refuses what others take is noted as well.
    """
    cells: dict[str, PlannedCell] = {}
    absent: list[tuple[str, str]] = []
    wrong: dict[str, list[list[str]]] = {}
    known: dict[Path, dict[str, Path]] = {}
    builder, asked, swept = Builder(outline=True), Asked(), _swept(combinations)
    own_seed: list[int | str | None] = [None]
    for words, seed in itertools.product(combinations, seeds or own_seed):
        all_words = words if seed is None else [*words, f"seed={seed}"]
        try:
            config, runtime = from_tree(trees.of(words, seed), named_options(all_words), builder)
            cell = _planned_cell(config, runtime, all_words, known, asked, swept)
            cells.setdefault(cell.fingerprint, cell)
        except ConfigError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(words)
        except PeftbenchError as error:
            absent.append((" ".join(all_words), str(error)))
    if wrong and not (of_all and (cells or absent) and _of_some_methods(wrong, combinations)):
        raise ConfigError(problem_lines(wrong, combinations))
    if not cells:
        raise MissingInput("\n".join(unplanned_lines(absent)))
    _refuse_existing(cells.values())
    return Plan(str(Path.cwd()), list(cells.values()), absent, _left_out(wrong, combinations))


def _left_out(wrong: dict[str, list[list[str]]], combinations: list[list[str]]) -> list[tuple[str, str]]:
    """(method, why) of the refused ones; with the words of the combination where others of the method are planned."""
    refused = {" ".join(words): (words, problem) for problem, where in wrong.items() for words in where}
    going = {choice_of("method", words) for words in combinations if " ".join(words) not in refused}
    swept = _several(combinations) - {"method"}
    found: dict[str, str] = {}
    for words, problem in refused.values():
        method = choice_of("method", words)
        apart = [word for word in words if key_of(word) in swept] if method in going else []
        found[" ".join([method, *apart])] = problem
    return list(found.items())


def _of_some_methods(wrong: dict[str, list[list[str]]], combinations: list[list[str]]) -> bool:
    """Whether each problem is one of some methods with options that exist, so that the others can go on."""
    everyone = {choice_of("method", words) for words in combinations}
    return all(
        UNKNOWN.match(problem) is None and {choice_of("method", words) for words in where} < everyone
        for problem, where in wrong.items()
    )


def _planned_cell(
    config: RunConfig,
    runtime: RuntimeSpec,
    words: list[str],
    known: dict[Path, dict[str, Path]],
    asked: Asked,
    swept: set[str],
) -> PlannedCell:
    cell, store = plan(config, asked), Store(runtime.results_root)
    cell = dataclasses.replace(cell, apart=_apart(words, swept, cell.labels["method"]))
    # a look at each cell's own path costs little; only records that lie elsewhere need the list of all
    path = store.path_of(cell.labels, cell.fingerprint)
    if not path.is_file():
        if store.root not in known:
            known[store.root] = store.places()
        path = known[store.root].get(cell.fingerprint, path)
    failure = store.failure_path(cell.fingerprint)
    tree: dict[str, Any] = as_tree(config, runtime, lambda spec: asked.of(spec, dataclasses.asdict))
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
        inapplicable=why_not(config),
        apart=cell.apart,
    )


def _swept(combinations: list[list[str]]) -> set[str]:
    """Keys with several values, without those that every title names and those that change no cell."""
    return {key for key in _several(combinations) - _TITLED if not key.startswith(("runtime.", "launcher."))}


def _several(combinations: list[list[str]]) -> set[str]:
    """Keys with several values."""
    values: dict[str, set[str]] = {}
    for word in {word for words in combinations for word in words}:
        values.setdefault(key_of(word), set()).add(word)
    return {key for key, words in values.items() if len(words) > 1}


def _apart(words: list[str], swept: set[str], method: str) -> tuple[str, ...]:
    """The words of a cell that differ within the sweep, without the options that the method's label shows."""
    shown = set(re.findall(r"(\w+)=", method))
    named = [word for word in words if key_of(word) in swept]
    return tuple(brief(word, 60) for word in named if key_of(word).removeprefix("method.") not in shown)


def _refuse_existing(cells: Iterable[PlannedCell]) -> None:
    recorded = [cell for cell in cells if cell.record is not None]
    forbidden = [cell for cell in recorded if cell.config["runtime"]["on_existing"] == "error"]
    if forbidden:
        more = f" and {len(forbidden) - 1} more" if len(forbidden) > 1 else ""
        raise PeftbenchError(f"{forbidden[0].record_path}{more}: already recorded (runtime.on_existing=error)")
    packed = {cell.record_path: cell.results for cell in recorded if cell.reruns and cell.record_path.endswith(SUFFIX)}
    if packed:
        raise HeldPacked("\n".join(Store(results).held_packed(Path(pack)) for pack, results in packed.items()))
