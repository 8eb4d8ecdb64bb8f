"""Which files each annotation format has, and how a walk over them keeps on after a fault."""

import json

import pytest

from ommatid.grounding.layouts import (
    CG_FILES,
    CHARADES_DURATIONS,
    PARTS,
    Part,
    activitynet_parts,
    cg_parts,
    charades_parts,
    durations_in_json,
    jsonl_parts,
    tacos_parts,
    unsupervised_parts,
)
from ommatid.grounding.records import Fault
from ommatid.grounding.task import Query

VIDEO = {"duration": 10.0, "timestamps": [[1.0, 4.0], [2, 3]], "sentences": [" A dog barks.", "It runs."]}


def walked(part: Part):
    items = list(part.walk())
    return [i for i in items if isinstance(i, Query)], [i for i in items if isinstance(i, Fault)]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_every_format_has_its_parts(tmp_path):
    assert set(PARTS) == {"activitynet", "charades", "tacos", "cg", "unsupervised", "jsonl"}
    names = {name: [part.name for part in parts(tmp_path)] for name, parts in PARTS.items()}
    assert names["activitynet"] == ["train", "val_1", "val_2"]
    assert names["charades"] == ["train", "test"]
    assert names["tacos"] == names["jsonl"] == ["train", "val", "test"]
    assert names["cg"] == list(CG_FILES)
    assert names["unsupervised"] == ["train", "test"]


@pytest.mark.parametrize("format", PARTS)
def test_missing_files_are_faults_and_not_errors(format, tmp_path):
    faults = [fault for part in PARTS[format](tmp_path) for fault in walked(part)[1]]
    assert faults
    assert all(str(tmp_path) in fault.file and not fault.mended for fault in faults)


def test_activitynet_also_under_the_names_that_2dtan_gives(tmp_path):
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.json", {f"v_{name}": VIDEO})
    queries = {part.name: walked(part)[0] for part in activitynet_parts(tmp_path)}
    assert {name: found[0].vid for name, found in queries.items()} == {
        "train": "v_train",
        "val_1": "v_val",
        "val_2": "v_test",
    }


def test_one_faulty_record_leaves_the_others(tmp_path):
    videos = {
        "v_a": VIDEO,
        "v_b": {**VIDEO, "timestamps": [[1.0, 4.0]]},
        "v_c": {**VIDEO, "timestamps": [[1.0, 4.0], [1.0]]},
        "v_d": {key: value for key, value in VIDEO.items() if key != "duration"},
        "v_e": 5,
    }
    write(tmp_path / "train.json", videos)
    queries, faults = walked(activitynet_parts(tmp_path)[0])
    assert [query.qid for query in queries] == ["train/v_a/0", "train/v_a/1", "train/v_c/0"]
    assert [fault.record for fault in faults] == ["video 'v_b'", "video 'v_c', query 1", "video 'v_d'", "video 'v_e'"]


def test_sentences_spans_and_labels_of_a_video_stay_together(tmp_path):
    write(tmp_path / "train.json", {"v_a": {**VIDEO, "glance": [2.0, 2.5], "roles": [{"verb": "barks"}, {}]}})
    queries, faults = walked(cg_parts(tmp_path)[0])
    assert not faults
    assert [query.sentence for query in queries] == ["A dog barks.", "It runs."]
    assert [(query.span, query.glance) for query in queries] == [((1.0, 4.0), 2.0), ((2.0, 3.0), 2.5)]
    assert queries[0].tags == {"roles": {"verb": "barks"}}
    assert {query.group for query in queries} == {"v_a"}


def test_novel_words_and_compositions_have_their_form(tmp_path):
    good = {**VIDEO, "novels": [{"v-n": [["pet", "dog"]]}, {}]}
    bad = {**VIDEO, "novels": [{"v-n": [["pet"]]}, {}]}
    write(tmp_path / "novel_composition.json", {"a": good, "b": bad})
    queries, faults = walked(cg_parts(tmp_path)[2])
    assert queries[0].tags == {"novels": {"v-n": [["pet", "dog"]]}}
    assert [fault.record for fault in faults] == ["video 'b', query 0"]
    write(tmp_path / "novel_word.json", {"a": {**VIDEO, "news": [{"NOUN": ["dog"]}, {"NOUN": "dog"}]}})
    queries, faults = walked(cg_parts(tmp_path)[3])
    assert [query.tags for query in queries] == [{"news": {"NOUN": ["dog"]}}]
    assert [fault.record for fault in faults] == ["video 'a', query 1"]


def test_tacos_counts_in_frames_and_its_ids_lose_their_ending(tmp_path):
    video = {"fps": 20.0, "num_frames": 200, "timestamps": [[20, 60]], "sentences": ["He cuts."]}
    write(tmp_path / "test.json", {"s13-d21.avi": video, "s13-d22.avi": {**video, "fps": 0}})
    queries, faults = walked(tacos_parts(tmp_path)[2])
    assert (queries[0].vid, queries[0].duration, queries[0].span) == ("s13-d21", 10.0, (1.0, 3.0))
    assert [fault.found for fault in faults] == ["fps 0"]


