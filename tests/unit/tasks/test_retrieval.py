"""The contrastive loss of images with several captions, against one pair after the other by hand."""

import pytest
import torch

from peftbench.contracts.backbones import make
from peftbench.foundation.errors import NotApplicable
from peftbench.tasks.base import Classes
from peftbench.tasks.retrieval import Retrieval, contrastive_loss


def by_hand(images, texts, ids, counts):
    pairs = [(i, t) for i in range(len(images)) for t in range(counts[i])]
    words = {(i, t): tuple(ids[i, t].tolist()) for i, t in pairs}
    total = 0.0
    for i, t in pairs:
        own = images[i] @ texts[i, t]
        others = [images[i] @ texts[p] for p in pairs if p[0] != i and words[p] != words[i, t]]
        total += torch.stack([own, *others]).logsumexp(0) - own
        free = [k for k in range(len(images)) if k != i and words[i, t] not in {words[p] for p in pairs if p[0] == k}]
        total += torch.stack([own, *(images[k] @ texts[i, t] for k in free)]).logsumexp(0) - own
    return total / (2 * len(pairs))


def test_every_caption_is_a_pair_and_what_is_as_true_is_no_negative():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    texts = torch.randn(4, 3, 6, generator=generator, dtype=torch.float64).requires_grad_(True)
    # captions of two words out of three, so that some are equal
    ids, counts = torch.randint(3, (4, 3, 2), generator=generator), torch.tensor([3, 1, 2, 3])
    loss = contrastive_loss(images, texts, ids, counts)
    torch.testing.assert_close(loss, by_hand(images, texts, ids, counts))
    loss.backward()
    padding = torch.arange(3)[None] >= counts[:, None]
    assert texts.grad is not None and texts.grad[padding].abs().sum() == 0 and texts.grad[~padding].abs().min() > 0


def test_one_caption_each_gives_clip_s_loss():
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(5, 4, generator=generator), torch.randn(5, 1, 4, generator=generator)
    ids = torch.arange(5).view(5, 1, 1)
    logits, target = images @ texts[:, 0].T, torch.arange(5)
    both = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, ids, torch.ones(5, dtype=torch.int64)), both)


def test_a_backbone_that_reads_no_texts_is_refused():
    with pytest.raises(NotApplicable, match="backbone=pair_micro"):
        Retrieval().prepare(make("vit_cls"), Classes.numbered(1))
