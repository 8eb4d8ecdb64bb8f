"""Promises of the grounding world: the statistics of its views, its truth, and its files."""

import csv
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ommatid.data.text import Vocabulary, read_glove, tokenize, word_counts
from ommatid.data.worlds.grounding import GroundingWorld, Split, holds
from ommatid.data.worlds.grounding_emotion import CLASSES, MISSING, RUN_LENGTHS, WRONG
from ommatid.errors import InputError

SMALL = {"train_videos": 6, "val_videos": 3, "test_videos": 4}
VIEWS = ("standard", "rare", "cg", "glance", "unsupervised")


def small(view: str, **more) -> GroundingWorld:
    return GroundingWorld(view, **{**SMALL, **more})


@pytest.fixture(scope="module")
def standard() -> GroundingWorld:
    return GroundingWorld(train_videos=400)


@pytest.fixture(scope="module")
def rare() -> GroundingWorld:
    return GroundingWorld("rare")


@pytest.fixture(scope="module")
def compositional() -> GroundingWorld:
    return GroundingWorld("cg")


@pytest.fixture(scope="module")
def emotion() -> GroundingWorld:
    return GroundingWorld("emotion", train_videos=200, test_videos=20)


def events_of(split: Split) -> list:
    return [event for video in split.videos for event in video.events]


def admitted_pairs(world: GroundingWorld) -> set[tuple[str, str]]:
    lexicon = world.lexicon
    return {
        (lexicon.name("verb", verb), lexicon.name("noun", noun))
        for noun, verbs in enumerate(lexicon.admitted.tolist())
        for verb in verbs
    }


def pairs_said(split: Split) -> set[tuple[str, str]]:
    return {(query.meaning["verb"], query.meaning["noun"]) for query in split.queries}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(path: Path):
    return json.loads(path.read_text())


# Truth


@pytest.mark.parametrize("view", VIEWS)
def test_every_sentence_is_true_of_exactly_its_event(view):
    world = small(view, train_videos=60, test_videos=60)
    for split in world.splits.values():
        by_id = {video.vid: video for video in split.videos}
        for query in split.queries:
            true_of = [i for i, event in enumerate(by_id[query.vid].events) if holds(query.meaning, event.meaning)]
            assert true_of == [query.event]
            event = by_id[query.vid].events[query.event]
            assert query.span == (event.start, event.end)
            assert event.start <= query.glance <= event.end
            visible = {role: query.meaning[role] for role in ("verb", "noun", "adj") if role in query.meaning}
            assert sum(holds(visible, event.meaning) for event in by_id[query.vid].events) == 1


def test_a_false_meaning_does_not_hold():
    event = {"verb": "opens", "noun": "door", "adj": "red", "adv": "slowly"}
    assert holds({"verb": "opens", "noun": "door", "adv": "slowly"}, event)
    assert not holds({"verb": "opens", "noun": "door", "adv": "quickly"}, event)
    assert not holds({"verb": "opens", "noun2": "box"}, event)


def test_sentences_follow_the_template_with_a_role_and_a_tag_a_word(standard):
    template = "subject verb det( adj)? noun( prep det noun2)?( adv)?"
    lengths = Counter()
    for query in standard.splits["train"].queries:
        words = query.sentence.split()
        assert tokenize(query.sentence) == words
        assert re.fullmatch(template, " ".join(query.roles))
        assert len(words) == len(query.roles) == len(query.pos)
        assert all(standard.pos[word] == pos for word, pos in zip(words, query.pos, strict=True))
        assert all(word in standard.word_vectors for word in words)
        assert set(query.meaning) == set(query.roles) - {"subject", "det"}
        lengths[len(words)] += 1
    assert set(lengths) == set(range(4, 10))


# Statistics of the scenes


def test_videos_have_the_promised_form(standard):
    for split in standard.splits.values():
        for video in split.videos:
            clips, channels = video.features.shape
            assert 96 <= clips <= 160
            assert channels == 48
            assert video.features.dtype == np.float32
            assert np.isfinite(video.features).all()
            assert video.duration == round(clips * 0.4, 1)
            assert 3 <= len(video.events) <= 5
            ends = [0.0, *(event.end for event in video.events)]
            gaps = [event.start - end for event, end in zip(video.events, ends, strict=False)]
            assert gaps[0] >= 0
            assert min(gaps[1:]) >= 0.4 - 1e-9
            assert video.events[-1].end <= video.duration


