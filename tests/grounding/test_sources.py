"""Where data come from: the world in memory and the same world as files tell the same."""

import json

import numpy as np
import pytest
import torch

from ommatid.data.text import Vocabulary, tokenize
from ommatid.data.video import Extractor
from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.errors import InputError
from ommatid.grounding.sources import NAMELESS_DIM, FolderSource, MemoryStore, WorldSource, nameless_vectors

SIZES = {"train_videos": 8, "val_videos": 4, "test_videos": 3}
VIEW_OF = {"cg": "cg", "unsupervised": "unsupervised", "glance": "glance"}
# How exactly each format writes times, in seconds.
PRECISION = {"charades": 0.051, "tacos": 0.5 / 29.4 + 1e-9}


def folder_source(root, format="auto", **settings):
    given = {"protocol": "2dtan", "features": None, "glove": None, "seed": 0, **settings}
    return FolderSource(root, format, **given)


def worlds(view):
    return GroundingWorld(view=view, **sizes(view)), WorldSource(view, 0, **sizes(view))


def sizes(view):
    """Two views have no validation part, as their originals."""
    return {**SIZES, "val_videos": 0} if view in ("cg", "unsupervised") else SIZES


def told(source, parts):
    """Every query by what no format renames: its clips and its words."""
    store, splits = source.store(), source.queries()
    return sorted(
        (
            float(store[query.vid].double().sum()) if query.vid else 0.0,
            tuple(tokenize(query.sentence)),
            query.duration,
            query.span,
        )
        for part in parts
        for query in splits[part]
    )


@pytest.mark.parametrize("features", ["npy", "hdf5"])
@pytest.mark.parametrize("format", ["activitynet", "charades", "tacos", "cg", "jsonl", "unsupervised", "glance"])
def test_files_tell_the_same_queries_as_the_world_that_wrote_them(format, features, tmp_path):
    world, memory = worlds(VIEW_OF.get(format, "standard"))
    world.write(tmp_path / "set", format=format, features=features)
    files = folder_source(tmp_path / "set")
    precision = PRECISION.get(format, 1e-6)
    # Where a format has no validation part, which videos are held out follows from their names: compare both together.
    for parts in (("train", "val"), ("test",)):
        if format == "unsupervised" and "val" in parts:
            continue
        ours, theirs = told(files, parts), told(memory, parts)
        if format == "charades" and "val" in parts:
            theirs = told(memory, ("train",))
        assert [query[1] for query in ours] == [query[1] for query in theirs]
        for (clips, _, duration, span), (known, _, seconds, moment) in zip(ours, theirs, strict=True):
            assert clips == pytest.approx(known, abs=1e-3)
            assert duration == pytest.approx(seconds, abs=precision)
            if moment is not None:  # files of the glance view hold both, the view in memory withholds spans
                assert span == pytest.approx(moment, abs=precision)


def test_unsupervised_sentences_are_the_same_and_without_their_videos(tmp_path):
    world, memory = worlds("unsupervised")
    world.write(tmp_path / "set")
    queries = memory.queries()
    assert all((q.vid, q.span, q.glance, q.tags) == ("", None, None, None) for q in queries["train"])
    assert all(np.isnan(query.duration) for query in queries["train"])
    assert len({query.group for query in queries["train"]}) == len(queries["train"])
    assert all(query.span for part in ("val", "test") for query in queries[part])
    held = [query.sentence for query in queries["val"]]
    files = sorted(query.sentence for query in folder_source(tmp_path / "set").queries()["train"])
    assert sorted([*(query.sentence for query in queries["train"]), *held]) == files


def test_glances_are_the_same_in_both_published_forms(tmp_path):
    world, memory = worlds("glance")
    world.write(tmp_path / "set")
    known = sorted(query.glance for query in memory.queries()["train"])
    assert all(query.span is None for query in memory.queries()["train"])
    assert sorted(q.glance for q in folder_source(tmp_path / "set").queries()["train"]) == pytest.approx(known)
    charades = folder_source(tmp_path / "set", "charades").queries()
    read = sorted(query.glance for part in ("train", "val") for query in charades[part])
    assert read == pytest.approx(known, abs=0.051)


@pytest.mark.parametrize("view", ["standard", "rare", "cg", "glance", "unsupervised"])
def test_every_view_has_train_val_and_test_without_a_video_in_common(view):
    queries = worlds(view)[1].queries()
    assert set(queries) == {"train", "val", "test"}
    groups = [{query.group for query in part} for part in queries.values()]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]


def test_the_parts_of_a_compositional_test_are_joined_and_named(tmp_path):
    world, memory = worlds("cg")
    world.write(tmp_path / "set")
    for source in (memory, folder_source(tmp_path / "set")):
        queries = source.queries()
        assert {(query.tags or {}).get("part") for query in queries["test"]} == {
            "test_trivial",
            "novel_composition",
            "novel_word",
        }
        assert not any((query.tags or {}).get("part") for query in queries["train"])


def test_words_have_the_vectors_that_the_world_wrote(tmp_path):
    world, memory = worlds("standard")
    world.write(tmp_path / "set", format="jsonl")
    files = folder_source(tmp_path / "set")
    sentences = [query.sentence for query in memory.queries()["train"]]
    vocabulary = memory.vocabulary(sentences)
    assert files.vocabulary(sentences) == vocabulary
    assert torch.equal(files.word_vectors(vocabulary), memory.word_vectors(vocabulary))
    assert (files.word_vectors(vocabulary)[:2] == 0).all()
    assert files.parts_of_speech() == memory.parts_of_speech()


