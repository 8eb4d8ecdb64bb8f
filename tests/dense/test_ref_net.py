import numpy as np
import pytest
import torch
from PIL import Image

from dense.made import made
from ommatid.dense.category_network import CategoryNetwork
from ommatid.dense.ref_net import RefNet
from ommatid.dense.reference_data import ReferenceData
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.errors import InputError
from ommatid.losses.dice import dice_loss

WORLD = {"categories": 3, "unlabelled": 4, "val": 2, "test": 3, "source": 4}


def ref_net(**settings):
    return made(RefNet, **{"kernels": [3, 5], **settings})


@pytest.fixture(scope="module")
def data():
    return ReferenceData(size=16, shots=2, batch_size=4, labelled_batch=4, world=WORLD)


@pytest.fixture(scope="module")
def batch(data):
    return data.first_batch("test", 6)


def test_what_is_found_depends_on_the_reference(batch):
    method = ref_net().eval()
    found = method(batch)
    assert found.shape == (6, 1, 16, 16)
    other = method(type(batch)(**{**vars(batch), "references": batch.references.flip(0)}))
    assert not torch.allclose(found, other)


def test_neither_the_masks_nor_the_category_are_looked_at(batch):
    method = ref_net().eval()
    blind = type(batch)(
        **{
            **vars(batch),
            "masks": torch.zeros_like(batch.masks),
            "maps": torch.zeros_like(batch.maps),
            "category": torch.zeros_like(batch.category),
        }
    )
    assert torch.equal(method(batch), method(blind))


def test_the_same_reference_twice_is_the_reference(batch):
    method = ref_net().eval()
    twice = type(batch)(
        **{
            **vars(batch),
            "references": batch.references.repeat(1, 2, 1, 1, 1),
            "reference_masks": batch.reference_masks.repeat(1, 2, 1, 1, 1),
        }
    )
    torch.testing.assert_close(method(batch), method(twice), rtol=1e-4, atol=1e-5)


def test_supervision_is_overlap_and_cross_entropy_of_known_pixels(batch):
    predicted = torch.rand(6, 1, 16, 16)
    valid = torch.rand(6, 1, 16, 16) > 0.3
    known = type(batch)(**{**vars(batch), "valid": valid})
    entropy = torch.nn.functional.binary_cross_entropy(predicted[valid], batch.masks[valid])
    expected = dice_loss(predicted, batch.masks, valid) + entropy
    torch.testing.assert_close(ref_net().supervision(predicted, known), expected)


def test_what_was_found_can_be_asked_to_look_like_the_reference(batch):
    method = ref_net(consistency_weight=1.0)
    predicted = batch.masks.clone().requires_grad_()
    plain = ref_net().supervision(predicted, batch)
    method.load_state_dict(ref_net().state_dict())
    more = method.supervision(predicted, batch)
    torch.testing.assert_close(more - plain, method.inconsistency(predicted, batch), rtol=1e-4, atol=1e-5)
    assert method.inconsistency(predicted, batch) > 0


def test_critics_are_not_asked_about_empty_masks():
    method = ref_net()
    predicted = torch.full((3, 1, 16, 16), 0.1)
    predicted[1, 0, 3, 3] = 0.7
    assert method.worth_judging(predicted).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(lambda: ref_net(paste=1.0), id="ref-net"),
        pytest.param(
            lambda: CategoryNetwork(categories=3, image_size=16, network="unet", widths=[4, 8], paste=1.0), id="rival"
        ),
    ],
)
def test_images_are_pasted_with_all_their_objects(method, data):
    """Not only with those that are asked for: the others are what these have to be told from."""
    torch.manual_seed(0)
    step = next(iter(data.train_dataloader()))
    changed, few = method().composited(step), step.labelled
    objects = (few.maps > 0)[:, None].expand_as(few.images)
    assert torch.equal(changed.images[objects], few.images[objects])
    assert not torch.equal(changed.images[~objects], few.images[~objects])
    for name in ("maps", "masks", "references", "reference_masks"):
        assert torch.equal(getattr(changed, name), getattr(few, name)), name


def test_a_step_makes_finite_updates_of_critics_and_segmenter(data):
    seen = {}

    class Noted(RefNet):
        share_done = 1.0

    method = made(Noted, kernels=[3, 5], adversarial_every=1)
    method.update = lambda *names, loss: seen.setdefault(names, []).append(float(loss.detach()))
    method.report = lambda **parts: None
    method.training_step(next(iter(data.train_dataloader())), 0)
    assert [len(losses) for losses in seen.values()] == [1, 2]
    assert all(np.isfinite(losses).all() for losses in seen.values())


