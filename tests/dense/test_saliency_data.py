"""Windows hold what the encoder saw, every frame is scored once, and mistakes are told in one sentence."""

import pickle
import shutil

import pytest
import torch

from dense.made_saliency import WORLD, Encoder, data, film
from ommatid.data import saliency_videos
from ommatid.data.worlds.sphere import SphereWorld
from ommatid.dense.saliency_data import SaliencyData, Windows, held_out, prior_maps
from ommatid.dense.saliency_scores import frame_identity, frame_scores
from ommatid.engine.settings import build
from ommatid.errors import InputError


def lent(**settings):
    module = data(**settings)
    module.encode_with(Encoder(module.height))
    return module


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("sphere") / "wild360"
    SphereWorld(**{**WORLD, "train": 4}, height=32).write(root)
    return root


def test_windows_show_the_tokens_of_their_frames():
    module = lent()
    windows = module.dataset("train")
    clips = SphereWorld(**WORLD, height=32).split("train")
    assert len(windows) == 2 * 3
    patches, cls = Encoder().encode(clips.frames[1])
    sample = windows[4]
    assert (sample.video, sample.start) == (1, 3)
    torch.testing.assert_close(sample.patches, patches[3:6])
    torch.testing.assert_close(sample.cls, cls[3:6])
    assert torch.equal(sample.saliency, clips.saliency[1, 3:6])
    assert sample.valid.all()


def test_the_last_window_ends_with_the_video_and_scores_what_is_new():
    windows = lent().dataset("test")
    last = windows[2]
    assert last.start == 4
    assert last.valid.tolist() == [True] * 3
    assert last.scored.tolist() == [False, False, True]
    scored = torch.cat([torch.arange(each.start, each.start + 3)[each.scored] for each in windows if each.video == 0])
    assert scored.tolist() == list(range(7))


def test_a_video_shorter_than_a_window_is_padded():
    sample = lent(window=9).dataset("test")[0]
    assert sample.valid.tolist() == sample.scored.tolist() == [True] * 7 + [False] * 2
    assert not sample.patches[7:].any()
    assert not sample.cls[7:].any()
    assert not sample.saliency[7:].any()


def test_frames_are_encoded_once_for_one_encoder():
    module = data()
    encoder = Encoder()
    module.encode_with(encoder)
    assert module.dataset("train") is module.dataset("train")
    assert encoder.frames == 14
    module.encode_with(Encoder(shift=0.5))
    assert float(module.dataset("train")[0].cls.mean()) > 0.5


def test_videos_on_disk_give_the_windows_of_the_world(written):
    module = lent(root=str(written), map_height=32)
    assert {split: len(each) for split, each in module.videos.items()} == {"train": 3, "test": 2, "val": 1}
    world = lent(world={**WORLD, "train": 4})
    for ours, theirs in zip(module.dataset("test"), world.dataset("test"), strict=True):
        torch.testing.assert_close(ours.patches, theirs.patches, atol=0.01, rtol=0)
        torch.testing.assert_close(ours.saliency, theirs.saliency)
        assert torch.equal(ours.scored, theirs.scored)
    assert module.map_size == (32, 64)
    assert SaliencyData(str(written)).map_size == (120, 240)


def test_training_videos_without_maps_are_not_scored(written):
    module = lent(root=str(written), map_height=32)
    batch = module.first_batch("train", 2)
    assert not batch.scored.any()
    assert not batch.saliency.any()
    assert set(module.baselines("test")) == {"uniform", "centre", "equator"}
    assert module.baselines("val") == {}


def test_tokens_of_files_are_kept_and_found_again(written, tmp_path):
    first, second = Encoder(), Encoder()
    for encoder in (first, second):
        module = data(root=str(written), cache=str(tmp_path / "tokens"))
        module.encode_with(encoder)
        module.dataset("test")
    assert (first.frames, second.frames) == (14, 0)
    assert len(list((tmp_path / "tokens").rglob("*.npy"))) == 2


def test_a_folder_of_ones_own_may_have_maps_or_none(tmp_path):
    for number in range(3):
        film(tmp_path / f"own{number}.mp4", frames=4, seed=number)
    module = lent(root=str(tmp_path))
    assert {split: len(each) for split, each in module.videos.items()} == {"train": 1, "test": 1, "val": 1}
    assert not module.first_batch("test", 1).scored.any()
    assert module.describe()["name"].endswith("(folder)")


