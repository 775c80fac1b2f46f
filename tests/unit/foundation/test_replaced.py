"""What stands in for torch's kernels does so inside its context alone, for all that replace some."""

from __future__ import annotations

import pytest

from peftbench.foundation import attention, matmul

needs_onednn = pytest.mark.skipif(not matmul.available(), reason="this torch carries no oneDNN")


@pytest.mark.parametrize(
    ("inside", "in_use", "other"),
    [
        pytest.param(matmul.multiplied_by, matmul.in_use, "onednn", marks=needs_onednn, id="matmul"),
        pytest.param(attention.gradients_in, attention.in_use, "float32", id="attention"),
    ],
)
def test_what_computed_before_computes_again_behind_errors_too(inside, in_use, other):
    assert in_use() == "torch"
    with inside(other):
        with inside("torch"):
            assert in_use() == "torch"
        assert in_use() == other
        with inside(other):
            pass
        assert in_use() == other
    with pytest.raises(ValueError, match="inside"), inside(other):
        raise ValueError("inside")
    assert in_use() == "torch"