def test_event_lengths_are_log_uniform_from_6_to_45_percent(standard):
    share = np.sort(
        [
            (event.end - event.start) / video.duration
            for split in standard.splits.values()
            for video in split.videos
            for event in video.events
        ]
    )
    assert share[0] >= 0.06 - 1e-9
    assert share[-1] <= 0.45 + 1e-9
    log_uniform = np.log(share / 0.06) / np.log(0.45 / 0.06)
    # Long events that do not fit are left out, so the distance is not zero.
    assert np.abs(log_uniform - np.arange(len(share)) / len(share)).max() < 0.08


def test_nouns_and_verbs_follow_zipf(standard):
    for kind, exponent in (("noun", 1.5), ("verb", 0.9)):
        names = [words[0] for words in standard.lexicon.words[kind]]
        counts = Counter(event.meaning[kind] for split in standard.splits.values() for event in events_of(split))
        seen = np.array([counts[name] for name in names]) / sum(counts.values())
        expected = np.arange(1, len(names) + 1.0) ** -exponent
        assert np.abs(seen - expected / expected.sum()).sum() / 2 < 0.12


def test_synonyms_make_words_differ_from_concepts_and_lie_close(standard):
    groups = [words for kind in ("verb", "noun") for words in standard.lexicon.words[kind]]
    doubled = [words for words in groups if len(words) == 2]
    assert doubled
    assert {len(words) for words in groups} == {1, 2}
    unit = {word: vector / np.linalg.norm(vector) for word, vector in standard.word_vectors.items()}
    near = np.mean([unit[a] @ unit[b] for a, b in doubled])
    far = np.mean([unit[a[0]] @ unit[b[0]] for a in groups for b in groups if a is not b])
    assert near > 0.7
    assert abs(far) < 0.1


def test_every_noun_has_four_verbs_in_training_and_three_held_back(standard):
    lexicon = standard.lexicon
    for admitted, withheld in zip(lexicon.admitted, lexicon.withheld, strict=True):
        assert len({*admitted, *withheld}) == 7
    allowed = admitted_pairs(standard)
    assert all(
        {(e.meaning["verb"], e.meaning["noun"]) for e in events_of(s)} <= allowed for s in standard.splits.values()
    )


def test_clips_show_events_as_the_formula_says():
    world = small("standard", sigma=0.0, train_videos=3)
    lexicon = world.lexicon
    index = {kind: {words[0]: i for i, words in enumerate(lexicon.words[kind])} for kind in ("verb", "noun", "adj")}
    for video in world.splits["train"].videos:
        background = np.ones(len(video.features), dtype=bool)
        for event in video.events:
            background[round(event.start / 0.4) : round(event.end / 0.4)] = False
        scene = video.features[background]
        assert np.ptp(scene, axis=0).max() == 0
        for event in video.events:
            verb, noun, adj = (np.array(index[kind][event.meaning[kind]]) for kind in ("verb", "noun", "adj"))
            z_verb, z_noun = lexicon.latents["verb"][verb], lexicon.latents["noun"][noun]
            matrix = lexicon.projections
            still = matrix["noun"] @ z_noun + 0.7 * matrix["adj"] @ lexicon.latents["adj"][adj]
            still += 0.5 * np.tensordot(matrix["pair"], np.outer(z_verb, z_noun), 2)
            clips = video.features[round(event.start / 0.4) : round(event.end / 0.4)] - scene[0]
            phase = (np.arange(len(clips)) + 0.5) / len(clips)
            expected = still + np.outer(0.8 + 0.4 * np.sin(np.pi * phase), matrix["verb"] @ z_verb)
            np.testing.assert_allclose(clips, expected, atol=2e-4)


