from __future__ import annotations

import pytest
import torch

from peftbench.cells.frozen import _budget
from peftbench.config.runtime import RuntimeSpec


@pytest.mark.parametrize(("asked", "allowed"), [("auto", 35), ("20", 20), ("60", 35)])
def test_memory_that_torch_keeps_for_later_is_free_on_a_gpu(
    asked: str, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gb = 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * gb, 80 * gb))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 45 * gb)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * gb)
    runtime = RuntimeSpec(feature_cache=asked)
    assert _budget(runtime, torch.device("cuda")) == (allowed * gb, False)
