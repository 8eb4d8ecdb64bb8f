"""Readers of annotation files: official counts, published quirks, and every kind of damage."""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import jaxtyping
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.errors import InputError
from ommatid.grounding.formats import (
    check_annotations,
    detect_format,
    hold_out,
    read_annotations,
    read_videos,
    summarise,
)
from ommatid.grounding.task import Query

REAL = Path(os.environ.get("OMMATID_REAL", Path(__file__).parents[2].parent / "shared" / "real"))
ACTIVITYNET = {
    "v_one": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A woman is seen standing.", " The girl dances around."],
    },
    "v_two": {"duration": 20, "timestamps": [[0, 5.5]], "sentences": ["He runs."]},
}
TACOS = {
    "s13-d21.avi": {
        "timestamps": [[200, 487], [200, 487], [500, 950]],
        "fps": 25.0,
        "num_frames": 1000,
        "sentences": ["He gets out a knife.", "The person takes a knife.", "He peels an orange."],
    }
}
NOVEL = {"AO8RW": {"sentences": ["a book is put on a shelf."], "timestamps": [[0.0, 6.9]], "duration": 33.67}}
OWN = [
    {"video": "kitchen", "sentence": "a person opens the fridge", "start": 3.0, "end": 7.5, "duration": 30.0},
    {"video": "garden", "sentence": "a dog runs", "start": 0, "end": 12, "duration": 44.5},
]


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def activitynet_files():
    content = json.dumps(ACTIVITYNET)
    other = json.dumps({"v_one": {"duration": 82.73, "timestamps": [[1, 2.5]], "sentences": ["Someone waves."]}})
    return {"train.json": content.replace("v_", "v_t"), "val_1.json": content, "val_2.json": other}


def charades_files():
    table = 'id,subject,script,length\nAO8RW,X,"A person, cooking.",33.67\n3MSZA,Y,"one\ntwo",30.96\n'
    lines = "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 2.0 33.9##the person reads.\n"
    return {
        "charades_sta_train.txt": lines,
        "charades_sta_test.txt": "3MSZA 24.3 30.4##person turn a light on.\n",
        "Charades_v1_train.csv": table,
    }


def tacos_files():
    content = json.dumps(TACOS)
    return {f"{name}.json": content.replace("s13", f"s{i}") for i, name in enumerate(("train", "val", "test"))}


def cg_files():
    composition = {"AO8RW": {**NOVEL["AO8RW"], "novels": [{"v-n": [["put", "book"]]}]}}
    word = {"AO8RW": {**NOVEL["AO8RW"], "news": [{"NOUN": ["shelf"]}]}}
    return {
        "train.json": json.dumps({"T1": NOVEL["AO8RW"], "T2": NOVEL["AO8RW"]}),
        "test_trivial.json": json.dumps(NOVEL),
        "novel_composition.json": json.dumps(composition),
        "novel_word.json": json.dumps(word),
    }


def unsupervised_files():
    return {
        "videos.json": json.dumps({"v_one": {"duration": 20.0}, "v_two": 31}),
        "queries.txt": "a person opens the door\na dog runs\n",
        "test.json": json.dumps(NOVEL),
    }


def own_files():
    lines = "\n".join(map(json.dumps, OWN)) + "\n"
    return {"train.jsonl": lines, "test.jsonl": json.dumps({k: OWN[0][k] for k in ("video", "sentence", "duration")})}


FILES = {
    "activitynet": activitynet_files,
    "charades": charades_files,
    "tacos": tacos_files,
    "cg": cg_files,
    "unsupervised": unsupervised_files,
    "jsonl": own_files,
}


def edited(files, name, change):
    """The files with the JSON object of one of them changed in place."""
    value = json.loads(files[name])
    change(value)
    return {**files, name: json.dumps(value)}


@pytest.mark.parametrize("format", FILES)
def test_the_files_tell_their_format(format, tmp_path):
    assert detect_format(put(tmp_path, FILES[format]())) == format


