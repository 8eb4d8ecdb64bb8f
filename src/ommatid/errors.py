"""What goes wrong on the user's side, said in one sentence.

Everything a user can cause (a missing file, a misspelt name, a feature of the wrong width, a truncated archive) is
raised as an `InputError` whose message names the file or argument, what was found, and what was expected. The command
line prints that sentence and exits with code 2; Python users catch `InputError`, which is a `ValueError`.
"""

import difflib
from collections.abc import Iterable


class OmmatidError(Exception):
    """Base of every error that ommatid raises on purpose."""


class InputError(OmmatidError, ValueError):
    """A file, name or argument given by the user is not usable; the message is one sentence."""


class CheckpointError(InputError):
    """A checkpoint is damaged, of another method, of a newer version, or carries more than tensors."""


class MissingDependency(OmmatidError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


def shortened(entry: object) -> str:
    """What was found, as a sentence shows it.

    Examples:
        >>> shortened("a line"), len(shortened("a line " * 99))
        ("'a line'", 80)
    """
    text = repr(entry)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with the nearest known names.

    Examples:
        >>> str(unknown("method", "mgsl", ["cmi", "mgsl-net"]))
        "unknown method 'mgsl': did you mean 'mgsl-net'?"
        >>> str(unknown("method", "zzz", ["cmi", "mgsl-net"]))
        "unknown method 'zzz': expected one of 'cmi', 'mgsl-net'"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        # A second guess is worth naming only where it is about as good as the first.
        likeness = {guess: difflib.SequenceMatcher(None, guess, name).ratio() for guess in near}
        near = [guess for guess in near if likeness[guess] > likeness[near[0]] - 0.1]
        return InputError(f"unknown {kind} {name!r}: did you mean {' or '.join(map(repr, near))}?")
    return InputError(f"unknown {kind} {name!r}: expected one of {', '.join(map(repr, known))}")
