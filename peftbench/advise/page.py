"""The advice as one HTML page that works from disk: words, confusion, worst mistakes, calibration, race."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from peftbench.advise.race import Race
from peftbench.data.raw import RawSplit
from peftbench.foundation.files import replace_text
from peftbench.foundation.overwriting import begins_with

MOST_CLASSES, MOST_MISTAKES, THUMBNAIL = 30, 24, 128
BINS = 10
STYLE = Path(__file__).resolve().parents[1] / "assets" / "advice.css"


# by which a page of this package is known
_TITLE = "<title>Which method for "


def title_of(label: str) -> str:
    """What the page of a data set is called."""
    return f"Which method for {label}?"


def is_page(path: Path) -> bool:
    """Whether a file is a page of `write_page`, of this version or another."""
    return begins_with(path, _TITLE)


def write_page(
    path: Path,
    title: str,
    words: Sequence[str],
    warnings: Sequence[str],
    facts: Sequence[str],
    race: Race,
    class_names: Sequence[str],
    test: RawSplit,
    probabilities: np.ndarray,
    use: str,
) -> Path:
    """probabilities: float [num_images, classes] of the test images, in their order. Raises as the disk does."""
    predicted = probabilities.argmax(axis=1)
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in words),
        "".join(f'<p class="warn">{escape(line)}</p>' for line in warnings),
        f"<h2>Use it</h2><pre>{escape(use)}</pre>",
        "<h2>The data</h2>",
        *(f"<p>{escape(line)}</p>" for line in facts),
        "<h2>Confusion</h2>" + _confusion(test.labels, predicted, class_names),
        "<h2>Worst mistakes</h2>" + _mistakes(test, probabilities, class_names),
        "<h2>Calibration</h2>" + _calibration(test.labels, probabilities),
        "<h2>The race</h2>" + _race(race),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    body = "\n".join(parts)
    replace_text(path, f'<!doctype html><html lang="en"><head>{head}{style}</head><body>{body}</body></html>')
    return path


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 [classes, classes]: how many images of the row's class were taken for the column's."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> tuple[list[tuple[float, float, int]], float]:
    """(mean confidence, accuracy, images) of each tenth of confidence that has images, and the expected error.

    The expected calibration error of Guo et al. (ICML 2017): the mean gap between the two, weighted by images.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            rows.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    error = sum(n * abs(sure - hit) for sure, hit, n in rows) / len(labels)
    return rows, float(error)


def worst(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Rows of the wrong predictions, the most confident first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def _confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    counts = confusion(labels, predicted, len(names))
    if len(names) > MOST_CLASSES:
        pairs = counts.copy()
        np.fill_diagonal(pairs, 0)
        rows = [divmod(int(index), len(names)) for index in np.argsort(-pairs, axis=None, kind="stable")[:MOST_CLASSES]]
        lines = "".join(
            f"<tr><td>{escape(names[true])}</td><td>{escape(names[taken])}</td><td>{pairs[true, taken]}</td></tr>"
            for true, taken in rows
            if pairs[true, taken]
        )
        return _wide(f"<tr><th>class</th><th>taken for</th><th>images</th></tr>{lines}")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = []
    for row, name in enumerate(names):
        total = max(int(counts[row].sum()), 1)
        cells = "".join(_shaded(int(count), count / total, row == column) for column, count in enumerate(counts[row]))
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        "<p>Rows: the class of the image; columns: what it was taken for.</p>"
        '<div class="wide"><table class="confusion">'
        f"<tr><td></td>{head}</tr>{''.join(body)}</table></div>"
    )


def _wide(rows: str) -> str:
    """A table that scrolls by itself where the page is narrower."""
    return f'<div class="wide"><table>{rows}</table></div>'


def _shaded(count: int, share: float, right: bool) -> str:
    colour = "0,114,178" if right else "213,94,0"
    text = "#fff" if share > 0.6 else "#1b1b1b"
    return f'<td style="background:rgba({colour},{share:.2f});color:{text}">{count or ""}</td>'


def _mistakes(test: RawSplit, probabilities: np.ndarray, names: Sequence[str]) -> str:
    rows = worst(test.labels, probabilities)
    if not len(rows):
        return "<p>None: every test image was classified rightly.</p>"
    figures = []
    for row in rows[:MOST_MISTAKES].tolist():
        taken = int(probabilities[row].argmax())
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{_thumbnail(test, row)}"><figcaption>'
            f"{escape(names[int(test.labels[row])])}, taken for <b>{escape(names[taken])}</b> "
            f"({probabilities[row, taken]:.0%})<br>{escape(Path(test.describe(row)).name)}</figcaption></figure>"
        )
    return f"<p>{len(rows)} of {len(test)} test images; the most confident first.</p>{''.join(figures)}"


def _thumbnail(test: RawSplit, row: int) -> str:
    image = test.read(row).convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> str:
    rows, error = calibration(labels, probabilities)
    lines = "".join(f"<tr><td>{sure:.0%}</td>{_share(hit, f'{hit:.0%}')}<td>{n}</td></tr>" for sure, hit, n in rows)
    return (
        f"<p>How often it is right where it is so sure; expected calibration error {100 * error:.1f} points.</p>"
        + _wide(f"<tr><th>says</th><th>is right</th><th>images</th></tr>{lines}")
    )


def _share(share: float, shown: str) -> str:
    """A cell with a number and its bar; the bars of a column begin under each other."""
    return f'<td class="share"><span>{shown}</span><span class="bar" style="width:{7 * share:.1f}rem"></span></td>'


def _race(race: Race) -> str:
    parts = []
    for number, (size, epochs) in enumerate(zip(race.plan.sizes, race.plan.epochs, strict=True)):
        trials = race.rung(number)
        lines = "".join(
            f"<tr><td>{escape(trial.entry.method)}</td><td>{trial.rate:g}</td>"
            f"{_share(trial.accuracy, f'{trial.accuracy:.1%}')}"
            f"<td>{trial.record.params['method']:,}</td><td>{trial.record.fingerprint}</td></tr>"
            for trial in trials
        )
        if trials:
            parts.append(
                f"<h3>Rung {number + 1}: {len(trials)} of {size}, {epochs} epochs each</h3>"
                + _wide(
                    "<tr><th>method</th><th>rate</th><th>validation accuracy</th><th>parameters</th>"
                    f"<th>record</th></tr>{lines}"
                )
            )
    gone = "".join(f'<p class="gone">{escape(name)}: {escape(why)}</p>' for name, why in race.dropped.items())
    return "".join(parts) + gone
