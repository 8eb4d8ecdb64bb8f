"""ECRL: what changed videos teach, and that prediction knows nothing of them."""

import pytest
import torch

from grounding.made import learn_by_heart, made_batch, silent, size
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.augment import Speeds, plan_times
from ommatid.grounding.data import GroundingData
from ommatid.grounding.ecrl import ECRL, best_spans, equivariance_loss
from ommatid.grounding.heads import DenseRegression

SMALL = {
    "feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "steps": 8, "hidden_dim": 8, "projection_dim": 4,
    "encoder": "conv", "dropout": 0.0,
}  # fmt: skip
BASE = {"augment": False}


def small(**settings):
    torch.manual_seed(0)
    method = silent(ECRL(**{**SMALL, **settings}))
    method.words.vectors.normal_()
    return method


@pytest.fixture
def batch():
    return made_batch()


def test_full_size_has_the_familys_encoders_and_little_more():
    full, base = ECRL(), ECRL(augment=False)
    refine = 2 * (500 * 5 + 500) + 2 * 500 + 4 * (500 * 500 + 500)
    projection = 512 * 512 + 512 + 512 * 128 + 128
    assert size(full) == size(base) + refine + projection


def test_every_parameter_learns(batch):
    method = small()
    torch.manual_seed(3)
    method.training_step(batch, 0).backward()
    for name, parameter in method.named_parameters():
        if name != "words.unknown":
            assert (parameter.grad != 0).any(), name


def test_parts_can_be_left_out(batch):
    base = small(**BASE)
    assert base.refine is None
    assert base.projection is None
    alone = small(consistency_weight=0.0, equivariance_weight=0.0, refine_weight=0.0)
    assert size(alone) == size(base)
    seen = {}
    alone.report = lambda **parts: seen.update(parts)
    alone.training_step(batch, 0)
    assert set(seen) == {"loss", "grounding"}
    small().report = seen.update
    full = small()
    full.report = lambda **parts: seen.update(parts)
    full.training_step(batch, 0)
    assert {"refinement", "consistency", "equivariance"} < set(seen)


def test_without_changes_both_views_are_the_same(batch):
    still = Speeds((1.0, 1.0), (1.0, 1.0), 0.0, 0.0)
    method = small(speeds=still, feature_noise=0.0, refine_weight=0.0)
    changed, original = method.changed(batch, plan_times(batch.video_mask, batch.span, still)), method.original(batch)
    torch.testing.assert_close(changed.video, original.video)
    torch.testing.assert_close(changed.span[1], torch.tensor([0.5, 1.0]))  # four clips: snapped to whole ones


def test_seams_are_where_pieces_meet(batch):
    method = small(steps=40)
    torch.manual_seed(1)
    plan = plan_times(batch.video_mask, batch.span)
    view = method.changed(batch, plan)
    for row in range(3):
        pieces = plan.piece[row][plan.mask[row]].unique()
        assert int(view.seams[row].sum()) == len(pieces) - 1


def test_prediction_does_not_depend_on_chance_or_padding(batch):
    method = small().eval()
    first, second = method(batch), method(batch)
    assert torch.equal(first.spans, second.spans)
    one = batch[1:2]
    one.video, one.video_mask = one.video[:, :4], one.video_mask[:, :4]
    torch.testing.assert_close(method(one).spans, first.spans[1:2])


def test_the_better_prediction_stands_still(batch):
    plan = plan_times(batch.video_mask, batch.span, Speeds((1.0, 1.0), (1.0, 1.0), 0.0, 0.0))
    good = batch.span.clone().requires_grad_()
    poor = torch.tensor([[0.6, 0.9], [0.0, 0.2], [0.4, 0.5]], requires_grad=True)
    equivariance_loss(good, poor, batch.span, batch.span, plan).backward()
    assert good.grad is None or (good.grad == 0).all()
    assert (poor.grad != 0).any()


def test_the_best_span_is_that_of_the_surest_step():
    spans = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]])
    found = DenseRegression(
        torch.tensor([[0.0, 2.0, 5.0]]), spans, torch.zeros(1, 3), torch.tensor([[True, True, False]])
    )
    assert best_spans(found)[0].tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize(
    ("settings", "told"), [({"steps": 1}, "steps must be at least 2"), ({"sigma": 0.0}, "sigma must be above 0")]
)
def test_bad_settings_are_told(settings, told):
    with pytest.raises(InputError, match=told):
        small(**settings)


def test_one_batch_is_learnt_by_heart(batch):
    method = small(hidden_dim=16, feature_noise=0.0)
    found = learn_by_heart(method, batch, torch.optim.Adam(method.parameters(), lr=1e-2), steps=150)
    assert (found - batch.span).abs().max() < 0.2


def test_the_equivariance_error_is_read_out_and_repeatable():
    data = GroundingData(train_videos=8, test_videos=4, steps=8, batch_size=8)
    method = silent(build(ECRL, {**SMALL, **ECRL.arguments_from(data)}))
    method.adopt(data)
    first = method.read_outs(data)
    assert 0 < first["equivariance_error"] < 2
    assert first == method.read_outs(data)
    assert method.hparams.steps == 8