def charades(tmp_path, lines, table="id,length\nAAAAA,10.0\n", name="test"):
    write(tmp_path / f"charades_sta_{name}.txt", "\n".join(lines))
    write(tmp_path / "Charades_v1_test.csv", table)
    return walked(charades_parts(tmp_path)[name == "test"])


def test_charades_lines_with_and_without_a_glance(tmp_path):
    lines = ["AAAAA 1.0 4.0##a dog barks.", "AAAAA 1.0 4.0##2.5##it runs.", "AAAAA 1.0##x", "BBBBB 1 2##y"]
    queries, faults = charades(tmp_path, lines)
    assert [(query.sentence, query.glance) for query in queries] == [("a dog barks.", None), ("it runs.", 2.5)]
    assert [fault.record for fault in faults] == ["line 3", "line 4"]
    assert "'BBBBB' without a duration" in faults[1].found


def test_charades_drops_reversed_queries_from_training_only(tmp_path):
    assert len(charades(tmp_path, ["AAAAA 4.0 1.0##a dog barks."])[0]) == 1
    queries, faults = charades(tmp_path, ["AAAAA 4.0 1.0##a dog barks."], name="train")
    assert not queries
    assert [fault.mended for fault in faults] == ["dropped from training"]


def test_faults_of_the_table_of_durations_are_told(tmp_path):
    table = "id,length\nAAAAA,10.0\nAAAAA,11.0\n,5\nBBBBB,soon\n"
    _, faults = charades(tmp_path, ["AAAAA 1 2##x"], table, name="train")
    assert [fault.record for fault in faults] == ["line 3", "line 4", "line 5"]
    _, faults = charades(tmp_path, ["AAAAA 1 2##x"], "name;seconds\n", name="train")
    assert "columns" in faults[0].found


@pytest.mark.parametrize("name", CHARADES_DURATIONS)
def test_durations_of_charades_also_come_from_json(tmp_path, name):
    write(tmp_path / "charades_sta_test.txt", "AAAAA 1.0 4.0##a dog barks.")
    write(tmp_path / name, {"AAAAA": {"duration": 12.0}})
    queries, faults = walked(charades_parts(tmp_path)[1])
    assert queries[0].duration == 12.0
    assert not faults


def test_a_json_of_durations_takes_numbers_and_objects(tmp_path):
    write(tmp_path / "videos.json", {"a": 5, "b": {"duration": 6.5}, "c": {"seconds": 1}, " ": 4})
    faults = []
    assert dict(durations_in_json(tmp_path / "videos.json", faults)) == {"a": 5.0, "b": 6.5}
    assert [fault.record for fault in faults] == ["video 'c'", "video ' '"]


def test_unsupervised_sentences_belong_to_no_video(tmp_path):
    write(tmp_path / "videos.json", {"a": 5.0})
    write(tmp_path / "queries.txt", "a dog barks\n\nit runs\n")
    write(tmp_path / "val.json", {"v_a": VIDEO})
    parts = unsupervised_parts(tmp_path)
    assert [part.name for part in parts] == ["train", "val", "test"]
    queries, faults = walked(parts[0])
    assert not faults
    assert [(query.qid, query.vid, query.span) for query in queries] == [
        ("queries/1", "", None),
        ("queries/3", "", None),
    ]


OWN = {"video": "a", "sentence": "a dog barks", "start": 1, "end": 4, "duration": 9}


def test_own_lines_may_leave_out_the_span_in_the_test_part_only(tmp_path):
    bare = {key: value for key, value in OWN.items() if key not in ("start", "end")}
    for name in ("train", "test"):
        write(tmp_path / f"{name}.jsonl", json.dumps(OWN) + "\n" + json.dumps(bare))
    (train, train_faults), (test, test_faults) = map(walked, jsonl_parts(tmp_path))
    assert (len(train), len(train_faults), len(test), len(test_faults)) == (1, 2, 2, 0)
    assert test[1].span is None


def test_own_lines_keep_what_else_they_say(tmp_path):
    lines = [{**OWN, "group": "g", "glance": 2, "mood": "calm"}, {**OWN, "end": None, "start": None}]
    path = tmp_path / "mine.jsonl"
    write(path, "\n".join(map(json.dumps, lines)))
    (part,) = jsonl_parts(path)
    queries, faults = walked(part)
    assert part.name == "mine"
    assert not faults
    assert (queries[0].group, queries[0].glance, queries[0].tags) == ("g", 2.0, {"mood": "calm"})
    assert (queries[1].span, queries[1].group) == (None, "a")


@pytest.mark.parametrize(
    "line",
    [
        {**OWN, "start": 5},
        {key: value for key, value in OWN.items() if key != "end"},
        {**OWN, "video": 5},
        {**OWN, "duration": 0},
        {**OWN, "glance": 8},
        {**OWN, "group": ""},
        [OWN],
    ],
)
def test_half_a_span_and_other_mistakes_in_own_lines_are_faults(tmp_path, line):
    write(tmp_path / "test.jsonl", json.dumps(line))
    queries, faults = walked(jsonl_parts(tmp_path)[0])
    assert not queries
    assert faults
    assert all(fault.record == "line 1" for fault in faults)