def test_words_without_a_vector_are_unknown_words(tmp_path):
    world, memory = worlds("standard")
    world.write(tmp_path / "set", format="jsonl")
    words = memory.vocabulary([query.sentence for query in memory.queries()["train"]]).words
    for source in (memory, folder_source(tmp_path / "set")):
        assert "zyzzyva" not in source.vocabulary([" ".join(words), "a zyzzyva"])


def test_other_word_vectors_and_features_can_be_named(tmp_path):
    world, _ = worlds("standard")
    world.write(tmp_path / "set", format="jsonl")
    (tmp_path / "set" / "features").rename(tmp_path / "elsewhere")
    (tmp_path / "mine.txt").write_text("person 1 2 3\n")
    source = folder_source(tmp_path / "set", features=str(tmp_path / "elsewhere"), glove=str(tmp_path / "mine.txt"))
    vocabulary = source.vocabulary(["a person"])
    assert vocabulary.words == ["person"]
    assert source.word_vectors(vocabulary)[2].tolist() == [1, 2, 3]
    assert source.store().dim == 48
    with pytest.raises(InputError, match=r"none\.txt: "):
        folder_source(tmp_path / "set", glove=str(tmp_path / "none.txt")).vocabulary(["a person"])


def test_without_vectors_words_are_told_apart_and_nothing_more(tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    source = folder_source(tmp_path)
    vocabulary = source.vocabulary(["a dog barks", "a cat"])
    vectors = source.word_vectors(vocabulary)
    assert vectors.shape == (6, NAMELESS_DIM)
    assert (vectors[:2] == 0).all()
    other = nameless_vectors(Vocabulary(["dog", "zebra"]))
    assert torch.equal(other[2], vectors[vocabulary.words.index("dog") + 2])
    cosine = torch.nn.functional.cosine_similarity(vectors[2:, None], vectors[None, 2:], dim=-1)
    assert (cosine - torch.eye(4)).abs().max() < 0.3


def test_features_in_memory_have_the_reading_side_of_a_store():
    store = MemoryStore({"a": np.ones((3, 5), np.float32)})
    assert store.dim == 5
    assert store["a"].shape == (3, 5)
    assert "a" in store
    assert "b" not in store


# --- side files ---


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    (tmp_path / "features").mkdir()
    return tmp_path


def test_how_features_were_taken_is_read_beside_them(folder):
    assert folder_source(folder).extractor() is None
    extractor = Extractor("test_resnet", "random", 1.5, 8)
    extractor.write(folder / "features")
    assert Extractor(**folder_source(folder).extractor()) == extractor


def test_settings_of_an_extractor_are_completed_and_stand_beside_a_single_file(folder):
    (folder / "extractor.json").write_text('{"fps": 4}')
    source = folder_source(folder, features=str(folder / "all.hdf5"))
    assert source.extractor() == vars(Extractor(fps=4.0))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"fps": "two"}', "fps must be float, found 'two'"),
        ('{"speed": 2}', "unknown argument of Extractor 'speed'"),
        ("[1]", "found a list, expected the settings of an extractor"),
        ("{", "double quotes), expected the settings of an extractor"),
        ('{"weights": [1]}', "weights"),
    ],
)
def test_damaged_settings_of_an_extractor_are_said_in_one_sentence(folder, content, told):
    (folder / "features" / "extractor.json").write_text(content)
    with pytest.raises(InputError, match=r"extractor\.json: ") as caught:
        folder_source(folder).extractor()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", '{"dog": 5}', "{", "\xff"])
def test_a_damaged_table_of_parts_of_speech_is_said_in_one_sentence(folder, content):
    assert folder_source(folder).parts_of_speech() is None
    (folder / "pos.json").write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match=r"pos\.json: .*word -> part of speech$"):
        folder_source(folder).parts_of_speech()


def test_unusable_folders_and_formats_are_said_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder, expected a data set"):
        folder_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found nothing, expected the annotation files of one of"):
        folder_source(tmp_path)
    with pytest.raises(InputError, match="unknown annotation format 'jsnl': did you mean 'jsonl'"):
        folder_source(tmp_path, "jsnl").queries()


def test_protocols_of_activitynet_decide_what_is_tested(tmp_path):
    world, _ = worlds("standard")
    world.write(tmp_path / "set")
    tested = {
        protocol: len(folder_source(tmp_path / "set", protocol=protocol).queries()["test"])
        for protocol in ("2dtan", "vslnet", "lgi")
    }
    sizes = {name: len(split.queries) for name, split in world.splits.items()}
    assert tested == {"2dtan": sizes["test"], "vslnet": sizes["val"], "lgi": sizes["val"] + sizes["test"]}


def test_a_source_says_its_name(tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    assert folder_source(tmp_path).name == f"{tmp_path.name} (jsonl)"
    assert WorldSource("rare", 0, **SIZES).name == "world-grounding (rare)"
    assert WorldSource("rare", 0, **SIZES).extractor() is None
    json.dumps(WorldSource("rare", 0, **SIZES).parts_of_speech())
