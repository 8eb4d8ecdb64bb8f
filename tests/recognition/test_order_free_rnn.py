"""The order-free recogniser: two stages, orders to be taught, a threshold from validation, and where it looked."""

import pytest
import torch

from ommatid.engine.fit import fit
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.recognition.label_data import LabelData
from ommatid.recognition.order_free_rnn import THRESHOLDS, OrderFreeRNN

ORDERS = ("free", "remaining", "best remaining", "frequent first", "rare first", "none")
WORLD = {"train": 64, "val": 32, "test": 16}


@pytest.fixture(scope="module")
def data():
    return LabelData(size=48, fit="squash", batch_size=16, world=WORLD)


def method(data=None, **settings):
    torch.manual_seed(0)
    known = {} if data is None else OrderFreeRNN.arguments_from(data)
    small = {"backbone": "small", "hidden_dim": 16, "attention_dim": 8, "dropout": 0.0}
    made = build(OrderFreeRNN, {**known, **small, **settings})
    made.report = lambda **_: None
    return made


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_can_be_learnt(order, data):
    made, batch = method(data, order=order), data.first_batch("train")
    made.adopt(data)
    loss = made.training_step(batch, 0)
    loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in made.parameters())
    # Seen once more, the same batch is known better.
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        made.training_step(batch, 0).backward()
        optimizer.step()
    assert float(made.training_step(batch, 0)) < 0.9 * float(loss)


def test_the_first_stage_is_an_ordinary_classifier(data):
    made, batch = method(data, order="none"), data.first_batch("test")
    logits = made(batch.images)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.float())
    torch.testing.assert_close(made.training_step(batch, 0), expected)
    predicted, scores = made.eval().decide(batch.images)
    torch.testing.assert_close(scores, made(batch.images).sigmoid())
    assert torch.equal(predicted, scores >= made.theta)


def test_training_begins_with_the_first_stage_and_ends_with_a_threshold(data):
    seen = []

    class Watched(OrderFreeRNN):
        def decoding_loss(self, *arguments):
            seen.append(self.global_step)
            return super().decoding_loss(*arguments)

    torch.manual_seed(0)
    settings = {"backbone": "small", "hidden_dim": 16, "attention_dim": 8, "first_stage": 0.5}
    made = build(Watched, {**OrderFreeRNN.arguments_from(data), **settings})
    fit(made, data, trainer={"max_steps": 8, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert min(seen) == 4
    assert float(made.theta) in [pytest.approx(value) for value in THRESHOLDS]


def test_a_given_threshold_stays(data):
    made = method(data, threshold=0.37)
    fit(made, data, trainer={"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert float(made.theta) == pytest.approx(0.37)


def test_the_chosen_threshold_is_the_best_of_the_grid(data):
    from ommatid.recognition.multilabel import multilabel_scores

    made = method(data, order="none").eval()
    torch.nn.init.normal_(made.classifier.weight, generator=torch.Generator().manual_seed(1))
    made.choose_threshold(data)
    batch = data.first_batch("val", 32)
    scores = made(batch.images).sigmoid()
    values = {value: float(multilabel_scores(scores >= value, batch.labels)["OF1"]) for value in THRESHOLDS}
    assert values[min(THRESHOLDS, key=lambda each: abs(each - float(made.theta)))] == max(values.values())


def test_labels_are_never_named_twice_and_sets_are_never_empty(data):
    for order in ORDERS[:-1]:
        made, batch = method(data, order=order, beam=2).eval(), data.first_batch("test")
        made.theta.fill_(0.9)
        predicted, scores = made.decide(batch.images)
        assert predicted.any(dim=1).all()
        assert scores.shape == (16, 16)
        assert 0 <= scores.min() <= scores.max() <= 1
        logits, maps = made.see(batch.images)
        found = made.search(made.regions(maps), logits.sigmoid())
        named = [row[row >= 0].tolist() for row in found.sequence]
        assert all(
            len(set(each)) == len(each) == int(labels.sum()) for each, labels in zip(named, predicted, strict=True)
        )


def test_without_attention_there_is_one_region(data):
    made, batch = method(data, attention=False).eval(), data.first_batch("test", 2)
    _, maps = made.see(batch.images)
    assert made.regions(maps).shape == (2, 1, 64)
    torch.testing.assert_close(made.regions(maps)[:, 0], maps.mean(dim=(2, 3)))
    assert made.explain(batch.images[0])[1] is None
    assert method(data).regions(maps).shape == (2, 36, 64)


def test_it_says_where_it_looked_for_every_label(data):
    made, image = method(data).eval(), data.first_batch("test", 1).images[0]
    named, attention = made.explain(image)
    assert attention.shape == (len(named), 6, 6)
    torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(len(named)))
    assert all(0 < value < 1 for _, value in named)


def test_a_frozen_first_stage_learns_no_more(data):
    made, batch = method(data, frozen=True), data.first_batch("train")
    made.training_step(batch, 0).backward()
    assert all(value.grad is None for value in made.encoder.parameters())
    assert all(value.grad is not None for value in made.decoder.parameters())


def test_the_published_encoder_gives_49_regions_of_2048_features():
    with torch.device("meta"):
        made = OrderFreeRNN()
        logits, maps = made.see(torch.empty(1, 3, 224, 224))
    assert maps.shape == (1, 2048, 7, 7)
    assert logits.shape == (1, 80)
    assert made.decoder.cell.input_size == 2 * 80 + 2048  # the card's 2208


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"first_stage must lie from 0 to below 1, found 1\.0"):
        method(first_stage=1.0)
    with pytest.raises(InputError, match=r"threshold must lie between 0 and 1, found 2\.0"):
        method(threshold=2.0)
    with pytest.raises(InputError, match="backbone: found 'nothing'"):
        method(backbone="nothing")