def agreement(rho: float) -> float:
    """Mean cosine between sentences and what their event adds to the clips."""
    world = GroundingWorld("unsupervised", rho=rho, train_videos=1, test_videos=150)
    videos = {video.vid: video for video in world.splits["test"].videos}
    cosines = []
    for query in world.splits["test"].queries:
        video = videos[query.vid]
        inside = np.zeros(len(video.features), dtype=bool)
        for event in video.events:
            inside[round(event.start / 0.4) : round(event.end / 0.4)] = True
        first, last = (round(second / 0.4) for second in query.span)
        shown = video.features[first:last].mean(0) - video.features[~inside].mean(0)
        said = sum(
            world.word_vectors[word]
            for word, role in zip(query.sentence.split(), query.roles, strict=True)
            if role in ("verb", "noun")
        )
        cosines.append(shown @ said / np.linalg.norm(shown) / np.linalg.norm(said))
    return float(np.mean(cosines))


def test_without_rho_text_and_clips_share_nothing_and_with_it_they_do():
    assert abs(agreement(0.0)) < 0.1
    assert agreement(0.3) > 0.3
    assert agreement(0.45) > agreement(0.15) + 0.1


def test_knobs_change_only_what_they_name():
    fixed = small("standard", lengths=(0.2, 0.2), test_videos=40)
    shares = [(e.end - e.start) / v.duration for v in fixed.splits["test"].videos for e in v.events]
    assert 0.19 < min(shares) <= max(shares) < 0.21
    early = small("standard", early_share=0.8, train_videos=200, test_videos=200)
    for name, low, high in (("train", 0.75, 0.85), ("test", 0.4, 0.7)):
        split = early.splits[name]
        duration = {video.vid: video.duration for video in split.videos}
        assert low < np.mean([query.span[0] < duration[query.vid] / 2 for query in split.queries]) < high
    plain = small("standard", train_videos=200, test_videos=200)
    # What is rare follows from the training sentences, which the knob changes.
    told = [[replace(query, rare=False) for query in world.splits["test"].queries] for world in (plain, early)]
    assert told[0] == told[1]
    assert plain.splits["train"].queries != early.splits["train"].queries


def test_splits_do_not_depend_on_the_size_of_others():
    one, other = small("standard"), small("standard", train_videos=9, val_videos=0)
    assert one.splits["test"].queries == other.splits["test"].queries
    assert "val" not in other.splits


def test_queries_of_a_video_ask_for_different_events(standard):
    for queries in standard.splits["train"].queries_of().values():
        assert len({query.event for query in queries}) == 3


# The rare view


def test_half_of_the_rare_test_queries_hold_a_rare_word(rare):
    queries = rare.splits["test"].queries
    flagged = sum(query.rare for query in queries)
    assert flagged >= 1500
    assert len(queries) - flagged >= 300
    assert 0.4 < flagged / len(queries) < 0.6


def test_rare_means_fewer_than_ten_times_in_training(rare):
    counts = word_counts(query.sentence for query in rare.splits["train"].queries)
    for split in rare.splits.values():
        for query in split.queries:
            words = zip(query.sentence.split(), query.pos, strict=True)
            seldom = any(counts.get(word, 0) < 10 for word, pos in words if pos in ("NOUN", "VERB", "ADJ"))
            assert query.rare == seldom


def test_half_of_the_rare_queries_hold_a_noisy_synonym_and_half_a_rare_concept(rare):
    counts = word_counts(query.sentence for query in rare.splits["train"].queries)
    lexicon = rare.lexicon
    concept_of = {
        reserved: (kind, words)
        for kind in ("verb", "noun", "adj")
        for reserved, words in zip(lexicon.reserved[kind], lexicon.words[kind], strict=True)
    }
    planted = {word for word in concept_of if word in counts}
    assert planted
    for word in planted:
        assert 1 <= counts[word] <= 9
        assert sum(counts.get(usual, 0) for usual in concept_of[word][1]) >= 10
        assert np.array_equal(rare.word_vectors[word], lexicon.noisy_vectors[word])
    flagged = [query for query in rare.splits["test"].queries if query.rare]
    share = np.mean([bool(planted & set(query.sentence.split())) for query in flagged])
    assert 0.4 < share < 0.6


def test_noisy_synonyms_lie_farther_from_their_concept_than_usual_ones(rare):
    lexicon = rare.lexicon
    distances = {"noisy": [], "usual": []}
    for kind in ("verb", "noun", "adj"):
        for word, usual in zip(lexicon.reserved[kind], lexicon.words[kind], strict=True):
            for name, table in (("noisy", lexicon.noisy_vectors), ("usual", lexicon.word_vectors)):
                distances[name].append(np.linalg.norm(table[word] - lexicon.word_vectors[usual[0]]))
    assert np.mean(distances["noisy"]) > 1.3 * np.mean(distances["usual"])


