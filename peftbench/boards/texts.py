"""The words and rounded numbers of a table. The only place where numbers of the leaderboard are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.boards.dense import PRIMARY, SEVERAL, without_unit
from peftbench.boards.table import Row, Score, Table
from peftbench.foundation.metric import Metric

EMPTY = "—"
MARK, DOUBT, CHANGED = " †", " ‡", " §"

LEGEND = (
    "Accuracy in percent on the test split (on validation images where a title says so), mean ± sample standard "
    "deviation over seeds (no ± for one seed). lr: learning rate, or their range over data sets. params: trainable "
    "parameters of the method, without the head; head: those of the head. memory: weights, gradients, optimizer state "
    "and saved activations of one training step, counted. train GFLOPs: per image, forward and backward. mean of "
    "groups: mean of the group means; flat mean: mean of all data sets; never compare one with the other. PPT: flat "
    "mean as a fraction, times exp(-log10(params / 10 M + 1)). rank: average rank over data sets. verdict: among PEFT "
    "methods, by the test that the notes name; full fine-tuning is a reference. "
    f"{EMPTY}: no record, hence no means. {MARK.strip()}: not as in the paper, see the notes. "
    f"{CHANGED.strip()}: trained with other options than the shipped configuration, see the notes."
)

SEEDS, RANK, VERDICT = "seeds", "rank", "verdict"
DECODER, CROP = "decoder (M)", "crop GFLOPs"
# those whose head is a decoder
MAP_TASKS = (*PRIMARY, SEVERAL, "promptable", "region")
# of numbers that are scaled already
_WITH_UNIT, _WITHOUT_UNIT = Metric("", unit="%"), Metric("", unit="")


def cost_headers(table: Table) -> list[str]:
    """Headers of the costs that some row knows; the device is shown where a table has more than one."""
    names = ["lr", "params (M)", head_header(table), "memory (MB)", *([CROP] if of_maps(table) else [])]
    names = [*names, "train GFLOPs", "train img/s", "eval img/s", "order gap", "top-5"]
    known = [name for name in names if any(text(table, row, name) != EMPTY for row in all_rows(table))]
    return [*known, *(["device"] if len({row.device for row in table.rows}) > 1 else [])]


def head_header(table: Table) -> str:
    """What the trained parameters behind the backbone are called: those of a head, or of a decoder of maps."""
    return DECODER if of_maps(table) else "head (M)"


def of_maps(table: Table) -> bool:
    """Whether the task predicts maps, whose costs are those of one image or window of the backbone's size."""
    return table.task.split(" ")[0] in MAP_TASKS


def beside_headers(table: Table) -> list[str]:
    """Headers of the numbers beside the primary one, in the order of the first row that has them."""
    return list(dict.fromkeys(header for row in all_rows(table) for header in row.beside))