def outlined(folder, name, size=(24, 30), box=(5, 15)):
    pixels = np.full((*size, 3), 30, dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    pixels[box[0] : box[1], box[0] : box[1]] = (200, 40, 40)
    mask[box[0] : box[1], box[0] : box[1]] = 255
    Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}.mask.png")
    return str(folder / f"{name}.png"), str(folder / f"{name}.mask.png")


def test_your_own_reference_is_looked_for_in_your_own_image(tmp_path):
    image, _ = outlined(tmp_path, "image", (40, 50))
    first, second = outlined(tmp_path, "one"), outlined(tmp_path, "two", box=(8, 20))
    found = ref_net().predict(image, [first[0], second[0]], [first[1], second[1]])
    assert found.mask.shape == (40, 50)
    found.draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size == (50, 40)


def test_an_outline_smaller_than_a_pixel_is_not_lost(tmp_path):
    image, _ = outlined(tmp_path, "image", (40, 50))
    reference, mask = outlined(tmp_path, "one", (320, 320), box=(41, 43))
    method, seen = ref_net(), []
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    method.predict(image, [reference], [mask])
    (shown,) = seen
    assert shown.sum() == pytest.approx(4 / 20**2, rel=1e-4)


def test_mistakes_are_told_in_one_sentence(tmp_path):
    image, _ = outlined(tmp_path, "image")
    reference, mask = outlined(tmp_path, "one")
    with pytest.raises(InputError, match="references: found 1 with 0 masks, expected one or more with a mask each"):
        ref_net().predict(image, [reference], [])
    _, other = outlined(tmp_path, "other", (10, 30))
    with pytest.raises(InputError, match=r"found a mask of 10 x 30 pixels \(height x width\), expected 24 x 30"):
        ref_net().predict(image, [reference], [other])
    Image.fromarray(np.zeros((24, 30), dtype=np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"empty.png: found nothing outlined, expected an object"):
        ref_net().predict(image, [reference], [str(tmp_path / "empty.png")])
    with pytest.raises(InputError, match=r"threshold must lie in \[0, 1\], found 2"):
        ref_net().predict(image, [reference], [mask], threshold=2.0)


def test_the_export_is_the_method(batch):
    method = ref_net().eval()
    network, example, inputs, _ = method.exportable()
    assert inputs == ("images", "references", "reference_masks")
    images, references, masks = example
    expected = method.activated(method.network(images, references, masks))
    assert expected.shape == (1, 1, 16, 16)
    torch.testing.assert_close(network(*example), expected)


def test_the_published_size_builds():
    with torch.device("meta"):
        method = build(RefNet, {})
    assert method.network.conditioning.project[0].in_channels == 2 * 2048 + 1


# --- the rival with one output for each category ---


def rival():
    torch.manual_seed(0)
    return CategoryNetwork(categories=3, image_size=16, network="unet", widths=[4, 8])


def test_the_rival_answers_with_the_probability_of_the_category(batch):
    method = rival().eval()
    found = method(batch)
    every = method.network(batch.images).softmax(dim=1)
    for row, category in enumerate(batch.category.tolist()):
        torch.testing.assert_close(found[row, 0], every[row, category])
    assert list(method.phases()) == ["segmenter"]


def test_the_rival_learns_from_all_categories_at_once(batch):
    method = rival()
    loss = method.labelled_loss(batch)
    expected = torch.nn.functional.cross_entropy(method.network(batch.images), batch.maps, ignore_index=255)
    torch.testing.assert_close(loss, expected)


def test_the_rival_has_an_output_for_every_category(data):
    assert CategoryNetwork.arguments_from(data) == {"image_size": 16, "categories": 3}


@pytest.mark.parametrize(
    ("claim", "arm"), [(claim, arm) for claim in RefNet.claims for arm in claim.arms if "3" not in arm]
)
def test_every_arm_trains_and_is_scored(claim, arm):
    given = claim.arms[arm]
    model = merge(claim.model, given.model, {"widths": [4, 8]})
    small = {"world": {**WORLD, "categories": 12 if "12" in arm else 3}, "size": 16, "steps_per_epoch": 2}
    data = merge(claim.data, given.data, small, {"batch_size": 4, "labelled_batch": 2, "shots": 1})
    job = Job(given.method or "ommatid.dense.ref_net:RefNet", model, data, {"max_epochs": 2}, 0, "test")
    assert set(claim.shown) <= set(run_job(job).metrics)