def test_common_test_nouns_are_equally_frequent(rare):
    said = Counter(q.meaning["noun"] for q in rare.splits["test"].queries if not q.rare)
    trained = Counter(q.meaning["noun"] for q in rare.splits["train"].queries)
    usual = [count for noun, count in said.items() if trained[noun] >= 20]
    assert max(usual) < 2.5 * min(usual)
    assert trained.most_common(1)[0][1] > 20 * min(trained.values())


# The compositional view


def test_reserved_pairs_and_words_never_occur_in_training(compositional):
    train = compositional.splits["train"]
    trained = {(event.meaning["verb"], event.meaning["noun"]) for event in events_of(train)}
    assert not pairs_said(compositional.splits["novel_composition"]) & trained
    heard = word_counts(query.sentence for query in train.queries)
    reserved = {word for words in compositional.lexicon.reserved.values() for word in words}
    assert not reserved & set(heard)
    for query in compositional.splits["novel_word"].queries:
        assert len(reserved & set(query.sentence.split())) == 1


def test_test_videos_are_not_training_videos(compositional):
    trained = {video.vid for video in compositional.splits["train"].videos}
    tested = {
        name: {video.vid for video in split.videos} for name, split in compositional.splits.items() if name != "train"
    }
    assert all(not trained & vids for vids in tested.values())
    assert tested["test_trivial"] == tested["novel_word"]
    assert not tested["test_trivial"] & tested["novel_composition"]


def test_a_partner_shares_the_targets_noun_in_70_percent_of_test_and_10_of_training(compositional):
    admitted = admitted_pairs(compositional)
    for name, target_admitted in (("test_trivial", True), ("novel_composition", False)):
        split = compositional.splits[name]
        shared = []
        for video, query in zip(split.videos, split.queries, strict=True):
            target = video.events[query.event].meaning
            assert ((target["verb"], target["noun"]) in admitted) == target_admitted
            partners = [
                event.meaning
                for place, event in enumerate(video.events)
                if place != query.event and event.meaning["noun"] == target["noun"]
            ]
            assert all(((p["verb"], p["noun"]) in admitted) != target_admitted for p in partners)
            shared.append(len(partners))
        assert max(shared) == 1
        assert abs(np.mean(shared) - 0.7) < 0.06
    repeated = [
        len({event.meaning["noun"] for event in video.events}) < len(video.events)
        for video in compositional.splits["train"].videos
    ]
    assert abs(np.mean(repeated) - 0.1) < 0.05


def test_novel_compositions_are_not_told_by_rare_words(compositional):
    shares = [np.mean([q.rare for q in compositional.splits[n].queries]) for n in ("test_trivial", "novel_composition")]
    assert abs(shares[0] - shares[1]) < 0.06


def test_novelty_tags_name_words_of_the_sentence(compositional):
    for query in compositional.splits["novel_composition"].queries:
        ((first, second),) = query.novels["v-n"]
        assert [query.roles[query.sentence.split().index(word)] for word in (first, second)] == ["verb", "noun"]
    kinds = Counter()
    for query in compositional.splits["novel_word"].queries:
        ((pos, (word,)),) = query.news.items()
        assert query.pos[query.sentence.split().index(word)] == pos
        kinds[pos] += 1
    assert set(kinds) == {"VERB", "NOUN", "ADJ"}


# The emotion view


def test_emotion_clips_have_the_promised_form(emotion):
    for clip in (*emotion.clips["train"], *emotion.clips["test"]):
        clauses = len(clip.times)
        assert 24 <= clauses <= 48
        assert len(clip.dialog) == clauses
        assert clip.video.shape == clip.subtitles.shape == (clauses, 24)
        assert clip.frames.shape == (int(np.ceil(2 * clip.duration)), 24)
        flat = [second for time in clip.times for second in time]
        assert flat == sorted(flat)
        assert flat[-1] <= clip.duration
        assert 1 <= len(clip.counts) <= 3
        assert clip.counts.keys() == clip.segments.keys()
        assert all(1 <= count <= 12 for count in clip.counts.values())
    assert any(name != name.strip() for name in CLASSES)


