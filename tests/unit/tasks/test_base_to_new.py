"""Base-to-new: which images are trained on, what is compared with what, and the harmonic mean."""

import numpy as np
import pytest
import torch

from peftbench.data.fewshot.draw import COOP, few_shot
from peftbench.data.halves import base_classes, num_base
from peftbench.data.sources.digits import Digits
from peftbench.tasks.halves import HalvesMeter, harmonic


@pytest.mark.parametrize(
    ("classes", "base"), [(1000, 500), (100, 50), (37, 19), (101, 51), (397, 199), (47, 24), (10, 5), (102, 51)]
)
def test_the_middle_class_is_base(classes, base):
    assert num_base(classes) == base


def test_the_draw_is_made_over_all_classes_and_then_cut():
    whole = few_shot(Digits().open(), 4, 1, "m", COOP)
    halved = base_classes(whole)
    drawn, kept = whole.split("fewshot"), halved.split("fewshot")
    of_base = np.flatnonzero(drawn.labels < 5)
    assert kept.labels.tolist() == drawn.labels[of_base].tolist() and set(kept.labels) == {0, 1, 2, 3, 4}
    assert [np.asarray(kept.read(row)).tobytes() for row in range(20)] == [
        np.asarray(drawn.read(int(row))).tobytes() for row in of_base
    ]
    assert set(halved.split("fewshot_val").labels) == {0, 1, 2, 3, 4}
    assert len(halved.split("test")) == len(whole.split("test"))
    assert (halved.membership_of("fewshot"), halved.class_names) == ("m, base classes", whole.class_names)


def test_each_image_is_compared_with_its_own_half_alone():
    logits = torch.tensor([[0.0, 1, 9], [2, 1, 9], [9, 9, 0], [1, 3, 0]])
    labels = torch.tensor([1, 1, 2, 1])
    meter = HalvesMeter(2)
    # in another order than that of the split
    meter.update(logits[2:], {"label": labels[2:], "index": torch.tensor([2, 3])})
    meter.update(logits[:2], {"label": labels[:2], "index": torch.tensor([0, 1])})
    measured = meter.result()
    assert measured.metrics["base"] == pytest.approx(2 / 3)
    assert (measured.metrics["new"], measured.metrics["n"], measured.metrics["n_new"]) == (1, 4, 1)
    assert measured.metrics["h"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert measured.predictions is not None and measured.predictions.tolist() == [1, 0, 2, 1]
    losses = [np.log1p(np.exp(-1)), np.log1p(np.exp(1)), 0, np.log1p(np.exp(-2))]
    assert measured.metrics["loss"] == pytest.approx(sum(losses) / 4)


def test_without_new_images_h_is_the_base_accuracy():
    meter = HalvesMeter(2)
    meter.update(torch.tensor([[1.0, 0, 5], [1, 0, 5]]), {"label": torch.tensor([0, 1]), "index": torch.arange(2)})
    metrics = meter.result().metrics
    assert metrics["h"] == metrics["base"] == 0.5 and "new" not in metrics


def test_the_sheets_harmonic_mean():
    assert 100 * harmonic([0.8228, 0.7514]) == pytest.approx(78.55, abs=0.005)
    assert (harmonic([0.5, 0.0]), harmonic([0.3])) == (0, pytest.approx(0.3))
