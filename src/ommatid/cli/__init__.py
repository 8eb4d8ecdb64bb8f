"""The command `ommatid`. It parses, calls a function of the library, and prints; nothing else happens here.

torch is imported only by the verbs that need it, so that `ommatid list` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ommatid import __version__
from ommatid.cli.settings import free_options, settings_help, split_settings
from ommatid.cli.verbs import VERBS, Verb
from ommatid.errors import InputError, OmmatidError, unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 (a check found faults), 2 (an error) or 130 (interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        with _one_voice():
            return _dispatch(argv)
    except KeyboardInterrupt:
        print("ommatid: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`ommatid list | head`); Python would complain once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OmmatidError, OSError, BrokenExecutor) as error:
        if debug:
            raise
        print(f"ommatid: error: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2


def _sentence(error: Exception) -> str:
    if isinstance(error, BrokenExecutor):
        return (
            "the process of a training was killed, perhaps for lack of memory; finished trainings are kept, "
            "the same command goes on from there"
        )
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return " ".join(f"{where}{error.strerror or error}".split())
    return str(error)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of the processes of one training only the first prints its results."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    if next((rank for rank in ranks if rank), "0") == "0":
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())  # noqa: T201
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"ommatid {__version__}")  # noqa: T201
        return 0
    name, rest = argv[0], argv[1:]
    if name not in VERBS:
        raise unknown("command", name, VERBS)
    verb = VERBS[name]
    parser = _Parser(
        prog=f"ommatid {name}",
        description=verb.summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # `--model.x` is not an option of the parser, and must not be taken for the short form of one.
        allow_abbrev=False,
    )
    verb.declare(parser)
    if {"-h", "--help"} & set(rest):
        parser.epilog = settings_help(rest, verb.groups, verb.inputs)
    settings, rest = split_settings(rest, verb.groups)
    inputs: dict[str, str] = {}
    if verb.inputs:
        # First, so that no value of theirs is taken for the checkpoint.
        inputs, rest = free_options(rest, _options(parser))
    arguments, left = parser.parse_known_args(rest)
    if verb.inputs:
        arguments.inputs = inputs
    _refuse(left, name, verb, parser)
    for group, values in settings.items():
        setattr(arguments, group, values)
    return verb.run(arguments) or 0


def _refuse(left: Sequence[str], name: str, verb: Verb, parser: argparse.ArgumentParser) -> None:
    if not left:
        return
    if left[0].startswith("-"):
        known = [*_options(parser), *(f"--{group}.x" for group in verb.groups)]
        raise unknown(f"option of 'ommatid {name}'", left[0].split("=")[0], known)
    raise InputError(f"ommatid {name}: unexpected argument {left[0]!r}; see 'ommatid {name} --help'")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Every option of a parser and of its subcommands."""
    options: list[str] = []
    for action in parser._actions:
        options += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            options += [option for below in action.choices.values() for option in _options(below)]
    return options


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are our errors: one sentence, exit code 2, no usage text."""

    def error(self, message: str) -> Any:
        raise InputError(f"{self.prog}: {message}; see '{self.prog} --help'")


def _overview() -> str:
    lines = [f"ommatid {__version__}: published vision and multimodal methods by name", "", "commands:"]
    lines += [f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "'ommatid COMMAND --help' explains a command; --debug shows the traceback of an error."]
    return "\n".join(lines)