def test_emotion_runs_have_the_length_of_their_class(emotion):
    for clip in emotion.clips["train"]:
        for name, clauses in clip.segments.items():
            runs = np.split(np.sort(clauses), np.nonzero(np.diff(np.sort(clauses)) > 1)[0] + 1)
            assert 1 <= len(runs) <= 2
            assert all(RUN_LENGTHS[name][0] <= len(run) <= RUN_LENGTHS[name][1] for run in runs)


def test_some_clause_sets_are_unsorted_as_in_the_published_labels(emotion):
    unsorted = [clauses != sorted(clauses) for c in emotion.clips["train"] for clauses in c.segments.values()]
    assert 0.03 < np.mean(unsorted) < 0.2


def test_modalities_miss_and_mistake_evidence_independently(emotion):
    words = {name: set(group.split()) for name, group in class_words().items()}
    right, seen = [], []
    single = [clip for clip in emotion.clips["train"] if len(clip.segments) == 1]
    codes = {
        name: np.mean([clip.video[i] for clip in single for i in clip.segments.get(name, [])], axis=0)
        for name in CLASSES
    }
    for clip in single:
        ((name, clauses),) = clip.segments.items()
        for i in clauses:
            right.append(bool(words[name] & set(tokenize(clip.dialog[i]))))
            seen.append(float(clip.video[i] @ codes[name]) / np.linalg.norm(codes[name]))
    assert abs(np.mean(right) - (1 - MISSING - WRONG)) < 0.06
    assert abs(np.corrcoef(right, seen)[0, 1]) < 0.08


def class_words() -> dict[str, str]:
    from ommatid.data.worlds import grounding_emotion

    return grounding_emotion._CLASS_WORDS


def test_frames_average_to_their_clause(emotion):
    clip = emotion.clips["test"][0]
    middle = (np.arange(len(clip.frames)) + 0.5) / 2
    for (start, end), mean in zip(clip.times, clip.video, strict=True):
        np.testing.assert_allclose(clip.frames[(middle >= start) & (middle < end)].mean(0), mean, atol=1e-3)


def test_emotion_movies_are_in_one_split(emotion):
    movies = [{clip.movie for clip in clips} for clips in emotion.clips.values()]
    assert not movies[0] & movies[1]


# Files


@pytest.mark.parametrize(
    ("view", "format", "features"),
    [
        ("standard", "activitynet", "npy"), ("standard", "activitynet", "hdf5"), ("standard", "charades", "npy"),
        ("standard", "tacos", "hdf5"), ("standard", "jsonl", "npy"), ("rare", "activitynet", "npy"),
        ("cg", "cg", "npy"), ("glance", "glance", "npy"), ("unsupervised", "unsupervised", "npy"),
        ("emotion", "emotion", "npy"), ("emotion", "emotion", "hdf5"),
    ],
)  # fmt: skip
def test_two_writes_of_a_seed_are_the_same_bytes_and_another_seed_is_not(tmp_path, view, format, features):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        small(view, seed=seed).write(tmp_path / folder, format, features)
    first, again, other = (contents(tmp_path / folder) for folder in "abc")
    assert first == again
    assert first.keys() != other.keys() or first != other
    manifest = read(tmp_path / "a" / "manifest.json")
    assert manifest["files"] == {
        name: hashlib.sha256(data).hexdigest() for name, data in first.items() if name != "manifest.json"
    }
    assert {"glove.txt", "pos.json", "truth.json"} <= first.keys()
    assert ("features/feature_shapes.json" if features == "npy" else "feature_shapes.json") in first


def features_of(root: Path, video: str) -> np.ndarray:
    return np.load(root / "features" / f"{video}.npy", allow_pickle=False)


