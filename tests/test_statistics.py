"""Statistics on synthetic data with known answers: coverage, false positives, families of tests, equivalence."""

import math

import numpy as np
import pytest

from experiments.lab.statistics import (
    MARGIN,
    Comparison,
    Estimate,
    compare,
    compare_seeds,
    contrast,
    first_crossing,
    holm,
    mean,
)

DOCUMENTS = 20


def test_a_single_document_has_no_interval():
    """Resampled it would have one of no width, and whatever it shows would look certain."""
    rows = [{"token_set": "a", "document_nll": [nats], "document_tokens": [4]} for nats in (8.0, 4.0)]
    ratio = compare(rows[:1], rows[1:]).ratio
    assert ratio.value == pytest.approx(math.e) and not ratio.low > 1 and not ratio.high < 1
    assert str(ratio) == "2.718" and ratio.plain() == {"value": ratio.value, "low": None, "high": None}
    assert Estimate.of(ratio.plain() | {"from": 8}) == ratio
    two = mean([8.0, 4.0], [4, 4])
    assert two.value == 1.5 and two.low < 0 and two.high > 3, "Student's t of two is wide: 1.5 ± 6.35"
    assert Estimate.of(two.plain()) == two


@pytest.mark.parametrize("documents", [2, 3, 5])
def test_few_documents_show_a_gain_where_there_is_none_as_seldom_as_many(documents):
    """Nominally in one of forty trials; 500 of them are off by 0.7 %, and percentiles would show 9 to 22 %."""
    random = np.random.default_rng(documents)
    shown = [mean(random.normal(0, 40, documents), [100] * documents).low > 0 for _ in range(500)]
    assert np.mean(shown) < 0.05


def losses(random, seeds, by_seed, by_document, by_both, mean=0.0):
    """Differences (S, D) of mean loss whose truth over all seeds and documents is `mean`, and token counts."""
    level = lambda scale, *shape: scale * random.normal(size=shape)  # noqa: E731
    difference = mean + level(by_seed, seeds, 1) + level(by_document, 1, DOCUMENTS) + level(by_both, seeds, DOCUMENTS)
    tokens = np.tile(random.integers(500, 1500, DOCUMENTS), (seeds, 1))
    return difference * tokens, tokens


def simulated(seeds, *scales, trials=600, mean=0.0):
    random = np.random.default_rng(seeds)
    data = (losses(random, seeds, *scales, mean=mean) for _ in range(trials))
    return [contrast((1, *item), draws=600, seed=trial) for trial, item in enumerate(data)]


@pytest.mark.parametrize(
    ("seeds", "scales"),
    [(5, (0.02, 0, 0)), (3, (0.02, 0.01, 0.01)), (2, (0.02, 0.02, 0)), (5, (0, 0.02, 0)), (1, (0, 0.02, 0))],
)
def test_intervals_cover_the_truth_as_often_as_they_say_whatever_varies(seeds, scales):
    """Seeds, documents or both; of 600 trials, ± 2.5 % is nearly three standard deviations."""
    result = simulated(seeds, *scales, mean=0.3)
    assert 0.925 <= np.mean([item.difference.low <= 0.3 <= item.difference.high for item in result]) <= 0.975


def test_what_is_peculiar_to_seed_and_document_errs_on_the_wide_side():
    result = simulated(5, 0, 0, 0.05)
    assert np.mean([item.difference.low <= 0 <= item.difference.high for item in result]) > 0.96
    width = np.median([item.difference.high - item.difference.low for item in result])
    assert width < 2.2 * 2 * 1.96 * 0.05 / math.sqrt(5 * DOCUMENTS)


@pytest.mark.slow
def test_differences_are_found_where_there_are_some_and_seldom_where_there_are_none():
    nothing = [item.word() for item in simulated(5, 0.01, 0.01, 0.01)]
    assert np.mean([word in ("lower", "higher") for word in nothing]) < 0.085
    assert np.mean([item.word() == "lower" for item in simulated(5, 0.01, 0.01, 0.01, mean=-0.05)]) > 0.95
    assert all(item.word() == "higher" for item in simulated(5, 0.01, 0.01, 0.01, mean=0.1, trials=50))


@pytest.mark.slow
def test_equivalence_is_claimed_where_it_holds_and_seldom_where_it_does_not():
    tiny = (0.001, 0.001, 0.001)
    assert np.mean([item.word() == "equal" for item in simulated(5, *tiny)]) > 0.9
    edge = simulated(5, *tiny, mean=math.log1p(MARGIN))
    assert np.mean([item.p_equivalent < 0.05 for item in edge]) < 0.085
    assert all(item.word() != "equal" for item in simulated(5, 0.05, 0, 0, trials=50)), "too noisy to tell"


