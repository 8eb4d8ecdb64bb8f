"""Features of images whose classes are described by attributes; some classes have a description and no training image.

| format | what lies in the folder |
|---|---|
| `xlsa17` | `res101.mat` and `att_splits.mat` of the "proposed splits", here or in a folder for every data set |
| `table` | `features.npy`, `samples.csv` and `attributes.csv` |

The table is the format for data of your own. Row i of `features.npy` (samples, features) belongs to line i of
`samples.csv` below its header; what is in no part of training has no training image, and is to be recognised without.

    samples.csv          attributes.csv
    class,part           class,stripes,hooves,tail length
    zebra,train          zebra,1,1,0.5
    zebra,test           horse,0,1,0.7
    okapi,test           okapi,0.8,1,0.2

`part` is train, val or test. Classes of val are trained on like those of train in the end, and kept back while settings
are chosen; without any, every fifth class serves for that.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.data.features import save_array
from ommatid.data.new_folder import new_folder
from ommatid.errors import InputError, MissingDependency, unknown
from ommatid.files import csv_rows, numbered_lines

ZERO_SHOT_FORMATS = ("xlsa17", "table")
SPLITS = ("trainval", "test_seen", "test_unseen")
CHOOSING = ("train", "val")
"""Further splits, for choosing settings: samples of some seen classes, and of the others."""
PARTS = ("train", "val", "test")
EVERY = 5
"""Every fifth seen class is kept back for choosing settings where the data do not say which."""
Rows = Int[Tensor, " _"]


@dataclass(frozen=True, eq=False)
class ZeroShotSet:
    """Features of samples, attributes of classes, and who may be seen when.

    Attributes:
        labels: numbers of classes, rows of `attributes`.
        splits: rows of samples: "trainval", "test_seen" and "test_unseen", and perhaps "train" and "val", whose classes
            have nothing in common. As in the official files, these two may also hold samples of "test_seen".

    Raises:
        InputError: a value is not finite, a label or row is out of range, splits or their classes overlap where they
            must not, or nothing is left to train on.

    Examples:
        >>> rows = {"trainval": [0, 1], "test_seen": [2], "test_unseen": [3]}
        >>> data = ZeroShotSet(
        ...     torch.rand(4, 3), torch.tensor([0, 1, 0, 2]), torch.rand(3, 2),
        ...     {name: torch.tensor(each) for name, each in rows.items()}, ("horse", "tiger", "zebra"),
        ... )
        >>> data.seen.tolist(), data.unseen.tolist()
        ([0, 1], [2])
    """

    features: Float[Tensor, "sample feature"]
    labels: Int[Tensor, " sample"]
    attributes: Float[Tensor, "class attribute"]
    splits: dict[str, Rows]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_values(self)
        _check_splits(self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def seen(self) -> Int[Tensor, " class"]:
        """Classes that have training samples."""
        return self.labels[self.splits["trainval"]].unique()

    @property
    def unseen(self) -> Int[Tensor, " class"]:
        """Classes that have a description only."""
        known = torch.zeros(len(self.attributes), dtype=torch.bool)
        known[self.seen] = True
        return (~known).nonzero()[:, 0]

    def kept_back(self) -> Int[Tensor, " class"]:
        """The seen classes on which settings are chosen: those of "val", or every fifth."""
        if "val" in self.splits:
            return self.labels[self.splits["val"]].unique()
        return self.seen[EVERY - 1 :: EVERY]


@dataclass(frozen=True, eq=False)
class MinMax:
    """Every dimension to [0, 1] on the samples it is fitted to; other samples may leave that range.

    Dimensions that are constant there are 0 for every sample.

    Examples:
        >>> scale = MinMax.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> scale(torch.tensor([[2.0, 5.0], [5.0, 6.0]]))
        tensor([[0.5000, 0.0000],
                [2.0000, 0.0000]])
    """

    minimum: Float[Tensor, " feature"]
    extent: Float[Tensor, " feature"]

    @classmethod
    def fit(cls, features: Float[Tensor, "sample feature"]) -> "MinMax":
        minimum, maximum = features.aminmax(dim=0)
        return cls(minimum, maximum - minimum)

    def __call__(self, features: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample feature"]:
        return torch.where(self.extent > 0, (features - self.minimum) / self.extent, 0.0)


def unit_attributes(attributes: Float[Tensor, "class attribute"]) -> Float[Tensor, "class attribute"]:
    """Descriptions of length one."""
    return F.normalize(attributes, dim=1)


def open_zero_shot(
    root: str | Path, format: str = "auto", dataset: str | None = None, features: str = "res101"
) -> ZeroShotSet:
    """A data set in one of the formats above.

    Args:
        format: one of `ZERO_SHOT_FORMATS`, or "auto".
        dataset, features: see `xlsa17`.

    Raises:
        InputError: the folder is missing or in no known format, or the data are faulty.
    """
    format = detect_zero_shot_format(root) if format == "auto" else format
    if format == "xlsa17":
        return xlsa17(root, dataset, features)
    if format == "table":
        return read_table(root)
    raise unknown("zero-shot format", format, ZERO_SHOT_FORMATS)


def detect_zero_shot_format(root: str | Path) -> str:
    """The one of `ZERO_SHOT_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing or in none of the formats.
    """
    root = _folder(root)
    if (root / "attributes.csv").is_file():
        return "table"
    if any(root.glob("att_splits.mat")) or any(root.glob("*/att_splits.mat")):
        return "xlsa17"
    raise InputError(
        f"{root}: found neither attributes.csv nor att_splits.mat, expected one of the formats "
        f"{', '.join(ZERO_SHOT_FORMATS)}"
    )


# The layout of the proposed splits.


def xlsa17(root: str | Path, dataset: str | None = None, features: str = "res101") -> ZeroShotSet:
    """The benchmark layout: features (D, N) and labels from 1 on, attributes (K, C), rows of the splits from 1 on.

    Files of MATLAB 5 and 7 are read by scipy, those of MATLAB 7.3 by h5py. `train_loc` and `val_loc` may be missing, as
    they are in some distributions; the classes in `valclasses1.txt` then take their place.

    Args:
        root: the folder of one data set, or the one around those of several.
        dataset: which of several, such as "AWA2".
        features: name of the file with features and labels; those of another network can lie beside.

    Raises:
        InputError: a file or an entry is missing or damaged, or the values are faulty (see `ZeroShotSet`).
        MissingDependency: files of MATLAB 7.3 without h5py installed.
    """
    folder = _xlsa17_folder(_folder(root), dataset)
    source, described = folder / f"{features}.mat", folder / "att_splits.mat"
    images = _read_mat(source, ("features", "labels"))
    content = _read_mat(described, ("att", "allclasses_names", *(f"{name}_loc" for name in SPLITS)), CHOOSING_ENTRIES)
    values = _matrix(source, "features", images).T
    attributes = _matrix(described, "att", content).T
    rows = {name: f"{name}_loc" for name in (*SPLITS, *CHOOSING) if f"{name}_loc" in content}
    labels = _from_one(source, "labels", images, len(attributes), "a class")
    if len(labels) != len(values):
        raise InputError(f"{source}: found {len(labels)} labels of {len(values)} samples, expected one each")
    splits = {name: _from_one(described, entry, content, len(values), "a sample") for name, entry in rows.items()}
    names = _names(described, content["allclasses_names"])
    made = _made(folder, torch.from_numpy(values), labels, torch.from_numpy(attributes), splits, names)
    return made if "val" in splits else _with_listed_classes(folder, made)


CHOOSING_ENTRIES = tuple(f"{name}_loc" for name in CHOOSING)


def _xlsa17_folder(root: Path, dataset: str | None) -> Path:
    if dataset is None and (root / "att_splits.mat").is_file():
        return root
    known = sorted(path.parent.name for path in root.glob("*/att_splits.mat"))
    if dataset is None:
        if len(known) != 1:
            raise InputError(
                f"{root}: found {', '.join(known) or 'no att_splits.mat'}, expected one data set; name it by dataset"
            )
        return root / known[0]
    if dataset not in known:
        raise unknown(f"data set in {root}", dataset, known)
    return root / dataset


def _with_listed_classes(folder: Path, data: ZeroShotSet) -> ZeroShotSet:
    """The classes to choose settings on from `valclasses1.txt`, where it lies beside."""
    file = folder / "valclasses1.txt"
    if not file.is_file():
        return data
    listed = {line for _, line in numbered_lines(file, "names of classes, one a line")}
    missing = sorted(listed - set(data.class_names))
    if missing or not listed:
        raise InputError(f"{file}: found {(missing or ['nothing'])[0]!r}, expected names of classes in att_splits.mat")
    chosen = torch.tensor([name in listed for name in data.class_names])
    trained = data.splits["trainval"]
    back = chosen[data.labels[trained]]
    return replace(data, splits={**data.splits, "train": trained[~back], "val": trained[back]})


def _read_mat(path: Path, needed: Sequence[str], more: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Entries of a MAT file as MATLAB shows them."""
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: no such file, expected {', '.join(needed)} in the layout of xlsa17")
    wanted = [*needed, *more]
    try:
        content = loadmat(path, variable_names=wanted)
    except NotImplementedError:
        content = _read_mat73(path, wanted)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(f"{path}: not a readable MAT file ({type(error).__name__})") from error
    missing = [name for name in needed if name not in content]
    if missing:
        raise InputError(f"{path}: found no entry {missing[0]!r}, expected {', '.join(needed)}")
    return {name: content[name] for name in wanted if name in content}


def _read_mat73(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """MATLAB 7.3 is HDF5 with axes reversed; the names of a cell array are references to arrays of characters."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency(f"{path} is of MATLAB 7.3 and needs h5py: pip install 'ommatid[video]'") from error
    try:
        with h5py.File(path, "r") as file:
            return {name: _hdf5_array(file, file[name]) for name in wanted if name in file}
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise InputError(f"{path}: not a readable MAT file ({type(error).__name__})") from error


def _hdf5_array(file: Any, stored: Any) -> np.ndarray:
    if stored.dtype != object:
        return np.asarray(stored[()]).T
    texts = ["".join(map(chr, np.asarray(file[place][()]).ravel())) for place in np.asarray(stored[()]).ravel()]
    return np.array(texts, dtype=object)


def _matrix(path: Path, name: str, content: Mapping[str, np.ndarray]) -> np.ndarray:
    array = content[name]
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise InputError(
            f"{path}: {name} is of shape {array.shape} and type {array.dtype}, expected a table of numbers"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _from_one(path: Path, name: str, content: Mapping[str, np.ndarray], largest: int, what: str) -> Rows:
    """Whole numbers from 1 on as numbers from 0 on."""
    numbers = np.asarray(content[name]).ravel()
    if numbers.dtype.kind not in "fiu" or not np.array_equal(numbers, np.round(numbers.astype(np.float64))):
        raise InputError(f"{path}: {name} is of type {numbers.dtype}, expected whole numbers")
    numbers = numbers.astype(np.int64)
    wrong = (numbers < 1) | (numbers > largest)
    if wrong.any():
        place = int(wrong.argmax())
        raise InputError(
            f"{path}: {name} {place + 1} is {numbers[place]}, expected the number of {what} from 1 to {largest}"
        )
    return torch.from_numpy(numbers - 1)


def _names(path: Path, array: np.ndarray) -> tuple[str, ...]:
    found = [np.asarray(item).ravel() for item in array.ravel()]
    if any(item.size != 1 for item in found):
        raise InputError(f"{path}: allclasses_names has an empty name, expected one for every class")
    return tuple(str(item[0]).strip() for item in found)


def write_xlsa17(data: ZeroShotSet, root: str | Path, dataset: str | None = None, features: str = "res101") -> Path:
    """Write the two files of the benchmark layout; the folder they lie in.

    Args:
        dataset: name of a folder below `root`; `root` itself where None.

    Raises:
        InputError: the folder has files in it.
    """
    from scipy.io import savemat

    names = np.empty((len(data.class_names), 1), dtype=object)
    names[:, 0] = data.class_names
    rows = {f"{name}_loc": _column(each) for name, each in data.splits.items()}
    folder = Path(root) if dataset is None else Path(root) / dataset
    with new_folder(folder) as aside:
        savemat(aside / f"{features}.mat", {"features": data.features.T.numpy(), "labels": _column(data.labels)})
        savemat(aside / "att_splits.mat", {"att": data.attributes.T.numpy(), "allclasses_names": names, **rows})
    return folder


def _column(numbers: Rows) -> np.ndarray:
    """Numbers from 1 on, one a row, of MATLAB's own kind."""
    return (numbers[:, None] + 1).numpy().astype(np.float64)


# One's own tables.


def read_table(root: str | Path) -> ZeroShotSet:
    """`features.npy`, `samples.csv` and `attributes.csv`, see the head of this module.

    Raises:
        InputError: a file is missing or damaged, or a line is faulty (it is named).
    """
    root = _folder(root)
    names, attributes = read_attributes(root / "attributes.csv")
    number_of = {name: number for number, name in enumerate(names)}
    values = read_feature_rows(root / "features.npy")
    file = root / "samples.csv"
    labels: list[int] = []
    rows: dict[str, list[int]] = {part: [] for part in PARTS}
    for line, record in _records(file, ("class", "part")):
        if record[0] not in number_of:
            raise InputError(f"{file}, line {line}: {unknown('class', record[0], number_of)}")
        if record[1] not in rows:
            raise InputError(f"{file}, line {line}: {unknown('part', record[1], PARTS)}")
        rows[record[1]].append(len(labels))
        labels.append(number_of[record[0]])
    if len(labels) != len(values):
        raise InputError(f"{file}: found {len(labels)} samples, expected {len(values)} as in features.npy")
    numbers = torch.tensor(labels, dtype=torch.long)
    parts = {part: torch.tensor(each, dtype=torch.long) for part, each in rows.items()}
    trained = torch.cat([parts["train"], parts["val"]]).sort().values
    known = torch.isin(numbers[parts["test"]], numbers[trained])
    splits = {"trainval": trained, "test_seen": parts["test"][known], "test_unseen": parts["test"][~known]}
    choosing = {"train": parts["train"], "val": parts["val"]} if len(parts["val"]) else {}
    return _made(root, values, numbers, attributes, {**splits, **choosing}, names)


def write_table(data: ZeroShotSet, root: str | Path) -> Path:
    """Write one's own format; samples in no split are left out.

    Raises:
        InputError: the folder has files in it.
    """
    part_of = {int(row): "train" for row in data.splits["trainval"]}
    back = set(data.kept_back().tolist()) if "val" in data.splits else set()
    part_of |= {row: "val" for row in part_of if int(data.labels[row]) in back}
    part_of |= {int(row): "test" for name in ("test_seen", "test_unseen") for row in data.splits[name]}
    rows = sorted(part_of)
    header = ["class", *(f"attribute {number + 1}" for number in range(data.attributes.shape[1]))]
    described = [[name, *row] for name, row in zip(data.class_names, data.attributes.tolist(), strict=True)]
    with new_folder(root) as aside:
        save_array(aside / "features.npy", data.features[rows].numpy())
        _write_csv(aside / "samples.csv", [["class", "part"], *_sample_lines(data, rows, part_of)])
        _write_csv(aside / "attributes.csv", [header, *described])
    return Path(root)


def _sample_lines(data: ZeroShotSet, rows: Sequence[int], part_of: Mapping[int, str]) -> list[list[str]]:
    return [[data.class_names[int(data.labels[row])], part_of[row]] for row in rows]


def _write_csv(path: Path, lines: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def read_attributes(
    path: str | Path, attribute_dim: int | None = None
) -> tuple[tuple[str, ...], Float[Tensor, "class attribute"]]:
    """Classes and their descriptions: a csv with a header, a name and then numbers in every line.

    Args:
        attribute_dim: how many numbers a class must have; as many as the header says where None.

    Raises:
        InputError: the file is missing, a line is faulty (it is named), or a name comes twice.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "attributes.csv"
        >>> _ = file.write_text("class,stripes,hooves\\nzebra,1,1\\ntiger,1,0\\n")
        >>> read_attributes(file)
        (('zebra', 'tiger'), tensor([[1., 1.],
            [1., 0.]]))
    """
    path = Path(path)
    names: dict[str, int] = {}
    rows = []
    for line, (name, *values) in _records(path, None, None if attribute_dim is None else attribute_dim + 1):
        if not name or name in names:
            raise InputError(f"{path}, line {line}: found {name!r}, expected the name of a class, each once")
        names[name] = line
        rows.append([_number(path, line, value) for value in values])
    if not rows or not rows[0]:
        raise InputError(f"{path}: found no classes with attributes, expected one a line")
    return tuple(names), torch.tensor(rows)


def read_feature_rows(path: str | Path, feature_dim: int | None = None) -> Float[Tensor, "sample feature"]:
    """Features as they come from a network: one row a sample, in a .npy, a .npz or a .csv of numbers.

    A .npz has a single array, or one called `features`; a .csv may have a header.

    Raises:
        InputError: the file is missing or damaged, has no rows, rows of another width, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected features, one row a sample")
    readers: dict[str, Callable[[Path], np.ndarray]] = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_numbers}
    if path.suffix not in readers:
        raise InputError(f"{path}: not a file of features, expected .npy, .npz or .csv")
    array = readers[path.suffix](path)
    if array.ndim == 1 and feature_dim is not None:
        array = array[None]
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise InputError(
            f"{path}: found shape {array.shape} and type {array.dtype}, expected a row of numbers a sample"
        )
    if feature_dim is not None and array.shape[1] != feature_dim:
        raise InputError(f"{path}: found {array.shape[1]} features a sample, expected {feature_dim}")
    with np.errstate(over="ignore"):
        rows = torch.from_numpy(array.astype(np.float32))
    _refuse_broken(rows, f"{path}: sample")
    return rows


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise InputError(f"{path}: not a readable array of numbers ({type(error).__name__})") from error


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name == "features"] or file.files
            if len(names) == 1:
                return file[names[0]]
    except Exception as error:
        raise InputError(f"{path}: not a readable archive of arrays ({type(error).__name__})") from error
    raise InputError(f"{path}: found the arrays {', '.join(names) or 'none'}, expected one called 'features'")


def _read_numbers(path: Path) -> np.ndarray:
    lines = csv_rows(path, "a table")
    if lines and not _is_number(lines[0][1][0]):
        lines = lines[1:]
    width = len(lines[0][1]) if lines else 0
    for line, cells in lines:
        if len(cells) != width:
            raise InputError(f"{path}, line {line}: found {len(cells)} numbers, expected {width}")
    return np.array([[_number(path, line, cell) for cell in cells] for line, cells in lines], dtype=np.float32)


def _records(path: Path, header: Sequence[str] | None, width: int | None = None) -> list[tuple[int, list[str]]]:
    """Lines below the header with their number; all as wide as the header, or as `width`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected {','.join(header or ('class', 'attributes...'))}")
    lines = csv_rows(path, "a table")
    if not lines or (header is not None and lines[0][1] != list(header)):
        found = ",".join(lines[0][1]) if lines else "nothing"
        raise InputError(f"{path}: found the header {found!r}, expected {','.join(header or ('class', 'attribute'))!r}")
    width = len(lines[0][1]) if width is None else width
    for line, cells in lines[1:]:
        if len(cells) != width:
            raise InputError(f"{path}, line {line}: found {len(cells)} columns, expected {width}")
    return lines[1:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, text: str) -> float:
    if not _is_number(text):
        raise InputError(f"{path}, line {line}: found {text!r}, expected a number")
    return float(text)


# Checks.


def _made(folder: Path, *parts: Any) -> ZeroShotSet:
    """A set whose faults name the folder it comes from."""
    try:
        return ZeroShotSet(*parts)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _check_values(data: ZeroShotSet) -> None:
    classes = len(data.attributes)
    if len(data.labels) != len(data.features):
        raise InputError(f"labels: found {len(data.labels)}, expected {len(data.features)}, one a sample")
    if len(data.class_names) != classes:
        raise InputError(f"class_names: found {len(data.class_names)}, expected {classes} as there are attributes of")
    repeated = sorted({name for name in data.class_names if data.class_names.count(name) > 1})
    if repeated:
        raise InputError(f"class_names: found {repeated[0]!r} more than once, expected every name once")
    _refuse_broken(data.features, "features: sample")
    _refuse_broken(data.attributes, "attributes: class")
    wrong = (data.labels < 0) | (data.labels >= classes)
    if wrong.any():
        place = int(wrong.int().argmax())
        raise InputError(f"labels: sample {place} has {int(data.labels[place])}, expected a class below {classes}")


def _check_splits(data: ZeroShotSet) -> None:
    missing = [name for name in SPLITS if name not in data.splits]
    if missing:
        raise InputError(f"splits: found no {missing[0]!r}, expected {', '.join(SPLITS)}")
    for name, rows in data.splits.items():
        if name not in (*SPLITS, *CHOOSING):
            raise unknown("split", name, (*SPLITS, *CHOOSING))
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(data):
            raise InputError(f"splits: {name} has rows outside 0 to {len(data) - 1}, expected rows of samples")
        if len(rows.unique()) < len(rows):
            raise InputError(f"splits: {name} has a sample more than once, expected every sample once")
    if not len(data.splits["trainval"]):
        raise InputError("splits: trainval is empty, expected training samples")
    _refuse_common(data.splits, "trainval", "test_seen", "samples")
    _refuse_common(data.splits, "trainval", "test_unseen", "samples")
    classes = {name: data.labels[rows] for name, rows in data.splits.items()}
    _refuse_common(classes, "trainval", "test_unseen", "classes")
    if not bool(torch.isin(classes["test_seen"], classes["trainval"]).all()):
        raise InputError("splits: test_seen has classes without training samples, expected those of trainval")
    if "val" in classes:
        if "train" not in classes:
            raise InputError("splits: found 'val' without 'train', expected both or none")
        _refuse_common(classes, "train", "val", "classes")
        if not bool(torch.isin(classes["val"], classes["trainval"]).all()):
            raise InputError("splits: val has classes without samples in trainval, expected some of its classes")


def _refuse_common(numbers: Mapping[str, Tensor], first: str, second: str, what: str) -> None:
    if bool(torch.isin(numbers[first], numbers[second]).any()):
        raise InputError(f"splits: {first} and {second} have {what} in common, expected none")


def _refuse_broken(values: Tensor, where: str) -> None:
    broken = ~values.isfinite().all(dim=1)
    if broken.any():
        raise InputError(f"{where} {int(broken.int().argmax())} has NaN or infinite values, expected finite ones")


def _folder(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected features and attributes of a zero-shot data set")
    return root