def column_headers(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def mean_headers(table: Table) -> list[str]:
    """Headers of the means; with a single group its mean, the mean of groups and the flat mean are one number."""
    groups = [*(f"{group} mean" for group in table.groups), "mean of groups"] if len(table.groups) > 1 else []
    return [*groups, "flat mean", "PPT"]


def headers(table: Table) -> list[str]:
    """All headers behind the method, in the order of a written table."""
    numbers = [*column_headers(table), *beside_headers(table), *mean_headers(table)]
    return [*cost_headers(table), *numbers, RANK, VERDICT, SEEDS]


def label(row: Row) -> str:
    """The method, marked if it departs from its paper; for published rows who printed it: `lora [vpetl_bench +6]`."""
    if not row.sources:
        return marked(row.method, row.remark, row.changed)
    more = f" +{len(row.sources) - 1}" if len(row.sources) > 1 else ""
    return f"{row.method} [{row.sources[0]}{more}]" + (DOUBT if row.unverified else "")


def marked(method: str, remark: str, changed: str) -> str:
    """A measured method with the marks of what departs: `Row.remark` and `Row.changed`."""
    return method + (MARK if remark else "") + (CHANGED if changed else "")


def texts(table: Table, chosen: Sequence[str]) -> list[list[str]]:
    """The label and the chosen columns of each row, measured rows first."""
    return [[label(row), *(text(table, row, header) for header in chosen)] for row in all_rows(table)]


def all_rows(table: Table) -> tuple[Row, ...]:
    return (*table.rows, *table.published)


def notes(table: Table) -> list[str]:
    """What a reader must know before comparing numbers of this table."""
    return [*general_notes(table), *remarks(table)]


def general_notes(table: Table) -> list[str]:
    """The notes that speak of the whole table."""
    return [*table.notes, *table.comparison.remarks]


def remarks(table: Table) -> list[str]:
    """One footnote for each remark, with the rows it belongs to."""
    rows = sorted(table.rows, key=lambda row: row.method)
    departing = [(MARK, row.remark, row.method) for row in rows if row.remark]
    return footnotes([*departing, *((CHANGED, row.changed, row.method) for row in rows if row.changed)])


def footnotes(departing: Iterable[tuple[str, str, str]]) -> list[str]:
    """Of (mark, words, method) a line for each mark with its words, in the order given, with all of its methods."""
    methods: dict[tuple[str, str], dict[str, None]] = {}
    for mark, words, method in departing:
        methods.setdefault((mark.strip(), words), {})[method] = None
    return [f"{mark} {', '.join(names)}: {words}" for (mark, words), names in methods.items()]


def text(table: Table, row: Row, header: str) -> str:
    """One cell as a reader sees it; `EMPTY` where nothing is known."""
    if header in row.cells:
        score = row.cells[header]
        return shown(score, table.metric, 1) + (f" (n={score.n})" if 0 < score.n < row.num_seeds[1] else "")
    if header in row.beside:
        return shown(row.beside[header], _WITHOUT_UNIT if without_unit(header) else _WITH_UNIT, 2)
    if header in (RANK, VERDICT):
        return _standing(table, row, header)
    group = header.removesuffix(" mean")
    if header != group and group in row.group_means:
        return shown(row.group_means[group], table.metric, 1)
    known = {
        "lr": row.rate or EMPTY,
        "params (M)": number(row.params_method, 1e6, 3),
        "head (M)": number(row.params_head, 1e6, 3),
        DECODER: number(row.params_head, 1e6, 3),
        "memory (MB)": number(row.memory_bytes, 1e6, 0),
        CROP: number(row.forward_flops_per_image, 1e9, 2),
        "train GFLOPs": number(row.train_flops_per_image, 1e9, 2),
        "train img/s": number(row.train_images_per_second, 1, 0),
        "eval img/s": number(row.eval_images_per_second, 1, 0),
        "order gap": number(row.order_gap, 1 / table.metric.scale, 1),
        "top-5": number(row.top5_accuracy, 1 / table.metric.scale, 1),
        "device": row.device or EMPTY,
        "mean of groups": shown(row.mean_of_groups, table.metric, 2),
        "flat mean": shown(row.flat_mean, table.metric, 2),
        "PPT": number(row.ppt, 1, 2),
        SEEDS: _seeds(row),
    }
    return known.get(header, EMPTY)


def _standing(table: Table, row: Row, header: str) -> str:
    comparison = table.comparison
    if row.reference:
        return EMPTY if header == RANK else "reference"
    if row.sources:
        return EMPTY if header == RANK else "published"
    if row.method not in comparison.verdicts:
        return EMPTY if header == RANK else "incomplete" if not row.complete else EMPTY
    if header == RANK:
        return f"{comparison.rank_of[row.method]:.1f}"
    return comparison.verdicts[row.method] or EMPTY


def _seeds(row: Row) -> str:
    low, high = row.num_seeds
    if high == 0:
        return "?"
    return str(low) if low == high else f"{low} to {high}"


def shown(score: Score | None, metric: Metric, decimals: int) -> str:
    """Mean and spread, in percent where the metric is a fraction."""
    if score is None:
        return EMPTY
    scale, decimals = metric.scale, decimals + metric.finer
    mean = f"{scale * score.mean:.{decimals}f}"
    return mean if score.std is None else f"{mean} ± {scale * score.std:.{decimals}f}"


def number(value: float | None, unit: float, decimals: int) -> str:
    return EMPTY if value is None else f"{value / unit:.{decimals}f}"