def test_one_seed_speaks_of_its_model_and_one_number_of_nothing():
    random = np.random.default_rng(0)
    one = contrast((1, *losses(random, 1, 0, 0.01, 0, mean=0.1)))
    assert one.seeds == 1 and one.documents == DOCUMENTS and one.word() == "higher"
    alone = compare_seeds([0.4])
    assert alone.word() == "open" and (alone.difference.low, alone.difference.high) == (-math.inf, math.inf)


def test_numbers_by_seed_have_students_interval():
    values = [0.1, 0.25, 0.3, 0.2, 0.15]
    half = 2.776 * np.std(values, ddof=1) / math.sqrt(5)  # t of four degrees of freedom
    result = compare_seeds(values).difference
    assert result.value == pytest.approx(0.2)
    assert result.high - 0.2 == pytest.approx(half, rel=0.15) and 0.2 - result.low == pytest.approx(half, rel=0.15)


def test_a_contrast_of_parts_is_paired_over_them():
    """Two parts that share what is hard about a seed and a document differ by what does not vary at all."""
    random = np.random.default_rng(3)
    sums, counts = losses(random, 4, 0.5, 0.5, 0.5)
    result = contrast((1, sums + 0.02 * counts, counts), (-1, 2 * sums, 2 * counts))
    assert result.difference.value == pytest.approx(0.02)
    assert result.difference.high - result.difference.low < 1e-9


def row(nll, tokens=100, token_set="same"):
    return {"document_nll": nll, "document_tokens": [tokens] * len(nll), "token_set": token_set}


def test_arms_are_compared_seed_by_seed():
    """Seeds differ by ten times what the arms do, and the arms still differ."""
    ours, theirs = ([row([100.0 * s + d + shift for d in range(9)]) for s in range(3)] for shift in (-1, 0))
    result = compare(ours, theirs)
    assert result.difference.value == pytest.approx(-0.01) and result.word() == "lower"
    assert result.ratio.value == pytest.approx(math.exp(-0.01))
    assert (result.seeds, result.documents) == (3, 9)
    with pytest.raises(ValueError, match="same targets"):
        compare(ours, [row([1.0] * 9, token_set="other")] * 3)


def test_holm_on_an_example_done_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_a_family_of_true_hypotheses_is_rejected_as_often_as_one():
    """Ten correlated tests: unadjusted nearly every third table has an error, adjusted at most one in twenty."""
    random = np.random.default_rng(0)
    z = (random.normal(size=(4000, 10)) + random.normal(size=(4000, 1)) * 0.5) / math.sqrt(1.25)
    p = np.vectorize(lambda item: math.erfc(abs(item) / math.sqrt(2)))(z)
    assert (p.min(axis=1) < 0.05).mean() > 0.3
    adjusted = np.array([holm(item) for item in p])
    assert (adjusted.min(axis=1) < 0.05).mean() < 0.055
    one_true = np.array([holm([*item[:9], 1e-9]) for item in p])
    assert (one_true[:, :9].min(axis=1) < 0.05).mean() < 0.055, "also beside a difference that is there"


def test_a_difference_is_said_before_its_smallness():
    both = Comparison(Estimate(-0.001, -0.0015, -0.0005), p=0.001, p_equivalent=0.001, seeds=5, documents=9)
    assert both.word() == "lower" and both.word(p=0.2) == "equal"


@pytest.mark.parametrize(
    "losses, target, expected",
    [
        ([4.0, 3.0, 2.0], 2.5, 250.0),  # half way between the second and the third point
        ([4.0, 3.0, 2.0], 3.0, 200.0),  # on a point
        ([4.0, 3.0, 2.0], 2.0, 300.0),  # on the last point: the run that sets the target reaches it
        ([4.0, 3.0, 2.0], 1.9, None),
        ([4.0, 2.0, 3.0, 1.0], 2.5, 175.0),  # the first time of three
        ([4.0, 3.0, 2.0], 5.0, 100.0),  # before the first point nothing is known
        ([4.0, math.nan, math.nan], 2.5, None),
    ],
)
def test_a_crossing_is_the_first_and_straight_between_points(losses, target, expected):
    assert first_crossing([100, 200, 300, 400][: len(losses)], losses, target) == expected


def test_a_crossing_on_a_fine_curve_is_the_inverse_of_the_curve():
    tokens = list(range(10, 2000, 10))
    losses = [3 * step**-0.5 + 1 for step in tokens]
    assert first_crossing(tokens, losses, 1.1) == pytest.approx(900, abs=0.1)
