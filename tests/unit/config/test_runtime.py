from __future__ import annotations

import pytest

from peftbench.config import runtime
from peftbench.config.runtime import RuntimeSpec


@pytest.mark.parametrize(("cores", "decoders"), [(1, 2), (6, 6), (96, 16)])
def test_streamed_images_are_decoded_on_all_cores_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, cores: int, decoders: int
) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: cores)
    assert RuntimeSpec().decoders == decoders
    assert RuntimeSpec(workers=0).decoders == 0
    assert RuntimeSpec(workers=3).decoders == 3