def test_activitynet_files_are_read_by_plain_json(tmp_path):
    world = small("standard")
    manifest = world.write(tmp_path / "w", "activitynet")
    for file, name in (("train", "train"), ("val_1", "val"), ("val_2", "test")):
        data, split = read(tmp_path / "w" / f"{file}.json"), world.splits[name]
        assert list(data) == sorted(video.vid for video in split.videos)
        assert manifest["counts"][name] == {"videos": len(split.videos), "queries": len(split.queries)}
        for video in split.videos:
            record, queries = data[video.vid], split.queries_of()[video.vid]
            assert re.fullmatch(r"v_[\w-]{11}", video.vid)
            assert set(record) == {"duration", "timestamps", "sentences"}
            assert record["duration"] == video.duration
            assert [tuple(span) for span in record["timestamps"]] == [query.span for query in queries]
            assert [tokenize(s) for s in record["sentences"]] == [query.sentence.split() for query in queries]
            assert [s.startswith(" ") for s in record["sentences"]] == [False, True, True]
            assert np.array_equal(features_of(tmp_path / "w", video.vid), video.features)
    shapes = read(tmp_path / "w" / "features" / "feature_shapes.json")
    assert all(len(features_of(tmp_path / "w", vid)) == n for vid, n in shapes.items())
    assert len(shapes) == 13


def test_hdf5_layouts_are_those_of_the_published_files(tmp_path):
    world = small("standard")
    for format, file in (
        ("activitynet", "sub_activitynet_v1-3.c3d.hdf5"),
        ("charades", "vgg_rgb_features.hdf5"),
        ("tacos", "tall_c3d_features.hdf5"),
        ("jsonl", "features.hdf5"),
    ):
        world.write(tmp_path / format, format, "hdf5")
        shapes = read(tmp_path / format / "feature_shapes.json")
        with h5py.File(tmp_path / format / file) as data:
            assert set(data) == set(shapes)
            for vid, rows in shapes.items():
                array = data[vid]["c3d_features"] if format == "activitynet" else data[vid]
                assert array.shape == (rows, 48)
                assert array.dtype == np.float32


