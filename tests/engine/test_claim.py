"""Verdicts follow from intervals, intervals from closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ommatid import api, catalogue
from ommatid.engine.claim import (
    Arm,
    Claim,
    Criterion,
    bootstrap_interval,
    decide,
    measure_effect,
    overall,
    t_interval,
)

VALUES = [0.03, 0.04, -0.01, 0.05, 0.02]
BETTER = Criterion("top1", versus="baseline", margin=0.01)
NOT_WORSE = Criterion("top1", versus="baseline", kind="not worse", margin=0.01)
INF, NAN = math.inf, math.nan
differences = st.lists(st.floats(-1, 1), min_size=2, max_size=8)


# -- intervals --


@settings(deadline=None)
@given(differences)
def test_t_interval_is_students(values):
    low, high = t_interval(values)
    if np.ptp(values) > 1e-9:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (low, high) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert low <= np.mean(values) + 1e-12
    assert high >= np.mean(values) - 1e-12


def test_t_interval_by_hand():
    """Two values, a mean of 2 and a standard error of 1: the quantile of t with one degree of freedom."""
    assert t_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062047364, 2 + 12.7062047364))
    assert t_interval([1.0, 3.0], level=0.5) == pytest.approx((1.0, 3.0))


def test_equal_differences_are_a_point():
    assert t_interval([0.25] * 4) == (0.25, 0.25)
    assert bootstrap_interval([0.25] * 4) == (0.25, 0.25)


def test_one_difference_says_nothing():
    assert t_interval([0.5]) == (-INF, INF)
    assert measure_effect(BETTER, [0.5]).verdict == "undecided"
    assert measure_effect(NOT_WORSE, [0.5]).verdict == "undecided"
    assert measure_effect(BETTER, [-0.5]).verdict == "undecided"
    assert measure_effect(NOT_WORSE, [-0.5]).verdict == "undecided"


def test_bootstrap_is_reproducible_and_leaves_the_global_generator_alone():
    np.random.seed(7)  # noqa: NPY002  (the global generator is what is looked at)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert bootstrap_interval(VALUES) == bootstrap_interval(VALUES)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_bootstrap_is_the_percentile_bootstrap_of_the_mean():
    reference = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(VALUES) == pytest.approx((reference.low, reference.high), abs=2e-3)
    assert bootstrap_interval(VALUES, level=0.5)[0] > bootstrap_interval(VALUES)[0]


def test_bootstrap_of_two_values_in_closed_form():
    """The mean of two draws is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_interval([0.0, 1.0], level=0.95) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


# -- verdicts --


@pytest.mark.parametrize(
    ("criterion", "average", "low", "high", "verdict"),
    [
        (BETTER, 0.05, 0.001, 0.1, "holds"),
        (BETTER, 0.05, 0.0, 0.1, "undecided"),
        (BETTER, 0.05, -0.01, 0.11, "undecided"),
        (BETTER, 0.0, -0.1, 0.1, "does not hold"),
        (BETTER, -0.02, -0.1, 0.06, "does not hold"),
        (BETTER, 0.002, -0.005, 0.009, "does not hold"),
        (BETTER, 0.003, -0.005, 0.011, "undecided"),
        (BETTER, NAN, NAN, NAN, "undecided"),
        (NOT_WORSE, 0.0, -0.009, 0.009, "holds"),
        (NOT_WORSE, 0.05, -0.01, 0.11, "undecided"),
        (NOT_WORSE, -0.005, -0.02, 0.01, "undecided"),
        (NOT_WORSE, -0.011, -0.02, -0.002, "does not hold"),
        (NOT_WORSE, -0.011, -0.1, 0.1, "does not hold"),
        (NOT_WORSE, NAN, NAN, NAN, "undecided"),
    ],
)
def test_verdict_of_an_interval(criterion, average, low, high, verdict):
    assert decide(criterion, average, low, high) == verdict


def test_a_claim_holds_if_all_its_criteria_do():
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "undecided"]) == "undecided"
    assert overall(["undecided", "does not hold", "holds"]) == "does not hold"


@settings(deadline=None, max_examples=50)
@given(differences)
def test_effect_holds_what_its_parts_say(values):
    effect = measure_effect(BETTER, values)
    assert effect.values == tuple(values)
    assert effect.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert (effect.low, effect.high) == t_interval(values)
    assert (effect.bootstrap_low, effect.bootstrap_high) == bootstrap_interval(values)
    assert effect.verdict == decide(BETTER, effect.mean, effect.low, effect.high)


# -- criteria and claims --


def test_effect_is_turned_so_that_larger_is_better():
    arms = {"a": {"top1": 0.75, "error": 0.5}, "b": {"top1": 0.5, "error": 0.75}}
    assert Criterion("top1", versus="b").effect("a", arms) == 0.25
    assert Criterion("error", versus="b", direction="lower").effect("a", arms) == 0.25


def test_difference_of_differences():
    arms = {"a": {"rare": 0.75, "common": 0.75}, "b": {"rare": 0.25, "common": 0.5}}
    assert Criterion("rare", versus="b", beyond="common").effect("a", arms) == 0.25
    assert Criterion("rare", versus="b", beyond="common", direction="lower").effect("a", arms) == -0.25


def test_difference_beyond_that_of_two_other_arms():
    arms = {"few": {"top1": 0.75}, "few-base": {"top1": 0.25}, "many": {"top1": 1.0}, "many-base": {"top1": 0.75}}
    criterion = Criterion("top1", versus="few-base", beyond_arms=("many", "many-base"))
    assert criterion.effect("few", arms) == 0.25
    assert criterion.describe() == (
        "top1 (higher is better), against few-base, beyond many against many-base: effect above 0"
    )
    with pytest.raises(ValueError, match="'many-base', which is not an arm"):
        Claim("c", "s", {"few": Arm("method"), "few-base": Arm("baseline"), "many": Arm("reported")}, (criterion,))


def test_criteria_read_like_sentences():
    assert Criterion("a", versus="b").describe() == "a (higher is better), against b: effect above 0"
    described = Criterion("a", versus="b", beyond="c", direction="lower", kind="not worse", margin=0.02).describe()
    assert described == "a beyond c (lower is better), against b: effect above -0.02"


def test_a_claim_has_one_method_and_known_opponents():
    arms = {"ours": Arm("method"), "theirs": Arm("baseline")}
    assert Claim("c", "s", arms, (Criterion("m", versus="theirs"),)).method_arm == "ours"
    with pytest.raises(ValueError, match=r"claim c: exactly one arm .* found \[\]"):
        Claim("c", "s", {"theirs": Arm("baseline")}, ())
    with pytest.raises(ValueError, match="exactly one arm"):
        Claim("c", "s", {"a": Arm("method"), "b": Arm("method")}, ())
    with pytest.raises(ValueError, match="criterion against 'them', which is not an arm"):
        Claim("c", "s", arms, (Criterion("m", versus="them"),))


@pytest.mark.parametrize("name", catalogue.names())
def test_claims_of_the_catalogue_are_fair(name):
    """Tuning never sees a seed of the experiment, nor anything that sets the arms apart."""
    for claim in api.method_class(name).claims:
        assert claim.name == name or claim.name.startswith(f"{name}-")
        assert not set(claim.tuning_seeds) & set(range(100))
        for arm in claim.arms.values():
            assert not set(claim.tuning) & {*arm.model, *(f"recipe.{key}" for key in arm.model.get("recipe", {}))}
