"""What the scripts that write a generated page share: the shape of ViT-B/16, and writing or comparing the page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.build import from_timm

DOCS = Path(__file__).resolve().parent.parent / "docs"


def vit_b16_shape() -> BackboneShape:
    """The numbers of ViT-B/16 at 224 px, without storage for its weights."""
    with torch.device("meta"):
        return from_timm(timm.create_model("vit_base_patch16_224", num_classes=0)).shape


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; numbers are text already. A bar inside a cell does not end it."""
    cells = [{column: str(value).replace("|", r"\|") for column, value in row.items()} for row in rows]
    return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def write_or_check(path: Path, page: Callable[[], str], what: str) -> int:
    """Write the page, or with --check on the command line only compare: exit code 1 where they differ."""
    parser = argparse.ArgumentParser(description=what.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check, text = parser.parse_args().check, page()
    if check:
        return int(not path.is_file() or path.read_text(encoding="utf-8") != text)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return 0
