"""Detection average precision against the definition written out with loops, and at its edges."""

import pytest
import torch
from sklearn.metrics import average_precision_score

from ommatid.errors import InputError
from ommatid.grounding.detection import TIOUS, Detections, DetectionScores, detection_ap
from ommatid.grounding.emotion_task import EmotionBatch, EmotionMoments


def moments(count, videos, classes, seed, scored):
    draw = torch.Generator().manual_seed(seed)
    start = 10 * torch.rand(count, generator=draw, dtype=torch.float64)
    spans = torch.stack([start, start + 0.5 + 5 * torch.rand(count, generator=draw, dtype=torch.float64)], dim=1)
    video = torch.randint(videos, (count,), generator=draw)
    label = torch.randint(classes, (count,), generator=draw)
    return Detections(video, label, spans, torch.rand(count, generator=draw) if scored else None)


def tiou(one, two):
    shared = max(min(one[1], two[1]) - max(one[0], two[0]), 0.0)
    return shared / ((one[1] - one[0]) + (two[1] - two[0]) - shared)


def written_out(found, true, label, limit):
    """Rank, match greedily, and average the best precision at or after every hit."""
    free = {i for i in range(len(true.label)) if true.label[i] == label}
    count = len(free)
    ranked = [i for i in found.scores.argsort(descending=True).tolist() if found.label[i] == label]
    hits = []
    for i in ranked:
        near = [j for j in free if true.video[j] == found.video[i]]
        best = max(near, key=lambda j: tiou(found.spans[i].tolist(), true.spans[j].tolist()), default=None)
        hit = best is not None and tiou(found.spans[i].tolist(), true.spans[best].tolist()) >= limit
        hits.append(hit)
        free -= {best} if hit else set()
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    return sum(max(precision[i:]) for i, hit in enumerate(hits) if hit) / count


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_definition_says(seed):
    found, true = moments(120, 5, 3, seed, scored=True), moments(40, 5, 3, seed + 100, scored=False)
    ap = detection_ap(found, true, classes=3)
    for label in range(3):
        for column, limit in enumerate(TIOUS):
            assert ap[label, column].item() == pytest.approx(written_out(found, true, label, limit), abs=1e-6)


def test_finding_everything_first_is_perfect():
    true = moments(12, 3, 2, 0, scored=False)
    found = Detections(true.video, true.label, true.spans, torch.ones(12))
    assert torch.equal(detection_ap(found, true, 2, (0.5, 1.0)), torch.ones(2, 2))


def test_a_moment_can_be_found_once():
    true = Detections(torch.tensor([0]), torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
    spans, scores = torch.tensor([[0.0, 0.6], [0.0, 1.0]]), torch.tensor([0.9, 0.1])
    twice = Detections(torch.tensor([0, 0]), torch.tensor([0, 0]), spans, scores)
    assert detection_ap(twice, true, 1, (0.5,)).item() == 1.0
    # Not good enough at this overlap, the surer one is a false alarm before the hit.
    assert detection_ap(twice, true, 1, (0.7,)).item() == 0.5


def test_a_class_that_never_occurs_has_no_precision_and_one_never_found_has_none():
    true = Detections(torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.0, 1.0]]))
    found = Detections(torch.tensor([0]), torch.tensor([0]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    ap = detection_ap(found, true, 3, (0.5,))[:, 0]
    assert ap.isnan().tolist() == [True, False, True]
    assert ap[1] == 0


def test_nothing_found_scores_zero():
    true = moments(5, 2, 1, 0, scored=False)
    none = Detections(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 2), torch.zeros(0))
    assert detection_ap(none, true, 1).tolist() == [[0.0] * len(TIOUS)]


def test_bad_input_is_said_in_one_sentence():
    true = moments(5, 2, 3, 0, scored=False)
    with pytest.raises(InputError, match=r"^found: has no scores, expected one for each moment$"):
        detection_ap(true, true, 3)
    with pytest.raises(InputError, match=r"^found: a label is outside 0 to 0$"):
        detection_ap(moments(5, 2, 3, 0, scored=True), true, 1)


# --- the score of a split ---


def clips(count=6, classes=3, seed=0):
    """A batch of annotated clips and moments found in them, some entries fillers."""
    draw = torch.Generator().manual_seed(seed)

    def spans(number):
        start = 10 * torch.rand(count, number, generator=draw)
        return torch.stack([start, start + 1 + 5 * torch.rand(count, number, generator=draw)], dim=-1)

    true_labels = torch.randint(-1, classes, (count, 4), generator=draw)
    found_labels = torch.randint(-1, classes, (count, 9), generator=draw)
    scores = torch.rand(count, 9, generator=draw).masked_fill(found_labels < 0, float("-inf"))
    labels = torch.stack([(true_labels == label).any(dim=1) for label in range(classes)], dim=1).float()
    none = torch.zeros(count, 1)
    batch = EmotionBatch(
        video=none[..., None], text=none[..., None], mask=none > 0, seen=none > 0, heard=none > 0,
        times=torch.zeros(count, 1, 2), labels=labels, votes=labels, true_spans=spans(4), true_labels=true_labels,
        clip=torch.arange(count),
    )  # fmt: skip
    presence = torch.rand(count, classes, generator=draw)
    return batch, EmotionMoments(spans(9), found_labels, scores, presence)


def collected(batch, moments, *parts):
    scores = DetectionScores()
    for part in parts:
        scores.update(batch.clip[part], scores.rows(batch[part], moments[part]))
    return scores.compute()


def test_a_split_is_scored_as_one_ranking_whatever_its_batches():
    batch, moments = clips()
    whole = collected(batch, moments, slice(0, 6))
    assert collected(batch, moments, slice(0, 2), slice(2, 6)) == pytest.approx(whole)
    rows = DetectionScores.rows(batch, moments)
    found, true = rows["found"], rows["true"]
    table = detection_ap(
        Detections(found[:, 0].long(), found[:, 1].long(), found[:, 2:4].float(), found[:, 4].float()),
        Detections(true[:, 0].long(), true[:, 1].long(), true[:, 2:4].float()),
        3,
    )
    assert whole["mAP"] == pytest.approx(float(table.mean()))
    assert whole["mAP@0.5"] == pytest.approx(float(table[:, TIOUS.index(0.5)].mean()))
    assert whole["1/mAP"] == pytest.approx(float(table[1].mean()))


def test_clips_that_a_distributed_sampler_repeats_count_once():
    batch, moments = clips()
    assert collected(batch, moments, slice(0, 6), slice(0, 3)) == collected(batch, moments, slice(0, 6))


def test_clip_level_precision_is_scikit_learns():
    batch, moments = clips()
    expected = average_precision_score(batch.labels.numpy(), moments.presence.numpy(), average="macro")
    assert collected(batch, moments, slice(0, 6))["clip_mAP"] == pytest.approx(float(expected))


def test_without_annotated_moments_only_clips_are_scored():
    batch, moments = clips()
    batch.true_labels = torch.full_like(batch.true_labels, -1)
    assert set(collected(batch, moments, slice(0, 6))) == {"clip_mAP"}
    assert DetectionScores().compute() == {}


def test_classes_are_called_by_their_names():
    batch, moments = clips()
    scores = DetectionScores()
    scores.classes = ("anger", "joy", "peace")
    scores.update(batch.clip, scores.rows(batch, moments))
    assert {"anger/mAP", "joy/mAP", "peace/mAP"} < scores.compute().keys()
