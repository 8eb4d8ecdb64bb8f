"""README and docs keep their word: examples run, commands parse, links lead somewhere, names exist.

| block | what happens to it |
|---|---|
| a language and `title="path"` | written to that file, in the page's own empty folder |
| `python` | executed; after the comment `<!-- example: not run -->` only compiled, its calls bound to the signatures |
| `console` | lines behind `$ ` are executed, what follows is compared with their output; `...` stands for anything |
| `bash` | every `ommatid` line is parsed by the real command line, down to the names and types of its settings |

Blocks of a page run in order and share one namespace. Trainings are cut to a few updates.
"""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import io
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import ommatid
import ommatid.datasets
import ommatid.demo
import ommatid.doctor
import ommatid.report.page
import tiny
from ommatid import api, catalogue
from ommatid.cli import main
from ommatid.engine.settings import checked, constructor_arguments, merge
from ommatid.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.is_file()
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
CMI = {
    "model": {"generator_steps": 4, "kd_steps": 4, "synthesis_batch": 16, "kd_batch": 16, "teacher_steps": 30},
    "trainer": {"max_epochs": 2},
}
TINY = {
    name: merge(case, {"trainer": {"accelerator": "cpu", "devices": 1}})
    for name, case in {**tiny.TINY, "cmi": CMI}.items()
}
PLACEHOLDERS = {"METHOD": "mgsl-net", "<name>": "mgsl-net", "VIEW": "rare", "RUN": "runs/mgsl-net/20260101-120000"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str
    text: str
    line: int
    run: bool


def blocks(text: str) -> list[Block]:
    """
    Examples:
        >>> blocks('x\\n```python\\na = 1\\n```\\n')
        [Block(language='python', title='', text='a = 1\\n', line=2, run=True)]
    """
    pattern = r'^(<!-- example: not run -->\n)?```(\w+)(?: title="([^"]+)")?\n(.*?)^```$'
    return [
        Block(found[2], found[3] or "", found[4], text[: found.start(2)].count("\n") + 1, run=found[1] is None)
        for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    ]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# -- executing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """An empty folder to work in, and trainings of a few updates."""
    planned = api.plan

    def cut_short(kind, model, data, trainer, seed=0):
        config, cut = planned(kind, model, data, trainer, seed), TINY[api.catalogue_name(kind)]
        return config | {group: merge(config[group], cut.get(group, {})) for group in ("model", "data", "trainer")}

    monkeypatch.setattr(api, "plan", cut_short)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_examples_run_and_print_what_the_page_shows(name, sandbox):
    # A module of that name exists, so that classes that an example defines can be found by their module.
    module = type(sys)("docs_example")
    sys.modules["docs_example"] = module
    try:
        for block in blocks((ROOT / name).read_text(encoding="utf-8")):
            execute(block, f"{name}:{block.line}", sandbox, vars(module))
    finally:
        del sys.modules["docs_example"]


def execute(block: Block, where: str, folder: Path, namespace: dict) -> None:
    if block.title:
        (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.title).write_text(block.text, encoding="utf-8")
    elif block.language == "python" and block.run:
        with redirect_stdout(io.StringIO()):
            exec(compile(block.text, where, "exec"), namespace)
    elif block.language == "python":
        check_calls(block.text, where)
    elif block.language == "console":
        for line, wanted in console_lines(block.text):
            compare(where, line, wanted, output_of(line))


def console_lines(text: str) -> list[tuple[str, str]]:
    """
    Examples:
        >>> console_lines("$ ommatid list\\ncmi\\n$ ommatid doctor\\n")
        [('ommatid list', 'cmi\\n'), ('ommatid doctor', '')]
    """
    return [(line.strip(), output) for line, output in re.findall(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def output_of(line: str) -> str:
    """What a command prints, on both streams; its exit code is 0 unless it says what is wrong."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(words_of(line))
    faulty = "error:" in printed.getvalue() or ": found " in printed.getvalue()
    assert bool(code) == faulty, f"{line}: exit code {code}\n{printed.getvalue()}"
    return printed.getvalue()


def words_of(line: str) -> list[str]:
    """The arguments of an `ommatid` line as a shell would pass them: quotes removed, `*` expanded."""
    command, *words = shlex.split(line)
    assert command == "ommatid", line
    return [match for word in words for match in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def compare(where: str, line: str, wanted: str, got: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert not wanted or doctest.OutputChecker().check_output(wanted, got, flags), (
        f"{where}: '{line}' printed\n{got}\nthe page shows\n{wanted}"
    )


def check_calls(source: str, where: str) -> None:
    """An example that is too expensive to run compiles, and calls `ommatid.<verb>` as its signature allows."""
    for node in ast.walk(ast.parse(source, where)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ommatid."):
            signature = inspect.signature(getattr(ommatid, ast.unparse(node.func).removeprefix("ommatid.")))
            signature.bind(*node.args, **{word.arg: word.value for word in node.keywords if word.arg})


def test_an_example_that_prints_something_else_is_noticed():
    compare("page", "ommatid list", "...\ncmi ...\n...\nmgsl-net ...\n...\n", output_of("ommatid list"))
    with pytest.raises(AssertionError, match="the page shows"):
        compare("page", "ommatid list", "cmi\n", output_of("ommatid list"))
    assert "error:" in output_of("ommatid list --field nonsense")


def test_an_example_that_fails_is_noticed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        execute(Block("python", "", "1 / 0\n", 1, run=True), "page", tmp_path, {})
    with pytest.raises(TypeError, match="no_such"):
        execute(Block("python", "", "ommatid.train('cmi', no_such=1)\n", 1, run=False), "page", tmp_path, {})


# -- command lines -----------------------------------------------------------------------------------------------------


class Parsed(Exception):
    """Raised in place of a verb's work: the command line was understood."""

    def __init__(self, verb, *args, **kwargs):
        super().__init__(verb)
        self.verb, self.args_given, self.given = verb, args, kwargs


WORK = [
    *((api, verb) for verb in ("train", "resume", "evaluate", "predict", "compare", "claim", "export")),
    *((ommatid.datasets, verb) for verb in ("make", "check", "features", "subtitles")),
    *((ommatid.report.page, "write_report"), (ommatid.doctor, "examine"), (ommatid.demo, "run_demo")),
]


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """`parse(line)` takes an `ommatid` line through the real parser and checks its settings; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    for module, verb in WORK:

        def understood(*args, verb=verb, **kwargs):
            raise Parsed(verb, *args, **kwargs)

        monkeypatch.setattr(module, verb, understood)

    def parsed(line: str) -> None:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:]]
        printed = io.StringIO()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                code = main(words)
        except Parsed as found:
            check_settings(found)
            return
        except SystemExit as leaving:  # argparse has printed its help
            code = leaving.code
        assert not code, f"{line}: {printed.getvalue()}"

    return parsed


def check_settings(found: Parsed) -> None:
    """Names and types of `--model.x`, `--data.x`, `--trainer.x` and of what `predict` is given."""
    for kind in kinds_of(found):
        for group, target in {"model": kind, "data": kind.data_module}.items():
            given = found.given.get(group) or {}
            checked(target.__name__, target, given)
        unknown = set(found.given.get("trainer") or {}) - set(constructor_arguments(Trainer))
        assert not unknown, f"--trainer.{unknown}"
        if found.verb == "predict":
            inputs = {name: value for name, value in found.given.items() if name != "out"}
            inspect.signature(kind.predict).bind(None, **inputs)
    if found.verb == "claim":
        api._chosen_claims(found.args_given[0])


def kinds_of(found: Parsed) -> list:
    """The methods that a command line is about; a run folder says it in its path."""
    if found.verb == "compare":
        return [api.method_class(name) for name in api._chosen_methods(found.args_given[0])]
    if found.verb in ("train", "evaluate", "predict"):
        named = [name for name in catalogue.names() if name in str(found.args_given[0]).split("/")]
        assert named, f"{found.args_given[0]}: names no method of the catalogue"
        return [api.method_class(named[0])]
    return []


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_are_understood(name, parse):
    text = (ROOT / name).read_text(encoding="utf-8")
    for block in blocks(text):
        for line in block.text.splitlines() if block.language == "bash" else []:
            check_shell_line(line, parse)
    for code in re.findall(r"`(ommatid [^`]+)`", without_blocks(text)):
        # Without options it only names a command, whose required arguments are elsewhere.
        parse(code if "--" in code else f"{code} --help")


def check_shell_line(line: str, parse) -> None:
    words = shlex.split(line, comments=True)
    if "ommatid" in words:
        parse(shlex.join(words[words.index("ommatid") :]))
    elif "ommatid.cli" in words:
        parse(shlex.join(["ommatid", *words[words.index("ommatid.cli") + 1 :]]))
    elif words[:2] == ["pip", "install"]:
        extras = importlib.metadata.metadata("ommatid").get_all("Provides-Extra") or []
        wanted = re.findall(r"\w+", words[2].partition("[")[2])
        assert set(wanted) <= set(extras), line
    elif words[:1] == ["make"]:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{line}: the Makefile has {targets}"
    else:
        missing = [word for word in words if re.match(r"(tests|tools|src|docs)/", word) and not (ROOT / word).exists()]
        assert not missing, line


@pytest.mark.parametrize(
    "line",
    [
        "ommatid trian mgsl-net",
        "ommatid train mgsl-net --no-such-option",
        "ommatid train mgsl-net --model.no_such 1",
        "ommatid train mgsl-net --model.recipe.no_such 1",
        "ommatid train mgsl-net --model.memory_slots many",
        "ommatid train mgsl-net --data.no_such 1",
        "ommatid train mgsl-net --trainer.no_such 1",
        "ommatid predict runs/mgsl-net/x --no_such 1",
        "ommatid claim no-such-claim",
        "ommatid compare no-such-field",
    ],
)
def test_a_command_line_that_would_fail_is_noticed(line, parse):
    with pytest.raises((AssertionError, InputError, TypeError)):
        parse(line)


# -- links and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    assert not dead_links(page, page.read_text(encoding="utf-8"))


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = page if not path else (page.parent / path)
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    return dead


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name):
    # What is executed need not be looked up: it may even show a mistake and its answer.
    text = re.sub(r"^```console.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not unknown_names(text)
    assert not unknown_options(text)
    assert not missing_files(text)


def unknown_names(text: str) -> list[str]:
    """Dotted names below `ommatid` that are no module, class, function or attribute."""
    found = set(re.findall(r"(?<![\w/.-])ommatid(?:\.[A-Za-z_]\w*)+", text))
    return sorted(name for name in found if not exists(name))


def exists(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[end:]:
                thing = getattr(thing, part)
        except AttributeError:
            return False
        return True
    return False


def unknown_options(text: str) -> list[str]:
    """`--model.x`, `--data.x` and `--trainer.x` that no method, data module or trainer has."""
    kinds = [api.method_class(name) for name in catalogue.names()]
    known = {
        "model": {argument for kind in kinds for argument in constructor_arguments(kind)},
        "data": {argument for kind in kinds for argument in constructor_arguments(kind.data_module)},
        "trainer": set(constructor_arguments(Trainer)),
    }
    found = set(re.findall(r"--(model|data|trainer)\.(\w+)", text))
    # `--model.x` stands for any of them.
    return sorted(f"--{group}.{name}" for group, name in found if name != "x" and name not in known[group])


def missing_files(text: str) -> list[str]:
    """Files of this repository that are named in the prose."""
    named = set(re.findall(r"`((?:src|tests|tools|docs|results)/[\w./-]*)`", without_blocks(text)))
    return sorted(name for name in named if not (ROOT / name).exists())


def test_what_does_not_exist_is_noticed(tmp_path):
    assert unknown_names("see ommatid.nn.no_such and `ommatid.train`") == ["ommatid.nn.no_such"]
    assert unknown_options("--data.root, --model.x, --model.no_such") == ["--model.no_such"]
    assert missing_files("`src/ommatid/api.py` and `tests/no_such.py`") == ["tests/no_such.py"]
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](page.md#b) [c](other.md) [d](https://example.org)\n")
    assert dead_links(page, page.read_text()) == ["page.md#b", "other.md"]


@pytest.mark.parametrize("name", NAMES)
def test_examples_import_ommatid_before_what_needs_torchvision(name):
    """Where torchvision is of another build than torch, ommatid mends it before it is imported, not after."""
    for block in blocks((ROOT / name).read_text(encoding="utf-8")):
        imported = re.findall(r"^(?:from|import) (ommatid|timm|torchvision)\b", block.text, re.MULTILINE)
        assert not imported or imported[0] == "ommatid", f"{name}:{block.line}"


# -- the site ----------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning_and_needs_no_other_server(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site is built with the extra 'docs'")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="https?:', html), page
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="https?:', html), page
