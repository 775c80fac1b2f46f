"""A head that drops features in training: the same tensors, the same answers in evaluation."""

from __future__ import annotations

import pytest
import torch

from peftbench.contracts.backbones import BUILDERS
from peftbench.foundation.errors import ConfigError
from peftbench.tasks.base import Classes
from peftbench.tasks.model import Classifier, DroppingHead, drop_ahead_of_head
from peftbench.tasks.segmentation import Segmentation


def test_a_share_of_the_features_is_dropped_in_training_alone() -> None:
    model = Classifier(BUILDERS["vit_cls"](), 5, seed=0)
    names, images = list(model.state_dict()), torch.randn(2, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        before = model(images)
        drop_ahead_of_head(model, 0.25, "classification")
        assert torch.equal(model.eval()(images), before) and list(model.state_dict()) == names
    head = DroppingHead(torch.nn.Linear(1000, 1000, bias=False), 0.25).train()
    torch.nn.init.eye_(head.weight)
    found = head(torch.ones(200, 1000))
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert found.count_nonzero().item() / found.numel() == pytest.approx(0.75, abs=0.01)


def test_heads_that_read_maps_have_no_features_to_drop() -> None:
    model = Segmentation().model(BUILDERS["vit_cls"](), Classes.numbered(3), 0)
    with pytest.raises(
        ConfigError, match=r"train\.head_dropout is of task=classification, and this is task=segmentation"
    ):
        drop_ahead_of_head(model, 0.5, "segmentation")
