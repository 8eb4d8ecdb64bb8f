"""What the JSON files of nnU-Net's raw data say: names of classes and organs, and the folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.data.volume_files import ENDINGS
from ommatid.errors import InputError, shortened
from ommatid.files import read_json

FOLDS = 5
"""As many as nnU-Net makes where it finds none."""
MOST_CLASSES = 254
MOST_DIGITS = 9
CT = "CT"
"""What the images show where no channel is named."""


@dataclass(frozen=True)
class Description:
    """What `dataset.json` says.

    Attributes:
        class_names: of the classes 1, 2, ...; 0 is background.
        ignored: the label that means that nobody knows; None without one.
        organ_names: of the organs 1, 2, ...
        anchors: names of the organs that are found first.
        channel: name of what the images show, as "CT" or "T1".
    """

    class_names: tuple[str, ...]
    ignored: int | None
    organ_names: tuple[str, ...]
    anchors: tuple[str, ...]
    ending: str
    channel: str


def read_description(root: Path) -> Description:
    """What `dataset.json` says of classes, organs and files.

    Raises:
        InputError: the file is missing or no JSON, classes are not numbered 0, 1, ... without gaps, or there is more
            than one channel.
    """
    path = root / "dataset.json"
    content = read_json(path, "names of classes and channels")
    if not isinstance(content, dict) or "labels" not in content:
        raise InputError(f"{path}: found no labels, expected the names of classes")
    numbers = _numbers(path, "labels", content["labels"])
    ignored = numbers.pop("ignore", None)
    names = _in_order(path, "labels", numbers, 0)[1:]
    if ignored is not None and ignored <= len(names):
        raise InputError(f"{path}: found {ignored} for ignore, expected the highest of the labels")
    channel = _channel(path, content.get("channel_names", content.get("modality", {"0": CT})))
    organs = _numbers(path, "organs", content.get("organs", {}))
    organs.pop("background", None)
    ending = str(content.get("file_ending", ENDINGS[0]))
    if ending not in ENDINGS:
        raise InputError(f"{path}: found file_ending {ending!r}, expected {' or '.join(ENDINGS)}")
    organ_names = _in_order(path, "organs", organs, 1)
    anchors = content.get("anchors", [])
    if not isinstance(anchors, list):
        raise InputError(f"{path}: found {shortened(anchors)} for anchors, expected a list of organs")
    for name in anchors:
        if name not in organ_names:
            raise InputError(f"{path}: found the anchor {name!r}, expected one of the organs")
    return Description(names, ignored, organ_names, tuple(anchors), ending, channel)


def _channel(path: Path, channels: Any) -> str:
    """The name of the only one, of {number: name} or [name]."""
    names = list(channels.values()) if isinstance(channels, dict) else channels
    if not isinstance(names, list):
        raise InputError(f"{path}: found {shortened(channels)} for channel_names, expected {{number: name}}")
    if len(names) != 1:
        raise InputError(f"{path}: found {len(names)} channels, expected 1")
    return str(names[0])


def _numbers(path: Path, key: str, labels: Any) -> dict[str, int]:
    """Number by name, of the form that nnU-Net has now, {name: number}, or of the older one, {"number": name}."""
    if not isinstance(labels, dict):
        raise InputError(f"{path}: found {key} that are no names with numbers, expected {{name: number}}")
    older = (
        bool(labels)
        and all(_is_number(name) for name in labels)
        and not any(isinstance(value, int) for value in labels.values())
    )
    pairs = [(str(value), name) for name, value in labels.items()] if older else list(labels.items())
    numbers: dict[str, int] = {}
    for name, number in pairs:
        if isinstance(number, list):
            raise InputError(f"{path}: found a region of several labels for {name!r}, expected one number")
        if not _is_number(str(number)):
            raise InputError(
                f"{path}: found {shortened(number)} for {name!r} in {key}, expected a whole number from 0 on"
            )
        if name in numbers:
            raise InputError(f"{path}: found {name!r} twice in {key}, expected different names")
        numbers[name] = int(number)
    return numbers


def _is_number(text: str) -> bool:
    """Whether it is a whole number from 0 on; digits of other scripts and superscripts are none."""
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


def _in_order(path: Path, key: str, numbers: dict[str, int], first: int) -> tuple[str, ...]:
    names = tuple(sorted(numbers, key=lambda name: numbers[name]))
    found = [numbers[name] for name in names]
    if found != list(range(first, first + len(names))) or len(names) > MOST_CLASSES or (first == 0 and len(names) < 2):
        raise InputError(
            f"{path}: found the numbers {', '.join(map(str, found[:12])) or 'none'} in {key}, expected {first}, "
            f"{first + 1}, ... without gaps"
        )
    return names


def read_fold(root: Path, cases: tuple[str, ...], fold: int) -> dict[str, list[str]]:
    """Names of the cases to train and to validate with.

    Raises:
        InputError: `splits_final.json` is faulty, has no such fold, or names a case that is not there.
    """
    path = root / "splits_final.json"
    folds = read_json(path, "folds") if path.is_file() else _made_folds(root, cases)
    if not isinstance(folds, list) or not all(
        isinstance(each, dict) and all(isinstance(each.get(split), list) for split in ("train", "val"))
        for each in folds
    ):
        raise InputError(f'{path}: found another form, expected a list of {{"train": [...], "val": [...]}}')
    if not 0 <= fold < len(folds):
        raise InputError(f"{path}: found {len(folds)} folds, expected one numbered {fold}")
    chosen = {split: [str(case) for case in folds[fold][split]] for split in ("train", "val")}
    for split, names in chosen.items():
        for case in names:
            if case not in cases:
                raise InputError(f"{path}: found the case {case!r} in {split} of fold {fold}, expected one of imagesTr")
        if not names:
            raise InputError(f"{path}: found no cases in {split} of fold {fold}, expected at least one")
    for case in set(chosen["train"]) & set(chosen["val"]):
        raise InputError(f"{path}: found the case {case!r} in train and val of fold {fold}, expected it in one")
    return chosen


def _made_folds(root: Path, cases: tuple[str, ...]) -> list[dict[str, list[str]]]:
    """The folds that nnU-Net makes where it finds none."""
    from sklearn.model_selection import KFold

    if len(cases) < FOLDS:
        raise InputError(
            f"{root / 'imagesTr'}: found {len(cases)} cases, expected at least {FOLDS} to make folds of, or "
            "splits_final.json"
        )
    names = np.sort(list(cases))
    parts = KFold(n_splits=FOLDS, shuffle=True, random_state=12345).split(names)
    return [{"train": names[train].tolist(), "val": names[val].tolist()} for train, val in parts]