def test_frames_of_a_video_are_counted_once(written, monkeypatch):
    counted, count = [], saliency_videos.count_frames
    monkeypatch.setattr(saliency_videos, "count_frames", lambda path: counted.append(path) or count(path))
    windows = lent(root=str(written), map_height=32).dataset("test")
    assert [each.start for each in windows] == [0, 3, 4, 0, 3, 4]
    assert len(counted) == len(set(counted)) == 2


def test_a_method_gets_windows_of_its_size():
    module = lent()
    module.dataset("test")
    module.use(16, 2)
    module.encode_with(Encoder(16))
    sample = module.dataset("test")[0]
    assert len(sample.patches) == 2
    assert sample.saliency.shape == (2, 16, 32)


def test_a_batch_is_its_windows_one_above_the_other():
    module = lent()
    windows = module.dataset("train")
    found = module.collate([windows[5], windows[0]])
    assert found.video.tolist() == [1, 0]
    assert found.start.tolist() == [4, 0]
    assert torch.equal(found.patches[1], windows[0].patches)


def test_loaders_of_other_processes_need_no_encoder():
    """Windows and how they become a batch can be sent; the network stays where it is."""
    module = lent()
    windows = pickle.loads(pickle.dumps(module.dataset("train")))
    assert isinstance(windows, Windows)
    assert torch.equal(windows[1].patches, module.dataset("train")[1].patches)
    assert pickle.loads(pickle.dumps(module.collate)) is SaliencyData.collate


def test_baselines_are_scores_of_fixed_maps():
    module = data()
    found = module.baselines("test")
    assert set(found) == {"uniform", "centre", "equator", "mean map of training"}
    assert found["uniform"]["CC"] == 0
    assert found["uniform"]["AUC_Judd"] == 0.5
    clips = SphereWorld(**WORLD, height=32).split("test")
    guess = prior_maps((32, 64))["equator"].expand(14, 32, 64)
    identity = frame_identity(torch.arange(2).repeat_interleave(7), torch.arange(7).repeat(2))
    expected = frame_scores(guess, clips.saliency.flatten(0, 1), identity)
    assert found["equator"]["CC"] == pytest.approx(float(expected["CC"].mean()), abs=1e-6)
    assert found["equator"]["AUC_Borji"] == pytest.approx(float(expected["AUC_Borji"].mean()), abs=1e-6)


def test_priors_are_highest_where_they_should_be():
    maps = prior_maps((32, 64))
    assert maps["centre"].flatten().topk(4).indices.sort().values.tolist() == [991, 992, 1055, 1056]
    assert maps["equator"].sum(dim=1).argsort(descending=True)[:2].sort().values.tolist() == [15, 16]
    assert maps["uniform"].unique().tolist() == [1]


def test_parts_held_out_never_overlap():
    rest, part = held_out(list(range(10)), 5)
    assert (rest, part) == ([0, 1, 2, 3, 5, 6, 7, 8], [4, 9])
    assert held_out([1, 2], 5) == ([1], [2])
    with pytest.raises(InputError, match="train: found 1 video, expected at least 3"):
        held_out([1], 5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"root": "/nowhere"}, "/nowhere: no such folder, expected videos shot all around"),
        ({"window": 0}, "window must be at least 1, found 0"),
        ({"height": 0}, "height must be at least 1, found 0"),
        ({}, "encoder: found none, expected a method to lend its own"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        data(**settings).dataset("train")


def test_names_from_the_command_line_are_checked():
    with pytest.raises(InputError, match="embedded"):
        build(SaliencyData, {"embedded": "world-clouds"})


def test_a_faulty_list_of_wild360_is_named(written, tmp_path):
    shutil.copytree(written, tmp_path / "wild360")
    (tmp_path / "wild360" / "data" / "train" / "train_0001.mp4").unlink()
    with pytest.raises(InputError, match=r"train_0001\.mp4: found no such video"):
        lent(root=str(tmp_path / "wild360")).dataset("train")
