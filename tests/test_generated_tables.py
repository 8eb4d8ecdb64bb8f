"""Tables in README and docs are those that the catalogue and the records of claims make; nothing is typed by hand."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from ommatid import catalogue
from ommatid.api import method_class

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("render_tables", ROOT / "tools/render_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """README, docs and records in a folder where a test may change them."""
    for name in ("docs", "results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_every_generated_table_is_in_step(tables, capsys):
    code = tables.main(["--check"])
    assert code == 0, capsys.readouterr().err


def test_a_number_changed_by_hand_is_noticed_and_mended(tables, copy, capsys):
    page = copy / "docs/methods/cmi.md"
    text = page.read_text(encoding="utf-8")
    start = text.index("<!-- claims:begin -->")
    number = re.search(r"\d\.\d{3} ± ", text[start:])[0]
    page.write_text(text[:start] + text[start:].replace(number, "9.999 ± ", 1), encoding="utf-8")

    assert tables.main(["--check", "--root", str(copy)]) == 1
    assert "docs/methods/cmi.md: out of step" in capsys.readouterr().err
    assert "9.999" in page.read_text(encoding="utf-8")
    tables.main(["--root", str(copy)])
    assert page.read_text(encoding="utf-8") == text


def test_a_new_record_reaches_every_table(tables, copy):
    path = copy / "results/claims/cmi-student.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["verdict"] = "undecided"
    path.write_text(json.dumps(record), encoding="utf-8")

    assert tables.main(["--check", "--root", str(copy)]) == 1
    tables.main(["--root", str(copy)])
    assert "`cmi-student`: **undecided**" in (copy / "docs/index.md").read_text(encoding="utf-8")
    assert "`cmi-student`: undecided" in (copy / "docs/methods/cmi.md").read_text(encoding="utf-8")
    row = next(
        line for line in (copy / "docs/claims.md").read_text().splitlines() if line.startswith("| [`cmi-student`]")
    )
    assert "**undecided**" in row


def test_a_claim_without_a_record_says_so(tables, copy):
    (copy / "results/claims/cmi-student.json").unlink()
    tables.main(["--root", str(copy)])
    assert "`cmi-student`: not run yet" in (copy / "docs/methods/cmi.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"statement": "Something else."}, "statement is not that of the claim any more"),
        ({"trainer": {"max_epochs": 1}}, "trainer is not that of the claim any more"),
        ({"arms": {}}, "arms is not that of the claim any more"),
        ({"tuning_seeds": [7]}, "tuning_seeds is not that of the claim any more"),
    ],
)
def test_a_record_of_another_experiment_is_refused(tables, copy, change, told, capsys):
    path = copy / "results/claims/cmi-student.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert tables.main(["--check", "--root", str(copy)]) == 1
    assert told in capsys.readouterr().err


def test_a_record_of_another_grid_is_refused(tables, copy, capsys):
    path = copy / "results/claims/cmi-student.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    next(iter(record["arms"].values()))["tried"].pop()
    path.write_text(json.dumps(record), encoding="utf-8")
    assert tables.main(["--check", "--root", str(copy)]) == 1
    assert "tuning is not that of the claim any more" in capsys.readouterr().err


def test_a_record_of_no_claim_is_refused(tables, copy, capsys):
    shutil.copy(copy / "results/claims/cmi-student.json", copy / "results/claims/stranger.json")
    assert tables.main(["--check", "--root", str(copy)]) == 1
    assert "no method has a claim of this name" in capsys.readouterr().err


def test_a_baseline_has_no_block_of_claims(tables, copy, monkeypatch, capsys):
    claims_of = tables.claims_of
    monkeypatch.setattr(tables, "claims_of", lambda name: () if name == "cmi" else claims_of(name))
    for claim in claims_of("cmi"):
        (copy / f"results/claims/{claim.name}.json").unlink()
    page = copy / "docs/methods/cmi.md"
    text = re.sub(
        r"<!-- claims:begin -->.*<!-- claims:end -->\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    page.write_text(text, encoding="utf-8")

    tables.main(["--root", str(copy)])
    assert "cmi.md" not in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == text
    row = next(line for line in (copy / "docs/index.md").read_text().splitlines() if line.startswith("| [`cmi`]"))
    assert row.endswith("| a baseline |")


def test_a_missing_page_or_marker_is_noticed(tables, copy, capsys):
    (copy / "docs/methods/mgsl-net.md").unlink()
    index = copy / "docs/index.md"
    index.write_text(index.read_text(encoding="utf-8").replace("<!-- methods:end -->", ""), encoding="utf-8")
    assert tables.main(["--check", "--root", str(copy)]) == 1
    told = capsys.readouterr().err
    assert "docs/methods/mgsl-net.md: no such page" in told
    assert "docs/index.md: found 0 blocks" in told


def test_a_small_effect_is_called_small(tables):
    """Above zero, but with the whole interval below the smallest effect that was declared to matter."""
    criterion = {"kind": "better", "margin": 0.01}
    effect = {"criterion": criterion, "verdict": "holds", "mean": 0.003}
    assert "a small one" in tables._reading({**effect, "low": 0.001, "high": 0.005})
    assert "a small one" not in tables._reading({**effect, "low": 0.001, "high": 0.05})


def test_a_method_that_is_not_worse_may_be_shown_to_be_better(tables):
    effect = {"criterion": {"kind": "not worse", "margin": 0.01}, "verdict": "holds", "mean": 0.2, "high": 0.3}
    assert tables._reading({**effect, "low": 0.1}).endswith("excluded; the interval lies above zero.")
    assert tables._reading({**effect, "low": -0.001}).endswith("excluded; that the method is better is not shown.")


@pytest.mark.parametrize("kind", ["better", "not worse"])
def test_an_effect_without_an_interval_says_so(tables, kind):
    criterion = {"kind": kind, "margin": 0.01, "metric": "top1", "beyond": None, "versus": "base"}
    effect = {"criterion": criterion, "verdict": "undecided", "mean": None, "low": None, "high": None}
    assert tables._reading(effect).startswith("There is no interval")
    assert tables._effects({"criteria": [effect]}) == ["`top1` against base: - not known"]


def test_an_effect_beyond_that_of_two_other_arms_names_them(tables):
    criterion = {"metric": "top1", "beyond": None, "versus": "base", "beyond_arms": ["few", "few, base"]}
    effect = {"criterion": criterion, "mean": 0.1, "low": -0.1, "high": 0.3}
    told = ["`top1` against base, beyond few against few, base: +0.1000 [-0.1000, +0.3000]"]
    assert tables._effects({"criteria": [effect]}) == told


def test_a_record_that_says_so_tells_what_the_tuning_looked_at(tables):
    assert tables._by({"tuning_metric": "top1", "tuning_direction": "higher"}) == " by `top1` (higher is better)"
    assert tables._by({}) == tables._by({"tuning_metric": None}) == ""


def test_prose_about_a_verdict_is_written_for_the_present_one():
    verdicts = {path.stem: json.loads(path.read_text())["verdict"] for path in (ROOT / "results/claims").glob("*.json")}
    for entry in catalogue.CATALOGUE:
        text = (ROOT / f"docs/methods/{entry.name}.md").read_text(encoding="utf-8")
        if not method_class(entry.name).claims:
            assert f"ommatid compare {entry.field}" in text, f"{entry.name}: a baseline, its page says where it stands"
            continue
        (comment,) = re.findall(r"<!-- written for: (.*) -->", text)
        written_for = dict(re.findall(r"([\w-]+)=([a-z ]+?)(?= [\w-]+=|$)", comment))
        assert written_for == {name: verdicts.get(name, "not run yet") for name in written_for}, entry.name
        assert written_for, entry.name


def test_every_method_has_its_page_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for entry in catalogue.CATALOGUE:
        assert f"methods/{entry.name}.md" in nav


# -- other measurements --


def test_a_comparison_has_a_table_a_part_and_says_who_is_left_out(tables):
    from report.records import comparison_record

    record = comparison_record() | {
        "environment": {"ommatid": "0.1", "packages": {"torch": "2", "lightning": "2"}, "gpus": [], "platform": "Linux"}
    }
    record["methods"]["cmi"]["metrics"] |= {"rare/top1": [0.1, 0.3], "rare/top5": [0.5, 0.5]}
    section = tables.comparison_section(record)
    assert "| cmi | 0.900 ± 0.141 |" in section
    assert "**digits, 2 seeds, rare**" in section
    assert "Left out: `third` learns from videos, these data are images." in section
    assert section.endswith("ommatid 0.1, torch 2, lightning 2; Linux, CPU, one thread a training.")


def test_throughput_has_a_row_a_repeated_step(tables):
    step = {
        "steps_per_second": 2.34567,
        "peak_memory_mib": 1200,
        "top_operations": [{"name": "aten::mm", "share": 0.5}],
    }
    record = {
        "methods": {
            "lgi": {"batch": 64, "parameters": 1000, "parts": {"update": step}},
            "cmi": {"batch": 8, "parameters": 5, "parts": {"inversion": step, "distillation": step}},
        },
        **{"precision": "fp32", "device": "cpu", "threads": 2, "torch": "2", "steps": 3},
    }
    section = tables.throughput_section(record)
    assert "| lgi | 64 | 1,000 | 2.35 | 1,200 MiB | `aten::mm` 50% |" in section
    assert "| cmi, inversion |" in section
    assert "fp32, cpu, 2 threads" in section


def test_precision_on_published_annotations_has_model_and_baselines(tables):
    scores = {
        "mAP": [0.1, 0.3],
        "mAP@0.1": [0.2, 0.2],
        "mAP@0.3": [0.0, 0.0],
        "mAP@0.5": [0.0, 0.0],
        "clip_mAP": [0.5, 0.5],
    }
    record = {
        "methods": {"dcin-tel": {"metrics": scores, "seconds": [10.0, 20.0]}},
        "baselines": {"all clauses": dict.fromkeys(scores, 0.25)},
        "data": {"clips": {"train": 7, "test": 3}, "instances": "runs", "text": "hashed"},
        "seeds": [0, 1],
        "environment": {
            "ommatid": "0.1",
            "packages": {"torch": "2", "lightning": "2"},
            "gpus": [],
            "platform": "Linux",
        },
    }
    section = tables.emotions_section(record)
    assert "| dcin-tel | 0.2000 ± 0.1414 |" in section
    assert "| all clauses | 0.2500 |" in section
    assert "Lines as hashed; clips: 7 train, 3 test; moments: runs; 2 seeds." in section


def test_grafts_have_a_row_a_backbone_and_a_dash_where_a_block_has_no_place(tables):
    cost = {"parameters": 1200, "macs": 3_400_000}
    record = {
        "backbones": {"resnet18": {"Fusion": cost, "Scale": cost}, "vit": {"Fusion": cost, "Scale": "no convolution"}},
        **{"size": 64, "torch": "2", "timm": "1"},
    }
    section = tables.grafts_section(record)
    assert "| `resnet18` | +1,200<br>+3.40 M | +1,200<br>+3.40 M |" in section
    assert "| `vit` | +1,200<br>+3.40 M | - |" in section


def test_a_measurement_without_a_record_says_how_to_make_one(tables, tmp_path):
    section = tables.measured(tmp_path / "nothing.json", tables.throughput_section, "python make.py")
    assert section == "There is no record yet; `python make.py` makes one."
