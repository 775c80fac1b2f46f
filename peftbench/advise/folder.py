"""The folder of an advice: what is left in it, and what must not be written over."""

from __future__ import annotations

import json
from pathlib import Path

from peftbench.advise.page import is_page
from peftbench.cells.export import check_target
from peftbench.foundation.files import check_writable
from peftbench.foundation.overwriting import refuse_other

MODEL, PAGE, FACTS = "model.safetensors", "advice.html", "advice.json"


def check_folder(folder: Path) -> None:
    """Asked before the race. Raises `ConfigError` for files of others in the place of these and of the model's card,
    `RecordError` where nothing can be written.
    """
    for name in (MODEL, PAGE, FACTS):
        check_writable(folder / name)
    check_target(folder / MODEL)
    refuse_other(folder / PAGE, "page of an advice", is_page)
    refuse_other(folder / FACTS, "advice", _are_facts)


def _are_facts(path: Path) -> bool:
    """Whether a file is what an advice says of itself, of this version or another."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and {"record", "method", "trials", "words"} <= facts.keys()