@pytest.mark.parametrize("format", FILES)
def test_clean_files_have_no_fault(format, tmp_path):
    faults = list(check_annotations(put(tmp_path, FILES[format]())))
    assert [fault for fault in faults if not fault.mended] == []


@pytest.fixture
def unchecked():
    """Shape and type checks off: they would make up nearly all the time of reading seventy thousand queries."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("folder", "counts"),
    [
        (
            "charades-cg",
            {
                "train": (3555, 8281),
                "test_trivial": (1689, 3096),
                "novel_composition": (2480, 3442),
                "novel_word": (580, 695),
            },
        ),
        (
            "activitynet-cg",
            {
                "train": (9659, 36724),
                "test_trivial": (4775, 15712),
                "novel_composition": (4202, 12028),
                "novel_word": (1991, 3920),
            },
        ),
    ],
)
def test_the_compositional_sets_have_their_published_counts(folder, counts, unchecked):
    if not (REAL / folder).exists():
        pytest.skip(f"the annotation files of {folder} are not in {REAL} (set OMMATID_REAL to their folder)")
    splits = read_annotations(REAL / folder, val_fraction=0.0)
    found = {name: (s.videos, s.queries) for name, s in ((n, summarise(q)) for n, q in splits.items())}
    assert found == counts
    train = {query.vid for query in splits["train"]}
    assert not any(query.vid in train for name, queries in splits.items() if name != "train" for query in queries)
    assert all(query.tags["novels"] for query in splits["novel_composition"])
    assert all(query.tags["news"] for query in splits["novel_word"])
    assert all(fault.mended for fault in check_annotations(REAL / folder))
    check_queries(splits)


def check_queries(splits):
    for queries in splits.values():
        assert len({query.qid for query in queries}) == len(queries)
        for query in queries:
            assert query.sentence == query.sentence.strip() != ""
            query.sentence.encode()
            if query.vid:
                assert 0 < query.duration < math.inf
            if query.span is not None:
                assert 0 <= query.span[0] <= query.span[1] <= query.duration
            if query.glance is not None:
                low, high = query.span or (0, query.duration)
                assert low <= query.glance <= high


@pytest.mark.parametrize(
    ("protocol", "val", "test"),
    [
        ("2dtan", ["v_one", "v_one", "v_two"], ["v_one"]),
        ("vslnet", ["v_one"], ["v_one", "v_one", "v_two"]),
    ],
)
def test_activitynet_protocols_disagree_on_what_is_tested(protocol, val, test, tmp_path):
    splits = read_annotations(put(tmp_path, activitynet_files()), protocol=protocol)
    assert [query.vid for query in splits["val"]] == val
    assert [query.vid for query in splits["test"]] == test
    assert len(splits["train"]) == 3


def test_lgi_tests_on_both_files_and_validates_on_videos_of_train(tmp_path):
    splits = read_annotations(put(tmp_path, activitynet_files()), protocol="lgi", val_fraction=0.5)
    assert len(splits["test"]) == 4
    check_queries(splits)
    assert len(splits["train"]) + len(splits["val"]) == 3
    assert not {q.vid for q in splits["train"]} & {q.vid for q in splits["val"]}


def test_activitynet_under_the_names_of_2dtan_is_the_same(tmp_path):
    files = activitynet_files()
    renamed = {"train.json": files["train.json"], "val.json": files["val_1.json"], "test.json": files["val_2.json"]}
    splits = read_annotations(put(tmp_path, renamed))
    assert [q.vid for q in splits["test"]] == ["v_one"]
    assert detect_format(tmp_path) == "activitynet"


def test_unknown_protocols_and_formats_are_answered_with_the_nearest_name(tmp_path):
    put(tmp_path, activitynet_files())
    with pytest.raises(InputError, match="unknown ActivityNet protocol '2d-tan': did you mean '2dtan'"):
        read_annotations(tmp_path, protocol="2d-tan")
    with pytest.raises(InputError, match="unknown annotation format 'activity': did you mean 'activitynet'"):
        read_annotations(tmp_path, format="activity")


def test_activitynet_spans_are_swapped_and_clipped_and_sentences_lose_their_blanks(tmp_path):
    def change(videos):
        videos["v_one"]["timestamps"] = [[19.86, 0.83], [17.37, 82.74]]

    put(tmp_path, edited(activitynet_files(), "val_1.json", change))
    val = read_annotations(tmp_path)["val"]
    assert [query.span for query in val[:2]] == [(0.83, 19.86), (17.37, 82.73)]
    assert val[1].sentence == "The girl dances around."
    assert [fault.mended for fault in check_annotations(tmp_path)] == ["swapped", "clipped"]


def test_charades_reads_table_and_lines_and_clips_to_the_duration(tmp_path):
    splits = read_annotations(put(tmp_path, charades_files()))
    assert splits["train"][1].span == (2.0, 33.67)
    assert splits["train"][1].duration == 33.67
    assert splits["test"][0] == Query(
        "charades_sta_test/1", "3MSZA", "person turn a light on.", 30.96, (24.3, 30.4), group="3MSZA"
    )


def test_charades_durations_may_come_from_a_json(tmp_path):
    files = charades_files()
    del files["Charades_v1_train.csv"]
    files["Charades_duration.json"] = json.dumps({"AO8RW": 33.67, "3MSZA": {"duration": 30.96}})
    assert read_annotations(put(tmp_path, files))["test"][0].duration == 30.96


def test_charades_drops_empty_spans_from_training_but_never_from_the_test(tmp_path):
    files = charades_files()
    bad = "AO8RW 9.0 9.0##one.\nAO8RW 9.0 3.0##two.\nAO8RW 33.8 34.9##three.\n"
    files["charades_sta_train.txt"] += bad
    files["charades_sta_test.txt"] += bad
    splits = read_annotations(put(tmp_path, files), val_fraction=0.0)
    assert len(splits["train"]) == 2
    assert [query.span for query in splits["test"]][1:] == [(9.0, 9.0), (3.0, 9.0), (33.67, 33.67)]
    assert [fault.mended for fault in check_annotations(tmp_path)] == [
        *["clipped", *["dropped from training"] * 3],
        *["kept, matches nothing", "swapped", "clipped"],
    ]


def test_tacos_frames_become_seconds_and_ids_lose_their_ending(tmp_path):
    train = read_annotations(put(tmp_path, tacos_files()))["train"]
    assert [query.span for query in train] == [(8.0, 19.48), (8.0, 19.48), (20.0, 38.0)]
    assert {(query.vid, query.duration, query.group) for query in train} == {("s0-d21", 40.0, "s0-d21")}


def test_compositional_tags_stay_with_their_query(tmp_path):
    splits = read_annotations(put(tmp_path, cg_files()))
    assert splits["novel_composition"][0].tags == {"novels": {"v-n": [["put", "book"]]}}
    assert splits["novel_word"][0].tags == {"news": {"NOUN": ["shelf"]}}
    assert splits["test_trivial"][0].tags is None
    assert len(splits["train"]) == len(splits["val"]) == 1


def test_glance_labels_are_read_in_every_format_that_has_them(tmp_path):
    charades = charades_files()
    charades["charades_sta_train.txt"] = "AO8RW 6.9 2.0##3.4##a person reads## a book.\n"
    (tmp_path / "c").mkdir()
    query = read_annotations(put(tmp_path / "c", charades), val_fraction=0.0)["test"][0]
    assert query.glance is None
    files = {**charades, "charades_sta_test.txt": charades["charades_sta_train.txt"]}
    query = read_annotations(put(tmp_path / "c", files), val_fraction=0.0)["test"][0]
    assert (query.span, query.glance, query.sentence) == ((2.0, 6.9), 3.4, "a person reads## a book.")

    (tmp_path / "a").mkdir()
    put(tmp_path / "a", edited(activitynet_files(), "val_2.json", lambda v: v["v_one"].update(glance=[1.7])))
    assert read_annotations(tmp_path / "a")["test"][0].glance == 1.7

    (tmp_path / "t").mkdir()
    put(tmp_path / "t", edited(tacos_files(), "val.json", lambda v: v["s1-d21.avi"].update(glance=[250, 300, 600])))
    assert [query.glance for query in read_annotations(tmp_path / "t")["val"]] == [10.0, 12.0, 24.0]


def test_a_glance_outside_its_span_moves_to_the_nearer_end_and_is_reported(tmp_path):
    put(tmp_path, edited(activitynet_files(), "val_2.json", lambda v: v["v_one"].update(glance=[9.0])))
    assert read_annotations(tmp_path)["test"][0].glance == 2.5
    (fault,) = check_annotations(tmp_path)
    assert (fault.found, fault.expected, fault.mended) == (
        "glance 9.0",
        "a moment from 1 to 2.5 s",
        "moved to the span",
    )


def test_unsupervised_training_sentences_know_nothing_of_videos(tmp_path):
    splits = read_annotations(put(tmp_path, unsupervised_files()))
    assert [(q.vid, q.span, q.sentence) for q in splits["train"]] == [
        ("", None, "a person opens the door"),
        ("", None, "a dog runs"),
    ]
    assert all(math.isnan(q.duration) for q in splits["train"])
    assert splits["test"][0].span == (0.0, 6.9)
    assert read_videos(tmp_path) == {"v_one": 20.0, "v_two": 31.0}


def test_own_lines_are_read_with_or_without_a_span(tmp_path):
    splits = read_annotations(put(tmp_path, own_files()), val_fraction=0.5)
    assert len(splits["train"]) == len(splits["val"]) == 1
    assert splits["test"][0].span is None
    assert detect_format(tmp_path / "test.jsonl") == "jsonl"
    assert list(read_annotations(tmp_path / "test.jsonl")) == ["test"]


def test_own_lines_carry_glance_group_and_further_keys(tmp_path):
    line = {**OWN[0], "start": None, "end": None, "glance": 4, "group": "session 3", "subject": "p7"}
    put(tmp_path, {"train.jsonl": json.dumps(line)})
    (query,) = read_annotations(tmp_path, val_fraction=0.0)["train"]
    assert (query.span, query.glance, query.group, query.tags) == (None, 4.0, "session 3", {"subject": "p7"})


def test_an_existing_validation_file_is_never_cut_from_train(tmp_path):
    files = own_files()
    files["val.jsonl"] = json.dumps({**OWN[0], "video": "hall"})
    splits = read_annotations(put(tmp_path, files), val_fraction=0.5)
    assert (len(splits["train"]), [q.vid for q in splits["val"]]) == (2, ["hall"])


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    for i, change in enumerate((lambda b: b, lambda b: b"\xef\xbb\xbf" + b.replace(b"\n", b"\r\n"))):
        (tmp_path / str(i)).mkdir()
        for name, content in (charades_files() | own_files()).items():
            (tmp_path / str(i) / name).write_bytes(change(content.encode()))
    for format in ("charades", "jsonl"):
        first, second = (read_annotations(tmp_path / str(i), format) for i in range(2))
        assert first == second


# --- faults


def check_single_fault(root, record, found):
    faults = [fault for fault in check_annotations(root) if not fault.mended]
    assert [(fault.record, fault.found) for fault in faults] == [(record, found)]
    with pytest.raises(InputError) as error:
        read_annotations(root)
    assert str(error.value) == str(faults[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "record", "found"),
    [
        ("duration", ..., "video 'v_one'", "no key 'duration'"),
        ("duration", "82", "video 'v_one'", "duration '82'"),
        ("duration", True, "video 'v_one'", "duration True"),
        ("duration", -1, "video 'v_one'", "duration -1"),
        ("duration", 0, "video 'v_one'", "duration 0"),
        ("duration", math.nan, "video 'v_one'", "duration nan"),
        ("duration", 10**400, "video 'v_one'", None),
        ("sentences", ..., "video 'v_one'", "no key 'sentences'"),
        ("sentences", "He runs.", "video 'v_one'", "sentences 'He runs.'"),
        ("sentences", ["one", " "], "video 'v_one', query 1", "an empty sentence"),
        ("sentences", ["one", None], "video 'v_one', query 1", "sentence None"),
        ("sentences", ["one", "\ud800"], "video 'v_one', query 1", None),
        ("sentences", ["one"], "video 'v_one'", "2 timestamps"),
        ("timestamps", [[0, 1]], "video 'v_one'", "1 timestamps"),
        ("timestamps", [[0, 1], [2]], "video 'v_one', query 1", "timestamps [2]"),
        ("timestamps", [[0, 1], ["2", 3]], "video 'v_one', query 1", "start '2'"),
        ("timestamps", [[0, 1], [2, math.inf]], "video 'v_one', query 1", "end inf"),
        ("timestamps", [[0, math.nan], [2, 3]], "video 'v_one', query 0", "end nan"),
        ("timestamps", [[-0.5, 1], [2, 3]], "video 'v_one', query 0", "start -0.5"),
        ("timestamps", [[90, 99], [2, 3]], "video 'v_one', query 0", "a span from 90 to 99"),
        ("glance", [3], "video 'v_one'", "1 glance"),
        ("glance", [3, None], "video 'v_one', query 1", "glance None"),
        ("novels", [{"v-n": ["put", "book"]}, {}], "video 'v_one', query 0", None),
    ],
)
def test_each_kind_of_fault_names_file_record_and_finding(key, value, record, found, tmp_path):
    def change(videos):
        if value is ...:
            del videos["v_one"][key]
        else:
            videos["v_one"][key] = value

    put(tmp_path, edited(activitynet_files(), "val_1.json", change))
    if found is None:
        (fault,) = (fault for fault in check_annotations(tmp_path) if not fault.mended)
        assert fault.record == record
        found = fault.found
    check_single_fault(tmp_path, record, found)


def test_all_faults_of_all_files_are_reported_not_only_the_first(tmp_path):
    files = edited(activitynet_files(), "val_1.json", lambda v: v["v_one"].update(timestamps=[[-1, 2], [3, "x"]]))
    files = edited(files, "val_1.json", lambda v: v["v_two"].update(duration=None))
    files = edited(files, "val_2.json", lambda v: v["v_one"].update(sentences=[""]))
    faults = list(check_annotations(put(tmp_path, files)))
    assert [(Path(f.file).name, f.record) for f in faults] == [
        ("val_1.json", "video 'v_one', query 0"),
        ("val_1.json", "video 'v_one', query 1"),
        ("val_1.json", "video 'v_two'"),
        ("val_2.json", "video 'v_one', query 0"),
    ]


def test_a_video_that_stands_twice_in_a_file_is_an_error(tmp_path):
    files = activitynet_files()
    files["val_2.json"] = '{"v_a": %s, "v_a": %s}' % ((json.dumps(ACTIVITYNET["v_two"]),) * 2)
    check_single_fault(put(tmp_path, files), "", "the key 'v_a' twice")


def test_repeated_queries_are_kept_and_reported(tmp_path):
    files = {"train.jsonl": "\n".join([json.dumps(OWN[0])] * 2)}
    assert len(read_annotations(put(tmp_path, files), val_fraction=0.0)["train"]) == 2
    (fault,) = check_annotations(tmp_path)
    assert (fault.record, fault.mended) == ("line 2", "kept")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("AO8RW 0.0##sits.", "'AO8RW 0.0##sits.'"),
        ("AO8RW 0.0 2.0 sits.", "'AO8RW 0.0 2.0 sits.'"),
        ("AO8RW 0.0 two##sits.", "end 'two'"),
        ("AO8RW 0.0 1_0##sits.", "end '1_0'"),
        ("AO8RW 0.0 nan##sits.", "end nan"),
        ("AO8RW 0.0 2.0##", "an empty sentence"),
        ("AO8RW 0.0 2.0##now##sits.", "glance 'now'"),
        ("XXXXX 0.0 2.0##sits.", "video 'XXXXX' without a duration"),
    ],
)
def test_faulty_charades_lines_are_named_by_number(line, found, tmp_path):
    files = charades_files()
    files["charades_sta_train.txt"] += line + "\n"
    check_single_fault(put(tmp_path, files), "line 3", found)


@pytest.mark.parametrize(
    ("change", "record", "found"),
    [
        ({"start": 9}, "line 1", "a span from 9 to 7.5"),
        ({"start": 7.5}, "line 1", "a span from 7.5 to 7.5"),
        ({"end": 31.5}, "line 1", "a span from 3.0 to 31.5"),
        ({"glance": 8.5}, "line 1", "glance 8.5"),
        ({"start": ...}, "line 1", "no key 'start'"),
        ({"start": None}, "line 1", "start None"),
        ({"video": 3}, "line 1", "video 3"),
        ({"group": ""}, "line 1", "an empty group"),
    ],
)
def test_own_lines_are_read_strictly(change, record, found, tmp_path):
    line = {key: value for key, value in {**OWN[0], **change}.items() if value is not ...}
    put(tmp_path, {"train.jsonl": json.dumps(line) + "\n" + json.dumps(OWN[1])})
    check_single_fault(tmp_path, record, found)


def test_an_own_end_just_after_the_duration_is_rounding(tmp_path):
    put(tmp_path, {"test.jsonl": json.dumps({**OWN[0], "end": 30.6})})
    assert read_annotations(tmp_path)["test"][0].span == (3.0, 30.0)


def test_half_a_span_is_an_error_even_where_spans_are_optional(tmp_path):
    put(tmp_path, {"test.jsonl": json.dumps({key: value for key, value in OWN[0].items() if key != "end"})})
    check_single_fault(tmp_path, "line 1", "no key 'end'")


@pytest.mark.parametrize("format", FILES)
def test_a_missing_file_is_named(format, tmp_path):
    files = FILES[format]()
    missing = {"jsonl": "train.jsonl", "charades": "charades_sta_test.txt"}.get(format, "test.json")
    missing = {"activitynet": "val_1.json", "cg": "novel_word.json"}.get(format, missing)
    put(tmp_path, {name: content for name, content in files.items() if name != missing})
    if format == "jsonl":
        assert list(read_annotations(tmp_path)) == ["test"]
    else:
        with pytest.raises(InputError, match=f"{missing}: found no such file"):
            read_annotations(tmp_path, format)


def test_charades_without_durations_says_where_they_come_from(tmp_path):
    files = charades_files()
    del files["Charades_v1_train.csv"]
    with pytest.raises(InputError, match=r"found no file with durations, expected Charades_v1_train\.csv"):
        read_annotations(put(tmp_path, files))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"id,subject\nA,B\n", "the columns"),
        (b"id,length\nAO8RW,long\n", "length 'long'"),
        (b"id,length\nAO8RW,\n", "length ''"),
        (b"id,length\n,3\n", "no id"),
        (b"id,length\nAO8RW,3\nAO8RW,4\n", "another length"),
        (b"id,length\nAO8RW,\xff\n", "byte 0xff at 16"),
    ],
)
def test_a_faulty_table_of_durations_is_named(content, found, tmp_path):
    put(tmp_path, {**charades_files(), "Charades_v1_train.csv": content})
    with pytest.raises(InputError, match=rf"Charades_v1_train\.csv: .*found {found}"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "damaged JSON"),
        (b"{", "damaged JSON"),
        (b"[]", "a list"),
        (b"{}", "an empty object"),
        (b"null", "a NoneType"),
        (b'{"v": {"sentences": ["\xff"]}}', "byte 0xff at 22"),
        (b"[" * 100_000, "too deep nesting"),
        (b'{"v": ' + b"9" * 5000 + b"}", ""),
    ],
)
def test_a_damaged_json_file_is_named(content, found, tmp_path):
    put(tmp_path, {**activitynet_files(), "val_2.json": content})
    with pytest.raises(InputError, match=rf"val_2\.json: .*found .*{found}"):
        read_annotations(tmp_path)


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_a_root_without_annotations_is_refused(make, tmp_path):
    root = tmp_path / "root"
    if make == "file":
        root.write_text("hello")
    if make == "empty":
        root.mkdir()
    with pytest.raises(InputError, match=r"root: .*expected"):
        read_annotations(root)


# --- held-out validation


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_held_out_queries_never_share_a_video_with_train(videos, fraction, seed):
    queries = [Query(f"{v}/{i}", str(v), "a dog", 9.0, group=str(v)) for v in range(videos) for i in range(v % 3 + 1)]
    train, val = hold_out(queries, fraction, seed)
    assert sorted(train + val, key=queries.index) == queries
    assert not {q.group for q in train} & {q.group for q in val}
    assert train
    assert val
    assert abs(len({q.group for q in val}) - fraction * videos) <= 1


def test_the_choice_of_held_out_videos_depends_on_the_seed_alone():
    queries = [Query(str(v), str(v), "a dog", 9.0, group=str(v)) for v in range(50)]
    chosen = {q.vid for q in hold_out(queries, 0.2, seed=3)[1]}
    assert chosen == {q.vid for q in hold_out(queries[::-1], 0.2, seed=3)[1]}
    assert chosen != {q.vid for q in hold_out(queries, 0.2, seed=4)[1]}


@pytest.mark.parametrize("fraction", [-0.1, 1.0, math.nan])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(InputError, match="val_fraction: found"):
        hold_out([], fraction, 0)


def test_summary_of_nothing_is_nan_not_an_error():
    summary = summarise([])
    assert summary.queries == 0
    assert math.isnan(summary.words)


# --- the world writes the official formats


@pytest.mark.parametrize(
    ("view", "format"),
    [
        *(("standard", name) for name in ("activitynet", "charades", "tacos", "jsonl")),
        ("cg", "cg"),
        ("glance", "glance"),
        ("unsupervised", "unsupervised"),
    ],
)
def test_what_the_world_writes_is_read_back(view, format, tmp_path):
    sizes = {"val_videos": 0} if view in ("cg", "unsupervised") else {"val_videos": 3}
    world = GroundingWorld(view, train_videos=8, test_videos=6, **sizes)
    manifest = world.write(tmp_path / "world", format)
    splits = read_annotations(tmp_path / "world", val_fraction=0.0)
    check_queries(splits)
    assert {name: len(queries) for name, queries in splits.items()} == {
        name: counts["queries"] for name, counts in manifest["counts"].items()
    }
    if view == "glance":
        assert all(query.glance is not None for query in splits["train"])
    if view == "unsupervised":
        assert len(read_videos(tmp_path / "world")) == 8
    if format in ("activitynet", "jsonl"):
        truth = sorted(query.span for query in world.splits["test"].queries)
        assert sorted(query.span for query in splits["test"]) == [pytest.approx(span) for span in truth]


# --- fuzz

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([10**400, -(10**400), 0, -0.0, 1e-320, 1e308, 0.3]),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.lists(st.one_of(st.floats(-9, 99), st.integers(0, 60), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


def places(value, here=()):
    """Every place inside a JSON value."""
    yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*here, key))


def damage_value(value, data):
    """The JSON value with one place replaced, removed, doubled or with its order reversed."""
    place = data.draw(st.sampled_from(list(places(value))))
    new = data.draw(VALUES)
    if not place:
        return new
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    kind = data.draw(st.sampled_from(["replace", "remove", "double", "reverse"]))
    if kind == "replace":
        parent[place[-1]] = new
    elif kind == "remove":
        del parent[place[-1]]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[place[-1]])
    elif isinstance(parent, list):
        parent.reverse()
    else:
        items = list(parent.items())[::-1]
        parent.clear()
        parent.update(items)
    return value


def damage_bytes(content, data):
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        if not content:
            break
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "cut", "truncate", "token"]))
        if kind == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(max_size=3))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 9))]
        elif kind == "token":
            content[place:place] = data.draw(
                st.sampled_from([b"NaN", b"1e999", b"##", b"\n", b"\xef\xbb\xbf", b"\x00"])
            )
        else:
            del content[place:]
    return bytes(content)


def check_reading(root, format):
    """Reading ends in an error of ours exactly where the check finds something that cannot be mended."""
    faults = list(check_annotations(root, format))
    for fault in faults:
        assert "\n" not in str(fault)
        str(fault).encode()
    broken = [fault for fault in faults if not fault.mended]
    if broken:
        with pytest.raises(InputError) as error:
            read_annotations(root, format, val_fraction=0.0)
        assert str(error.value) in {str(fault) for fault in broken}
        return
    splits = read_annotations(root, format, val_fraction=0.0)
    check_queries(splits)
    for queries in splits.values():
        summarise(queries)


FUZZ = settings(
    max_examples=int(os.environ.get("OMMATID_FUZZ", "40")), deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("format", FILES)
@FUZZ
@given(data=st.data())
def test_damaged_bytes_give_an_error_of_ours_or_sound_queries(format, data):
    files = {name: content.encode() for name, content in FILES[format]().items()}
    name = data.draw(st.sampled_from(sorted(files)))
    files[name] = damage_bytes(files[name], data)
    with TemporaryDirectory() as root:
        check_reading(put(Path(root), files), format)


@pytest.mark.parametrize("format", [format for format in FILES if format != "charades"])
@FUZZ
@given(data=st.data())
def test_damaged_values_give_an_error_of_ours_or_sound_queries(format, data):
    files = FILES[format]()
    name = data.draw(st.sampled_from(sorted(name for name in files if name.endswith((".json", ".jsonl")))))
    records = [json.loads(line) for line in files[name].splitlines()]
    which = data.draw(st.integers(0, len(records) - 1))
    for _ in range(data.draw(st.integers(1, 2))):
        records[which] = damage_value(records[which], data)
    files[name] = "\n".join(map(json.dumps, records))
    with TemporaryDirectory() as root:
        check_reading(put(Path(root), files), format)


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["AO8RW", "3MSZA", "X", ""]),
            st.sampled_from(["0.0", "5", "31.2", "99", "-1", "nan", "1e400", "", "x"]),
            st.sampled_from(["4.0", "30.9", "33.7", "0.0", "inf", "-2", "1_0"]),
            st.sampled_from(["##", "##3.0##", "##x##", "#", ""]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        ),
        max_size=4,
    )
)
def test_any_charades_line_gives_an_error_of_ours_or_sound_queries(lines):
    files = charades_files()
    files["charades_sta_test.txt"] += "".join(f"{v} {s} {e}{mark}{text}\n" for v, s, e, mark, text in lines)
    with TemporaryDirectory() as root:
        check_reading(put(Path(root), files), "charades")


@FUZZ
@given(data=st.data())
def test_the_order_of_records_and_keys_does_not_matter(data):
    def shuffled(value):
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in data.draw(st.permutations(sorted(value)))}
        return value

    files = activitynet_files()
    mixed = {name: json.dumps(shuffled(json.loads(content))) for name, content in files.items()}
    with TemporaryDirectory() as root:
        expected = read_annotations(put(Path(root), files))
        found = read_annotations(put(Path(root), mixed))
    for name in expected:
        assert sorted(found[name], key=lambda q: q.qid) == sorted(expected[name], key=lambda q: q.qid)
