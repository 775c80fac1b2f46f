"""A table as a LaTeX float. It needs the packages booktabs and graphicx and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peftbench.boards.table import Table
from peftbench.boards.texts import EMPTY, all_rows, column_headers, general_notes, headers, remarks, texts

# < > | are other signs in LaTeX's default font encoding
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "†": r"$\dagger$",
    "§": r"\S{}",
    "‡": r"$\ddagger$",
    EMPTY: "---",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

# Box 0 is the table, box 2 its notes. A table wider than the line, or with its notes and caption higher than the page,
# is made smaller; others keep their size.
_FITTED = r"""\ifdim\wd0>\linewidth\sbox0{\resizebox{\linewidth}{!}{\usebox0}}\fi
\dimen0=\dimexpr\textheight-\ht2-\dp2-5\baselineskip\relax
\ifdim\dimexpr\ht0+\dp0\relax>\dimen0\sbox0{\resizebox*{!}{\dimen0}{\usebox0}}\fi
\par\smallskip\usebox0\par\medskip\usebox2"""


def to_latex(table: Table) -> str:
    """The table as a float with its general notes below, the highest mean of each data set in bold.

    Remarks on single methods may fill a page, so they follow the float as text that breaks over pages. Headers longer
    than what stands below them are turned upright, and spreads are subscripts: with 19 data sets width is what decides
    whether the numbers can be read.
    """
    place = "tab:" + re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")
    names = headers(table)
    rows = texts(table, names)
    widths = [max((len(row[index]) for row in rows), default=0) for index in range(1, len(names) + 1)]
    upright = [
        rf"\rotatebox{{90}}{{{_tex(name)}}}" if len(name) > width else _tex(name)
        for name, width in zip(names, widths, strict=True)
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\label{{{place}}}",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\sbox0{{\begin{{tabular}}{{l{'r' * len(names)}}}",
            r"\toprule",
            " & ".join(["method", *upright]) + r" \\",
            r"\midrule",
            *_body(table, names, rows),
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\sbox2{{\parbox{{\linewidth}}{{\scriptsize\raggedright {_sentences(general_notes(table))}}}}}",
            _FITTED,
            r"\end{table*}",
            *_remarks(table, place),
            "",
        ]
    )


def _body(table: Table, names: list[str], rows: list[list[str]]) -> list[str]:
    best = _best(table)
    lines = []
    for row, cells in zip(all_rows(table), rows, strict=True):
        if table.rows and table.published and row is table.published[0]:
            lines.append(r"\midrule")
        marked = [
            rf"\textbf{{{_score(cell)}}}" if best.get(name) == row.method and not row.sources else _score(cell)
            for name, cell in zip(names, cells[1:], strict=True)
        ]
        lines.append(" & ".join([_tex(cells[0]), *marked]) + r" \\")
    return lines


def _best(table: Table) -> dict[str, str]:
    """Header of a data set -> the measured method with the highest mean."""
    best = {}
    for name in column_headers(table):
        scored = [row for row in table.rows if name in row.cells]
        best[name] = max(scored, key=lambda row: row.cells[name].mean).method if scored else ""
    return best


def _remarks(table: Table, place: str) -> list[str]:
    found = remarks(table)
    return [rf"{{\scriptsize\raggedright\noindent Table~\ref{{{place}}}: {_sentences(found)}\par}}"] if found else []


def _sentences(notes: Sequence[str]) -> str:
    # some notes are sentences with their full stop, others are not
    return "\n\\par\\noindent ".join(f"{_tex(note.removesuffix('.'))}." for note in notes)


def _score(text: str) -> str:
    return re.sub(r" \$\\pm\$ ([0-9.]+)", r"$_{\\pm\1}$", _tex(text))


def _tex(text: str) -> str:
    """Plain text with `code` as LaTeX."""
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)
