"""How cost grows: fits recover known exponents, each axis is scaled alone, and devices follow their formula."""

import json

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from conf.validation import validate
from experiments.benchmark import Workbench
from experiments.cost.growth import AXES, STATE, Cost, fits, on_devices, power_law, run_cost, scaled
from experiments.lab.canvas import read_caption
from tests.runs import CACHE, tiny
from train import compose

SMALL = ["window=8", "tokens=32", "factors=[1,2]", "repeats=2", "seconds=0.001", "data.tokenizer.kind=bytes"]


def settings(*overrides: str) -> Cost:
    return validate(
        Cost, compose_values("cost", [f"cache={CACHE}", "data.tokenizer.vocabulary=null", *SMALL, *overrides])
    )


def rows(axis: str, seconds, peak=lambda x: x, sizes=(2, 4, 8, 16), failure=None) -> list[dict]:
    common = {"axis": axis, "failure": failure}
    return [
        {**common, "size": x, "seconds": [slow * seconds(x) for slow in (1, 3)], "peak": peak(x), "operations": x**2}
        for x in sizes
    ]


def test_a_power_law_is_recovered():
    exponent, constant = power_law([3, 10, 40], [5 * x**1.7 for x in (3, 10, 40)])
    assert (exponent, constant) == pytest.approx((1.7, 5))


def test_fits_recover_the_exponent_of_each_axis_and_say_where_they_were_fitted():
    """A machine three times slower in the second round changes no exponent; a failed point is in no range."""
    measured = rows("window", lambda x: 7 * x**1.3, lambda x: 100 * x**0.5) + rows("batch", lambda x: 0.1 * x)
    measured += rows("batch", lambda x: 1.0, sizes=(1024,), failure="OutOfMemoryError") + rows(
        "width", float, sizes=(2,)
    )
    result = {fit["axis"]: fit for fit in fits(measured)}
    assert set(result) == {"window", "batch"}
    window, batch = result["window"], result["batch"]
    assert window["rounds"] == pytest.approx({"median": 1.3, "low": 1.3, "high": 1.3})
    assert window["seconds"] == pytest.approx({"exponent": 1.3, "constant": 14, "off": 1})  # the median of 7 and 21
    assert window["peak"]["exponent"] == pytest.approx(0.5) and window["operations"]["exponent"] == pytest.approx(2)
    assert batch["seconds"]["exponent"] == pytest.approx(1) and (batch["low"], batch["high"]) == (2, 16)


def test_what_is_no_power_law_says_how_far_it_is_off():
    (fit,) = fits(rows("window", lambda x: 1 + (x == 4)))
    assert fit["seconds"]["off"] > 1.3


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_is_scaled_alone(tmp_path, axis):
    base = compose(tiny(tmp_path))
    more = scaled(base, axis, 2)
    assert more.model.width // more.model.heads == base.model.width // base.model.heads
    for other in AXES:
        before, after = (getattr(item.model, other, None) or getattr(item, other) for item in (base, more))
        assert after == before * (2 if other == axis else 1)
    assert more.original_window == more.window
    with pytest.raises(BadInput, match="no whole number"):
        scaled(base, axis, 0.3)


def test_the_width_takes_shared_heads_and_the_network_with_it(tmp_path):
    modern = ["model.heads=4", "model.kv_heads=2", "model.network=swiglu", "model.network_width=40", "model.width=64"]
    base = compose(tiny(tmp_path, *modern))
    wide = scaled(base, "width", 2).model
    assert (wide.heads, wide.kv_heads, wide.network_width, wide.width) == (8, 4, 80, 128)
    with pytest.raises(BadInput, match=r"0\.25 times kv_heads 2 is no whole number"):
        scaled(base, "width", 0.25)


@pytest.mark.slow
def test_what_was_measured_is_kept_and_sizes_that_all_fail_are_one_sentence(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr("experiments.benchmark.memory.bound_memory", lambda: None)

    def fail(self, config):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Workbench, "lab_loop", fail)
    with pytest.raises(BadInput, match=r"no size was measured at two factors.*RuntimeError: out of memory"):
        run_cost(settings(f"folder={tmp_path}"), [])
    assert len(json.loads((tmp_path / "cost.json").read_text())["rows"]) == 2 * len(AXES)


def test_devices_share_the_batch_and_pay_for_what_they_send():
    result = {(row["strategy"], row["devices"]): row for row in on_devices(8.0, 1.0, 10**6, (1, 2, 4), (1e6, 1e9))}
    assert result["ddp", 1]["sent"] == result["fsdp", 1]["sent"] == 0 and result["ddp", 1]["seconds"] == [8, 8]
    assert result["ddp", 2]["sent"] == 4e6 and result["ddp", 4]["sent"] == 6e6  # 2·(n - 1)/n·4 MB
    assert result["fsdp", 4]["sent"] == 9e6 and result["fsdp", 4]["state"] == STATE * 10**6 / 4
    assert result["ddp", 4]["state"] == STATE * 10**6
    assert result["ddp", 2]["seconds"] == pytest.approx([4 + 4, 4 + 0.004])


@pytest.mark.slow
def test_the_command_measures_every_axis_and_leaves_numbers_and_a_figure(tmp_path, capsys, one_thread):
    folder = run_cost(settings(f"folder={tmp_path / 'cost'}"), [])
    saved = json.loads((folder / "cost.json").read_text())
    assert [(row["axis"], row["factor"]) for row in saved["rows"]] == [(axis, f) for axis in AXES for f in (1, 2)]
    assert all(row["failure"] is None and row["peak"] > STATE * row["weights"] for row in saved["rows"])
    sizes = {fit["axis"]: (fit["low"], fit["high"]) for fit in saved["fits"]}
    assert sizes == {"window": (8, 16), "width": (128, 256), "layers": (4, 8), "batch": (4, 8)}
    assert [row["devices"] for row in saved["devices"]] == 2 * [1, 2, 4]  # a batch of four
    assert saved["versions"]["torch"] and saved["device"]
    assert (folder / "cost.txt").read_text().strip() in capsys.readouterr().out
    title, text = read_caption(folder / "cost.svg")
    assert "cost" in title and all(axis in text for axis in AXES) and (folder / "cost.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "override, message",
    [("factors=[1]", "factors"), ("bandwidths=[0]", "bandwidths.*greater than 0"), ("repeats=0", "repeats=0")],
)
def test_a_bad_option_is_one_sentence(override, message):
    with pytest.raises(BadInput, match=message) as caught:
        settings(override)
    assert "\n" not in str(caught.value)