def test_charades_files_are_lines_and_csv(tmp_path):
    world = small("standard")
    world.write(tmp_path / "w", "charades")
    for name in ("train", "test"):
        split = world.splits[name]
        lines = (tmp_path / "w" / f"charades_sta_{name}.txt").read_text().splitlines()
        with (tmp_path / "w" / f"Charades_v1_{name}.csv").open(newline="") as file:
            length = {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
        assert len(lines) == len(split.queries)
        for line, query in zip(lines, split.queries, strict=True):
            place, sentence = line.split("##")
            vid, start, end = place.split(" ")
            assert re.fullmatch(r"[A-Z0-9]{5}", vid)
            assert (float(start), float(end)) == query.span
            assert sentence == query.sentence + "."
            assert float(end) <= length[vid]
            assert abs(len(features_of(tmp_path / "w", vid)) * 0.4 - length[vid]) < 1e-6
        assert len(length) == len(split.videos)
    assert not (tmp_path / "w" / "charades_sta_val.txt").exists()


def test_tacos_files_count_frames(tmp_path):
    world = small("standard")
    world.write(tmp_path / "w", "tacos")
    for name in ("train", "val", "test"):
        data = read(tmp_path / "w" / f"{name}.json")
        expected = sorted(query.span for query in world.splits[name].queries)
        seconds = []
        for vid, record in data.items():
            assert re.fullmatch(r"s\d\d-d\d\d\.avi", vid)
            assert set(record) == {"timestamps", "fps", "num_frames", "sentences"}
            assert all(isinstance(frame, int) for span in record["timestamps"] for frame in span)
            assert all(span[1] <= record["num_frames"] for span in record["timestamps"])
            rows = len(features_of(tmp_path / "w", vid.removesuffix(".avi")))
            assert abs(record["num_frames"] / record["fps"] - rows * 0.4) < 0.05
            seconds += [tuple(frame / record["fps"] for frame in span) for span in record["timestamps"]]
        np.testing.assert_allclose(sorted(seconds), expected, atol=0.02)


def test_cg_files_have_the_four_splits_and_their_tags(tmp_path):
    small("cg").write(tmp_path / "w")
    keys = {"train": set(), "test_trivial": set(), "novel_composition": {"novels"}, "novel_word": {"news"}}
    for name, more in keys.items():
        for vid, record in read(tmp_path / "w" / f"{name}.json").items():
            assert re.fullmatch(r"[A-Z0-9]{5}", vid)
            assert set(record) == {"duration", "timestamps", "sentences"} | more
            assert len({len(record[key]) for key in set(record) - {"duration"}}) == 1
            for tags in record.get("novels", ()):
                assert all(kind == "v-n" and len(pair) == 2 for kind, pairs in tags.items() for pair in pairs)
            for tags in record.get("news", ()):
                assert all(isinstance(word, str) for words in tags.values() for word in words)
            assert (tmp_path / "w" / "features" / f"{vid}.npy").exists()


def test_glance_files_have_both_published_forms(tmp_path):
    world = small("glance")
    world.write(tmp_path / "w")
    expected = [query.glance for query in world.splits["train"].queries]
    lines = (tmp_path / "w" / "charades_sta_train.txt").read_text().splitlines()
    glances = []
    for line in lines:
        place, glance, _ = line.split("##")
        vid, start, end = place.split(" ")
        assert float(start) <= float(glance) <= float(end)
        glances.append(float(glance))
    assert glances == expected
    record = read(tmp_path / "w" / "train.json")[vid]
    assert record["glance"] == expected[-3:]
    assert len(record["glance"]) == len(record["timestamps"])


def test_unsupervised_files_say_nothing_about_pairs(tmp_path):
    world = small("unsupervised", train_videos=20)
    world.write(tmp_path / "w")
    split = world.splits["train"]
    durations = read(tmp_path / "w" / "videos.json")
    assert durations == {video.vid: {"duration": video.duration} for video in split.videos}
    lines = (tmp_path / "w" / "queries.txt").read_text().splitlines()
    told = [query.sentence for query in split.queries]
    assert sorted(lines) == sorted(told)
    assert lines != told
    assert set(read(tmp_path / "w" / "test.json")) == {video.vid for video in world.splits["test"].videos}
    assert not (tmp_path / "w" / "train.json").exists()


def test_emotion_files_have_counts_for_training_and_clause_sets_for_test(tmp_path):
    world = GroundingWorld("emotion", train_videos=20, test_videos=20)
    world.write(tmp_path / "w")
    stamp = re.compile(r"(\d\d):(\d\d):(\d\d\.\d{3})-->(\d\d):(\d\d):(\d\d\.\d{3})")
    train, test = (read(tmp_path / "w" / f"{name}.json") for name in ("train", "test"))
    fps = read(tmp_path / "w" / "fps.json")
    clips = {(clip.movie, clip.clip): clip for split in world.clips.values() for clip in split}
    for movie, scenes in (train | test).items():
        assert re.fullmatch(r"tt\d{7}", movie)
        for name, record in scenes.items():
            assert re.fullmatch(r"scene-\d{3}\.ss-\d{4}\.es-\d{4}", name)
            clip = clips[movie, name]
            times = record["time"] if movie in train else record["dialog_name"]
            parsed = [[float(part) for part in stamp.fullmatch(time).groups()] for time in times]
            seconds = [(h * 3600 + m * 60 + s, h2 * 3600 + m2 * 60 + s2) for h, m, s, h2, m2, s2 in parsed]
            np.testing.assert_allclose(seconds, clip.times, atol=1e-6)
            assert record["dialog"] == clip.dialog
            if movie in train:
                assert record["emo"] == clip.counts
            for label, entry in record["emo"].items() if movie in test else ():
                assert entry["segment"] == clip.segments[label]
                assert entry["time"] == [times[i] for i in entry["segment"]]
                assert entry["dialog"] == [record["dialog"][i] for i in entry["segment"]]
            assert len(features_of(tmp_path / "w", f"{movie}/{name}")) == np.ceil(
                clip.duration * fps[f"{movie}/{name}"]
            )
            assert len(np.load(tmp_path / "w" / "subtitles" / movie / f"{name}.npy")) == len(times)
    assert any("aversion " in record["emo"] for scenes in train.values() for record in scenes.values())


def test_jsonl_files_hold_one_query_a_line(tmp_path):
    world = small("standard")
    world.write(tmp_path / "w", "jsonl")
    for name, split in world.splits.items():
        records = [json.loads(line) for line in (tmp_path / "w" / f"{name}.jsonl").read_text().splitlines()]
        assert [(r["video"], r["sentence"], (r["start"], r["end"])) for r in records] == [
            (query.vid, query.sentence, query.span) for query in split.queries
        ]
        assert all(r["duration"] == round(len(features_of(tmp_path / "w", r["video"])) * 0.4, 1) for r in records)


@pytest.mark.parametrize("view", [*VIEWS, "emotion"])
def test_word_files_cover_every_word(tmp_path, view):
    world = small(view)
    world.write(tmp_path / "w")
    told = [query.sentence for split in world.splits.values() for query in split.queries]
    told += [clause for clips in world.clips.values() for clip in clips for clause in clip.dialog]
    vocabulary = Vocabulary.build(told)
    matrix, missing = read_glove(tmp_path / "w" / "glove.txt", vocabulary.words)
    assert missing == []
    assert np.array_equal(matrix[2:].numpy(), np.stack([world.word_vectors[word] for word in vocabulary.words]))
    assert set(vocabulary.words) <= set(read(tmp_path / "w" / "pos.json"))


# Refusals


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    root = tmp_path / "w"
    root.mkdir()
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(InputError) as error:
        small("standard").write(root)
    expected = "already holds something else, expected an empty folder or this world with the same settings"
    assert str(error.value) == f"{root}: {expected}"
    assert contents(tmp_path) == {"w/thesis.txt": b"mine"}


def test_its_own_folder_is_kept_but_not_one_of_other_settings_or_with_changes(tmp_path):
    root = tmp_path / "w"
    manifest = small("standard").write(root)
    before = contents(root)
    assert small("standard").write(root) == manifest
    assert contents(root) == before
    for other, more in ((small("standard", seed=1), {}), (small("standard"), {"format": "tacos"})):
        with pytest.raises(InputError, match="already holds something else"):
            other.write(root, **more)
    (root / "train.json").write_text("{}")
    with pytest.raises(InputError, match=r"train\.json: is not as it was written, expected the sha256"):
        small("standard").write(root)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    from ommatid.data.worlds import grounding_formats

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grounding_formats, "write_glove", fail)
    with pytest.raises(InputError, match="No space left on device, expected a folder that can be written"):
        small("standard").write(tmp_path / "deep" / "w")
    assert contents(tmp_path) == {}


