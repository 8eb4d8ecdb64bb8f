"""Tables hold what the records hold, and numbers align."""

import json
from dataclasses import asdict

import pytest

from ommatid.engine.claim import Criterion, measure_effect
from ommatid.engine.settings import json_text
from ommatid.report.tables import (
    claim_grid,
    claim_table,
    comparison_grids,
    comparison_tables,
    console,
    effect_grid,
    effect_table,
    interval,
    metric_grid,
    metric_table,
    show,
    spread,
    table,
)
from report.records import claim_record, comparison_record


def printed(drawn, capsys) -> str:
    console().print(drawn)
    return capsys.readouterr().out


def test_metrics_stand_beside_every_baseline_and_a_missing_one_is_a_dash():
    grid = metric_grid({"model": {"top1": 0.9, "top5": 1.0}, "majority class": {"top1": 0.1}})
    assert grid.headers == ["metric", "model", "majority class"]
    assert grid.rows == [["top1", 0.9, 0.1], ["top5", 1.0, None]]
    assert show(grid.rows[1][2]) == "-"


def test_a_claim_table_shows_mean_and_deviation_of_every_arm_with_its_costs(capsys):
    record = claim_record()
    text = printed(claim_table(record), capsys)
    assert "cmi-student: HOLDS" in text
    assert "0.900 ± 0.100" in text
    assert "12.0 ± 1.4" in text
    assert "3 MiB" in text
    assert "1,234" in text
    assert "recipe.lr=0.005" in text


def test_a_claim_without_shown_metrics_shows_those_of_its_criteria():
    assert "top1" in claim_grid({**claim_record(), "shown": []}).headers


def test_tuned_settings_that_are_words_are_printed_as_words():
    record = claim_record()
    record["arms"]["contrastive"]["tuned"] = {"write": "batched", "slots": 64}
    assert claim_grid(record).rows[0][-1] == "write=batched, slots=64"


def test_an_effect_table_shows_both_intervals_and_the_verdict(capsys):
    text = printed(effect_table(claim_record()), capsys)
    assert "+0.0200" in text
    assert "[-0.0050, +0.0450]" in text
    assert "[+0.0100, +0.0300]" in text
    assert "3 seeds, paired" in text


def test_an_interval_of_a_single_seed_is_not_known():
    assert interval(float("-inf"), float("inf")) == interval(None, None) == "not known"


@pytest.mark.parametrize(
    ("effect", "shown"),
    [(-0.25, ["-0.2500", "not known", "[-0.2500, -0.2500]"]), (float("nan"), ["-", "not known", "not known"])],
)
def test_a_record_of_one_seed_is_shown_from_its_file_as_it_was(tmp_path, effect, shown):
    record = claim_record()
    record["seeds"] = [0]
    record["criteria"][0] |= asdict(measure_effect(Criterion("top1", versus="no contrast"), [effect]))
    path = tmp_path / "cmi-student.json"
    path.write_text(json_text(record))
    read = effect_grid(json.loads(path.read_text()))
    assert read == effect_grid(record)
    assert read.rows[0][1:] == [*shown, "undecided"]
    assert read.title == "1 seed, paired"


def test_a_comparison_has_metrics_costs_and_baselines_in_one_table(capsys):
    (grid,) = comparison_grids(comparison_record())
    assert grid.headers == ["method", "top1", "top5", "seconds", "peak memory", "parameters"]
    assert grid.rows == [
        ["cmi", "0.900 ± 0.141", "1.000 ± 0.000", "1.5 ± 0.7", "2 MiB", "5,000"],
        ["other", "0.500 ± 0.000", "-", "1.0 ± 0.0", "0 MiB", "70"],
        ["chance", "0.100", "-", "-", "-", "-"],
    ]
    (drawn,) = comparison_tables(comparison_record())
    assert "digits, 2 seeds" in printed(drawn, capsys)


def test_parts_of_the_data_have_tables_of_their_own():
    record = comparison_record()
    record["methods"]["cmi"]["metrics"] |= {
        "rare/top1": [0.5, 0.7], "rare/top5": [1.0, 1.0], "joy/AP": [0.25, 0.25], "anger/AP": [0.5, 0.5],
    }  # fmt: skip
    record["baselines"]["chance"] |= {"rare/top1": 0.05}
    whole, rare, classes = comparison_grids(record)
    assert whole.headers[1:3] == ["top1", "top5"]
    assert (rare.title, rare.headers) == ("digits, 2 seeds, rare", ["method", "top1", "top5"])
    assert rare.rows[0] == ["cmi", "0.600 ± 0.141", "1.000 ± 0.000"]
    assert rare.rows[2] == ["chance", "0.050", "-"]
    assert classes.headers == ["method", "joy/AP", "anger/AP"]
    assert classes.rows[0] == ["cmi", "0.250 ± 0.000", "0.500 ± 0.000"]


def test_columns_of_numbers_are_numeric_and_columns_of_words_are_not():
    (grid,) = comparison_grids(comparison_record())
    assert [grid.numeric(position) for position in range(4)] == [False, True, True, True]
    effects = effect_grid(claim_record())
    assert effects.numeric(1)
    assert not effects.numeric(0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (float("nan"), "-"), (True, "yes"), (12345, "12,345"), (0.98765, "0.988"), ("cmi", "cmi")],
)
def test_values_are_shown_as_a_person_reads_them(value, text):
    assert show(value) == text


def test_a_spread_leaves_out_what_is_missing():
    assert spread([0.5, None, float("nan")]) == "0.500"
    assert spread([]) == "-"


def test_tables_that_are_not_printed_to_a_terminal_keep_their_lines_whole(capsys):
    long = "x" * 100
    text = printed(table(["name", "value"], [[long, 1]]), capsys)
    assert long in text


def test_a_metric_table_has_a_row_for_every_metric():
    assert metric_table({"model": {"a": 0.1, "b": 0.2}}).row_count == 2
