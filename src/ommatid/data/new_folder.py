"""A folder that is there as a whole or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ommatid.errors import InputError


@contextmanager
def new_folder(root: str | Path) -> Iterator[Path]:
    """Within the context, a folder beside `root` to write into; it takes the place of `root` where nothing went wrong.

    Raises:
        InputError: `root` is a file or a folder with files in it, or cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as there:
        ...     with new_folder(f"{there}/world") as aside:
        ...         _ = (aside / "labels.txt").write_text("cat")
        ...     (Path(there) / "world" / "labels.txt").read_text()
        'cat'
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: found {'files in it' if root.is_dir() else 'a file'}, expected a new folder")
    aside = root.absolute().parent / f".{root.name}.{uuid.uuid4().hex}.part"
    try:
        aside.mkdir(parents=True)
        yield aside
        if root.exists():
            root.rmdir()
        aside.rename(root)
    except OSError as error:
        raise InputError(f"{root}: {error.strerror or error}, expected a folder that can be written") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
