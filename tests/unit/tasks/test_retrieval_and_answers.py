"""Recall in both directions and VQA's accuracy, by hand and against a plain reading of their definitions."""

import itertools

import pytest
import torch

from peftbench.tasks.answers import AnswerMeter, answer_loss, scores_of, soft_scores
from peftbench.tasks.recall import RetrievalMeter, recalls


def test_recall_by_hand():
    """Three images on a circle with two texts each, of which only one lies near its image."""
    images = torch.eye(3)
    texts = torch.tensor([[1, 0.1, 0], [0, 0, 1], [0, 1, 0.1], [0.2, 1, 0], [1, 0.3, 0.2], [1.0, 0, 0.9]])
    owners = torch.tensor([0, 0, 1, 1, 2, 2])
    found = recalls(images, texts, owners, ks=(1, 2))
    # image 2 has its own text [1, 0, .9] behind the text of image 0 that lies on it; texts 1, 4, 5 prefer others
    assert found["image_to_text_r1"] == pytest.approx(2 / 3)
    assert found["image_to_text_r2"] == 1
    assert found["text_to_image_r1"] == pytest.approx(3 / 6)
    # of those three, text 5 alone has its own image second
    assert found["text_to_image_r2"] == pytest.approx(4 / 6)


def test_recall_is_what_sorting_gives_for_any_features():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(300, 4, generator=generator), torch.randn(900, 4, generator=generator)
    owners = torch.arange(900) % 300
    similarity = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    found = recalls(images, texts, owners)
    for k in (1, 5, 10):
        nearest = owners[similarity.topk(k, dim=1).indices]
        assert found[f"image_to_text_r{k}"] == pytest.approx(
            (nearest == torch.arange(300)[:, None]).any(dim=1).float().mean().item(), abs=1e-6
        )
        back = similarity.T.topk(k, dim=1).indices
        assert found[f"text_to_image_r{k}"] == pytest.approx(
            (back == owners[:, None]).any(dim=1).float().mean().item(), abs=1e-6
        )


def test_equal_features_retrieve_nothing_and_own_texts_never_stand_in_each_other_s_way():
    same = recalls(torch.ones(20, 3), torch.ones(40, 3), torch.arange(40) // 2)
    assert same["mean_recall"] == 0
    alone = recalls(torch.eye(2), torch.eye(2).repeat_interleave(3, dim=0), torch.arange(6) // 3, ks=(1,))
    assert alone["mean_recall"] == 1


def test_the_meter_pools_all_batches_and_leaves_padding_out():
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(10, 5, generator=generator), torch.randn(10, 3, 5, generator=generator)
    counts = torch.tensor([3, 1, 2, 3, 3, 2, 1, 3, 2, 1])
    meter = RetrievalMeter()
    for rows in (slice(0, 6), slice(6, 10)):
        meter.update((images[rows], texts[rows]), {"captions": counts[rows]})
    kept = [(row, text) for row in range(10) for text in range(counts[row])]
    flat = torch.stack([texts[row, text] for row, text in kept])
    measured = meter.result()
    assert measured.metrics == {
        **recalls(images, flat, torch.tensor([row for row, _ in kept])),
        "n": 10,
        "num_texts": int(counts.sum()),
    }


def test_soft_scores_are_the_mean_over_nine_of_ten_annotators():
    for given in range(11):
        answers = [1] * given + [0] * (10 - given)
        subsets = itertools.combinations(range(10), 9)
        scores = [min(1.0, sum(answers[one] for one in subset) / 3) for subset in subsets]
        assert float(soft_scores(torch.tensor(given))) == pytest.approx(sum(scores) / 10)
        assert float(soft_scores(torch.tensor(given))) == pytest.approx(min(1.0, 0.3 * given))


def test_vqa_accuracy_is_the_mean_score_of_the_chosen_answers():
    # what ten annotators gave of three answers, -1 for others
    answers = torch.tensor([[1] * 2 + [2] * 8, [0] * 3 + [-1] * 7, [-1] * 10, [0, 1, 2] + [-1] * 7])
    assert torch.equal(scores_of(answers, 3), soft_scores(torch.tensor([[0, 2, 8], [3, 0, 0], [0, 0, 0], [1, 1, 1]])))
    logits = torch.tensor([[0.0, 1, 0], [2, 0, 0], [0, 0, 1], [0, 0, 3]])
    meter = AnswerMeter()
    # in another order than that of the split
    meter.update(logits[2:], {"answers": answers[2:], "index": torch.tensor([2, 3])})
    meter.update(logits[:2], {"answers": answers[:2], "index": torch.tensor([0, 1])})
    measured = meter.result()
    assert measured.metrics["vqa_accuracy"] == pytest.approx((0.6 + 0.9 + 0 + 0.3) / 4)
    assert (measured.metrics["unanswerable"], measured.metrics["n"]) == (0.25, 4)
    assert measured.predictions is not None and measured.predictions.tolist() == [1, 0, 2, 2]


def test_the_loss_sums_over_answers():
    logits, scores = torch.zeros(2, 3), torch.tensor([[0.0, 0.3, 1], [0, 0, 0]])
    assert float(answer_loss(logits, scores)) == pytest.approx(3 * 0.6931472)
