"""Settings reach constructors checked, and come back as plain values."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.toy import Toy
from ommatid.engine.recipe import Recipe
from ommatid.engine.settings import (
    build,
    call,
    constructor_arguments,
    is_plain,
    json_text,
    merge,
    one_sentence,
    read_yaml,
    to_plain,
)
from ommatid.errors import InputError


@dataclass
class Optics:
    focus: float = 1.0


class Eye:
    def __init__(
        self,
        width: int,
        kind: Literal["simple", "compound"] = "compound",
        facets: list[int] | None = None,
        optics: Optics = Optics(),
        net: nn.Module | str = "none",
        share: float = 0.5,
        flag: bool = False,
    ) -> None:
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})


def look(at: str, times: int = 1) -> str:
    return at * times


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# -- building --


def test_plain_settings_become_what_the_signature_says():
    eye = build(Eye, {"width": 3, "kind": "simple", "facets": [1, 2], "optics": {"focus": 2}, "share": 1})
    assert (eye.width, eye.kind, eye.facets, eye.optics) == (3, "simple", [1, 2], Optics(2.0))
    assert isinstance(eye.share, float)


def test_objects_are_passed_on_as_they_are():
    net, optics = nn.Linear(1, 1), Optics(7.0)
    eye = build(Eye, {"width": 3, "net": net, "optics": optics})
    assert eye.net is net
    assert eye.optics is optics


def test_what_is_not_given_keeps_its_default():
    eye = build(Eye, {"width": 3})
    assert (eye.kind, eye.facets, eye.optics.focus, eye.flag) == ("compound", None, 1.0, False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 3, "widht": 4}, "unknown argument of Eye 'widht': did you mean 'width'?"),
        ({"width": 3, "optics": {"focsu": 1}}, "unknown argument of Eye.optics 'focsu': did you mean 'focus'?"),
        ({}, "Eye needs the argument 'width', which was not given"),
        ({"width": "wide"}, "Eye: width must be int, found 'wide'"),
        ({"width": 2.5}, "Eye: width must be int, found '2.5'"),
        ({"width": None}, "Eye: width must be int, found None"),
        ({"width": 3, "optics": 5}, "Eye: optics is 5, expected a group of settings (focus)"),
        ({"width": 3, "optics": {"focus": "far"}}, "Eye: optics.focus must be float, found 'far'"),
        ({"width": 3, "facets": 4}, "Eye: facets must be one of list[int], None, found '4'"),
        ({"width": 3, "kind": "both"}, "Eye: kind must be Literal['simple', 'compound'], found 'both'"),
        ({"width": 3, "optics": {"focus": None}}, "Eye: optics.focus must be float, found None"),
    ],
)
def test_wrong_settings_are_answered_in_one_sentence(arguments, sentence):
    with pytest.raises(InputError) as caught:
        build(Eye, arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "double"}, ["kind", "double", "simple", "compound"]),
        ({"facets": 3}, ["facets", "3"]),
        ({"facets": ["a"]}, ["facets", "a"]),
        ({"flag": "perhaps"}, ["flag", "perhaps", "bool"]),
        ({"share": [1]}, ["share", "float"]),
        ({"width": {"a": 1}}, ["width", "int"]),
    ],
)
def test_values_of_another_type_name_argument_and_value(arguments, words):
    with pytest.raises(InputError, match=r"^Eye: ") as caught:
        build(Eye, {"width": 3, **arguments})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@settings(max_examples=15, deadline=None)
@given(value=JSON, name=st.sampled_from(["width", "kind", "facets", "optics", "share"]))
def test_any_value_is_taken_or_answered_in_one_sentence(value, name):
    said = name
    try:
        build(Eye, {"width": 3, name: value})
    except InputError as error:
        said = str(error)
    assert name in said


def test_functions_are_called_with_the_same_checks():
    assert call(look, {"at": "x", "times": 3}) == "xxx"
    with pytest.raises(InputError, match=r"^unknown argument of look 'time': did you mean 'times'"):
        call(look, {"at": "x", "time": 3})
    with pytest.raises(InputError, match=r"^look needs the argument 'at'"):
        call(look, {})


def test_bound_methods_are_called_without_their_self():
    method = Toy()
    assert call(method.predict, {"inputs": [1, 2, 3]}) == method.predict([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"^unknown argument of predict 'tpo': did you mean 'top'"):
        call(method.predict, {"inputs": [1.0], "tpo": 3})


def test_constructor_arguments_are_names_and_defaults():
    arguments = constructor_arguments(Eye)
    assert list(arguments) == ["width", "kind", "facets", "optics", "net", "share", "flag"]
    assert arguments["share"].default == 0.5


# -- plain values --


def test_what_a_method_was_built_with_can_be_built_again():
    recipe = Recipe("adam", betas=(0.5, 0.9), lr_multipliers={"line.*": 2.0})
    method = build(Toy, json.loads(json.dumps(Toy(dim=5, recipe=recipe).settings())))
    assert method.recipe == recipe
    assert method.line.in_features == 5


def test_objects_without_a_plain_form_become_nothing():
    assert to_plain({"net": nn.Linear(1, 1), "path": Path("a/b"), "pair": (1, Optics())}) == {
        "net": None,
        "path": "a/b",
        "pair": [1, {"focus": 1.0}],
    }


def test_plain_means_json_kinds_all_the_way_down():
    assert is_plain({"a": [1, 2.5, None, True, "x", (1,)]})
    assert not is_plain({"a": [object()]})
    assert not is_plain({1: "a"})


def test_settings_merge_in_depth_and_the_last_wins():
    below = {"recipe": Recipe("sgd", lr=0.1), "dim": 3, "list": [1, 2]}
    merged = merge(below, {"recipe": {"lr": 0.5}, "list": [3]})
    assert merged["recipe"]["lr"] == 0.5
    assert merged["recipe"]["optimizer"] == "sgd"
    assert (merged["dim"], merged["list"]) == (3, [3])
    assert below["recipe"].lr == 0.1
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}
    assert merge() == {}


def test_merging_leaves_the_layers_alone():
    first, second = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(first, second) == {"a": {"b": 1, "c": 2}}
    assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}})


# -- texts --


def test_parser_reports_become_one_sentence():
    long = "Parser key \"it.recipe.lr\":\n  Expected a <class 'float'>. Got value: fast"
    assert one_sentence(long) == "recipe.lr must be float, found 'fast'"
    assert "\n" not in one_sentence("something\n  else")


@settings(deadline=None)
@given(JSON)
def test_json_is_strict_and_keeps_what_json_can_hold(content):
    def strict(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = json_text(content)
    read = json.loads(text, parse_constant=strict)
    if not any(word in repr(content) for word in ("nan", "inf")):
        assert read == content


def test_not_a_number_becomes_null_at_any_depth():
    content = {"a": [math.nan, (math.inf, {"b": -math.inf})], "c": 1.5}
    assert json.loads(json_text(content)) == {"a": [None, [None, {"b": None}]], "c": 1.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5e1", 5.0),
        ("-1", -1),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[1, 2e-1]", [1, 0.2]),
        ("e5", "e5"),
        ("1e", "1e"),
        ("2020-01-01", "2020-01-01"),
        ("a sentence: with a colon", {"a sentence": "with a colon"}),
    ],
)
def test_yaml_reads_numbers_as_people_write_them(text, value):
    found = read_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_yaml_never_builds_objects():
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.getcwd []")
