"""Who may race: methods in the order of what measured boards and published tables say, within the counted costs."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from peftbench.boards.published import load_published
from peftbench.config.choices import shipped
from peftbench.methods.base import METHODS

# never left out: the cheapest of all, by which a reader sees what tuning the backbone brings
ALWAYS = "linear"
# methods that search for long before they train, or are parts of such a search
SLOW = frozenset({"noah_supernet", "noah_subnet"})
PER_FAMILY = 2
# how much standing a step that costs twice as much has to be worth
PRICE = 0.1


@dataclass(frozen=True)
class Candidate:
    """A method, and in words why it stands on the list.

    standing: in 0..1, the share of other methods it is ahead of. cost: counted training FLOPs, in those of LoRA; where
    no board has counted them it is taken for one of the dear ones, so that a budget holds.
    """

    method: str
    standing: float
    cost: float
    why: str


def board_file() -> Path:
    """The committed leaderboard: in the package, or in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "assets" / "board.csv"
    return inside if inside.is_file() else package.parent / "results" / "leaderboard" / "leaderboard.csv"


def applicable() -> list[str]:
    """Names of the methods for one task on images, without words; those that work across frames need clips."""
    classes = {name: METHODS.get(name) for name in METHODS.names()}
    return [name for name, cls in classes.items() if not (cls.of_pairs or cls.by_task or cls.mixes_time)]


def shortlist(num: int, families: Mapping[str, str], fits: Mapping[str, bool]) -> list[Candidate]:
    """The `num` best by standing less what their steps cost, at most `PER_FAMILY` of a family; `linear` last.

    families: method -> family, of those that may be chosen. fits: whether a method's counted parameters are allowed.
    """
    measured, published = _standings(_measured()), _standings(_published())
    costs = _costs()
    dear = statistics.quantiles(costs.values(), n=4)[-1] if len(costs) > 1 else 1.0
    known = set(shipped("method")) & set(families)
    candidates = []
    for method in known - {ALWAYS} - SLOW:
        places = [table[method] for table in (measured, published) if method in table]
        if not places or not fits.get(method, True):
            continue
        said = [f"{name} {table[method]:.0%}" for name, table in _named(measured, published) if method in table]
        cost = costs.get(method, dear)
        uncounted = "a step is taken to be dear, since no board has counted it"
        counted = f"a step costs {cost:.1f} times LoRA's" if method in costs else uncounted
        why = f"ahead of other methods in {', '.join(said)}; {counted}"
        candidates.append(Candidate(method, statistics.fmean(places), cost, why))
    candidates.sort(key=lambda candidate: (PRICE * candidate.cost - candidate.standing, candidate.method))
    chosen: list[Candidate] = []
    for candidate in candidates:
        family = families[candidate.method]
        if sum(families[other.method] == family for other in chosen) < PER_FAMILY and len(chosen) < num - 1:
            chosen.append(candidate)
    floor = Candidate(ALWAYS, 0.0, costs.get(ALWAYS, 0.5), "trains the classifier alone: what the others have to beat")
    return [*chosen, floor]


def _named(measured: Mapping[str, float], published: Mapping[str, float]) -> list[tuple[str, Mapping[str, float]]]:
    return [("measured boards", measured), ("published tables", published)]


def _standings(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Method -> mean over tables of the share of other methods it is ahead of."""
    places: dict[str, list[float]] = {}
    for table in tables:
        for method, accuracy in table.items() if len(table) > 2 else ():
            behind = sum(other < accuracy for other in table.values())
            places.setdefault(method, []).append(behind / (len(table) - 1))
    return {method: statistics.fmean(shares) for method, shares in places.items()}


def _measured() -> list[dict[str, float]]:
    """Each table of the committed board: method -> mean over its data sets."""
    tables: dict[tuple[str, str], dict[str, float]] = {}
    for row in _board():
        if row["flat_mean"]:
            tables.setdefault((row["backbone"], row["protocol"]), {})[row["method"]] = float(row["flat_mean"])
    return list(tables.values())


def _costs() -> dict[str, float]:
    """Method -> its training FLOPs on the board that has most methods, in those of LoRA there."""
    boards: dict[str, dict[str, float]] = {}
    for row in _board():
        if row["train_flops_per_image"]:
            boards.setdefault(row["backbone"], {}).setdefault(row["method"], float(row["train_flops_per_image"]))
    largest = max(boards.values(), key=len, default={})
    unit = largest.get("lora")
    return {method: flops / unit for method, flops in largest.items()} if unit else {}


def _board() -> list[dict[str, str]]:
    """The measured rows of the committed board; none where it is not there."""
    file = board_file()
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if not row["published_by"]]


def _published() -> list[dict[str, float]]:
    """Each source's table of VTAB-1k on one backbone: method -> mean over the natural tasks, which photos are most
    like.
    """
    tables: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in load_published():
        figures = [float(value) for name, value in row.figures.items() if row.groups[name] == "natural"]
        if row.benchmark == "vtab1k" and len(figures) == 7 and not row.variant:
            for source in row.sources:
                table = tables.setdefault((source, row.backbone, row.pretraining), {})
                table.setdefault(row.method, statistics.fmean(figures))
    return list(tables.values())