def test_a_process_that_comes_second_keeps_what_the_first_has_written(tmp_path, monkeypatch):
    from ommatid.data.worlds import grounding_formats

    manifest = small("standard").write(tmp_path / "w")
    look, looks = grounding_formats._existing, iter([lambda *_: None])
    monkeypatch.setattr(grounding_formats, "_existing", lambda *arguments: next(looks, look)(*arguments))
    assert small("standard").write(tmp_path / "w") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("view", "arguments", "message"),
    [
        ("glance", {"format": "cg"}, "world-grounding: the view 'glance' cannot be written as 'cg', expected 'glance'"),
        ("cg", {"format": "tacos"}, "world-grounding: the view 'cg' cannot be written as 'tacos', expected 'cg'"),
        ("standard", {"format": "jsonal"}, "unknown format of world-grounding 'jsonal': did you mean 'jsonl'?"),
        ("standard", {"features": "hdf"}, "unknown feature layout of world-grounding 'hdf': did you mean 'hdf5'?"),
    ],
)  # fmt: skip
def test_formats_that_do_not_fit_are_said_in_one_sentence(tmp_path, view, arguments, message):
    with pytest.raises(InputError) as error:
        small(view).write(tmp_path / "w", **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view": "rar"}, "unknown view of world-grounding 'rar': did you mean 'rare'?"),
        ({"rho": 1.5}, "world-grounding: rho is 1.5, expected a number from 0 to 1"),
        ({"sigma": float("nan")}, "world-grounding: sigma is nan, expected a number from 0 to 1000.0"),
        ({"train_videos": 0}, "world-grounding: train_videos is 0, expected a number from 1 to 1000000"),
        ({"nouns": 61}, "world-grounding: nouns is 61, expected a number from 13 to 60"),
        ({"early_share": 2.0}, "world-grounding: early_share is 2.0, expected a probability"),
        (
            {"lengths": (0.4, 0.45)},
            "world-grounding: lengths is (0.4, 0.45), expected shortest in [0.02, 0.28], longest up to 0.9",
        ),
    ],
)
def test_settings_out_of_range_are_said_in_one_sentence(arguments, message):
    with pytest.raises(InputError) as error:
        GroundingWorld(**arguments)
    assert str(error.value) == message
