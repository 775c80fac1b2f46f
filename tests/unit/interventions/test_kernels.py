from __future__ import annotations

import pytest
import torch

from peftbench.interventions.kernels import quantile


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.995, 0.99999])
@pytest.mark.parametrize("count", [1, 2, 5, 1000])
def test_a_selected_quantile_is_that_of_the_sorted_vector(share: float, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    # entries that are equal stand on both sides of the place
    for values in (drawn, (3 * drawn).floor(), -drawn):
        torch.testing.assert_close(quantile(values, share), values.quantile(share), rtol=0, atol=1e-15)
