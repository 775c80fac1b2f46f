"""What cells of one process share is told apart by one look at the files of each cell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peftbench.cells.shared import backbone_of, held_frozen, opened, sharing
from peftbench.data.sources.digits import Digits
from tests.composing import gate


def test_the_files_of_a_cell_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    told = Digits.revision

    def counted(self: Digits) -> str:
        looks.append(1)
        return told(self)

    monkeypatch.setattr(Digits, "revision", counted)
    config, _ = gate("dataset=digits")
    with sharing():
        first = opened(config)
        backbone_of(config)
        held = held_frozen(config)
        assert len(looks) == 1
        later = replace(config, seed=1)
        assert opened(later) is first and held_frozen(later) is held and len(looks) == 2
