"""What every method of faces shares: scores under blur, a threshold from validation, predictions for own pictures."""

import pytest
from PIL import Image

from ommatid.data.worlds.faces import FaceWorld
from ommatid.errors import InputError
from ommatid.nn.blur import gaussian_blur
from ommatid.recognition.face_data import FaceData
from ommatid.recognition.face_recogniser import FaceRecogniser, gallery_of
from ommatid.recognition.face_scores import compared, verification_scores

SMALL = {"train": 4, "val": 12, "test": 4, "train_pictures": 3, "pictures": 4}


class Pixels(FaceRecogniser):
    """Embeds a face as its pixels."""

    def __init__(self, image_size: int = 16, channels: int = 1, test_blurs: tuple[float, ...] = (1.0, 2.0)) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def forward(self, images):
        return images.flatten(1) - 0.5


@pytest.fixture(scope="module")
def data():
    return FaceData(size=16, channels=1, world=SMALL)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces") / "faces"
    FaceWorld(**SMALL, size=16).write(root)
    return root / "train"


def test_sharp_and_blurred_pictures_are_scored(data):
    method, scores = Pixels(), Pixels().new_scores()
    batch = data.first_batch("test", 16)
    scores.update(method.identity(batch), method.score(batch))
    found = scores.compute()
    expected = verification_scores(method.embed(gaussian_blur(batch.images, 2.0)), batch.labels)
    assert found["blur 2/auc"] == pytest.approx(expected["auc"])
    assert set(found) == {f"{blur}{name}" for blur in ("", "blur 1/", "blur 2/") for name in ("TAR@FAR=1e-2", "auc")}


def test_one_pair_of_strangers_in_a_hundred_reaches_the_threshold(data):
    method = Pixels()
    method.choose_threshold(data)
    batch = data.first_batch("val", 48)
    scores, same = compared(method.embed(batch.images), batch.labels)
    strangers = scores[~same]
    passed = float((strangers >= method.threshold).float().mean())
    assert passed == pytest.approx(0.01, abs=1 / len(strangers))
    assert method.training


def test_two_pictures_are_compared_at_the_threshold(pictures):
    method = Pixels()
    same = method.predict(pictures / "00000" / "0001.png", other=pictures / "00000" / "0001.png")
    assert same.cosine == pytest.approx(1, abs=1e-5)
    assert same.same
    other = method.predict(pictures / "00000" / "0001.png", other=pictures / "00001" / "0001.png")
    first, second = (method.embed(image[None])[0] for image in other.images)
    assert other.cosine == pytest.approx(float(first @ second), abs=1e-6)
    method.threshold.fill_(other.cosine + 0.01)
    assert not method.predict(pictures / "00000" / "0001.png", other=pictures / "00001" / "0001.png").same


def test_a_gallery_is_ranked(pictures, tmp_path):
    method, probe = Pixels(), pictures / "00002" / "0003.png"
    found = method.predict(probe, gallery=pictures)
    assert sorted(name for name, _ in found.people) == ["00000", "00001", "00002", "00003"]
    cosines = [value for _, value in found.people]
    assert cosines == sorted(cosines, reverse=True)
    assert len(found.faces) == 4
    for name in ("ann", "bob"):
        Image.new("L", (9, 9), 30 if name == "ann" else 220).save(tmp_path / f"{name}.png")
    flat = method.predict(tmp_path / "bob.png", gallery=tmp_path)
    assert [name for name, _ in flat.people] == ["bob", "ann"]
    assert flat.people[0][1] == pytest.approx(1, abs=1e-5)


def test_bad_requests_are_answered_in_one_sentence(pictures, tmp_path):
    method, picture = Pixels(), pictures / "00000" / "0001.png"
    with pytest.raises(InputError, match="found neither of other and gallery, expected a second picture or a gallery"):
        method.predict(picture)
    with pytest.raises(InputError, match="found both of other and gallery"):
        method.predict(picture, other=picture, gallery=pictures)
    with pytest.raises(InputError, match=r"nobody\.png: found no such file"):
        method.predict(picture, other=tmp_path / "nobody.png")
    with pytest.raises(InputError, match="nowhere: found nothing, expected a folder"):
        gallery_of(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found no pictures, expected some of everybody"):
        gallery_of(tmp_path)
