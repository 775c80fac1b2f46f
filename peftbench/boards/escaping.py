"""Names from records in the formats of tables: none of them is taken for a formula, a tag, a link or a command."""

from __future__ import annotations

import re

import pandas as pd

# what spreadsheets take for the beginning of a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# the pieces of which links and images are made; brackets alone are read as they stand
_LINK = re.compile(r"(?<=\])([(\[:])")


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV. Texts that a spreadsheet would take for formulas stand behind an apostrophe, numbers do not."""
    # object columns keep whole numbers whole beside empty cells
    rows = [[_cell(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    safe = pd.DataFrame(rows, columns=[_cell(name) for name in frame.columns], dtype=object)
    return safe.to_csv(index=False, lineterminator="\n")


def markdown(text: str) -> str:
    """Plain text within Markdown, `code` included: no tags, links or ends of cells."""
    return _LINK.sub(r"\\\1", " ".join(text.split("\n"))).replace("<", "&lt;").replace("|", "\\|")


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
