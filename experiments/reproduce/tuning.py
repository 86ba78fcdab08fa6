"""Arms that are fine-tuned from other arms, and where the curves of two of them cross."""

from collections.abc import Sequence

import numpy as np

from experiments.lab.statistics import Estimate, first_crossing

STEPS = (2, 8, 32, 128)  # of fine-tuning after which an arm is read; the last is its length
DIRECT, CONTROL = "none", "control"  # fine-tuned on longer windows as it is, and at the window there was


def tuned(start: str, window: int, method: str, factor: int, steps: Sequence[int]) -> list[str]:
    """Overrides of an arm fine-tuned from another arm's run of the same seed, on windows of factor · window tokens.

    Args:
        start: the other arm; or "<arm>/<share>", the snapshot nearest to that share of its steps.
        method: an extension, at this factor if it has one (all but none and drop).
        steps: steps after which it is measured; the last is its length.
    """
    extension = [f"extend={method}"] + ([] if method in (DIRECT, "drop") else [f"extend.factor={factor}"])
    length = [f"window={factor * window}", f"steps={steps[-1]}", f"snapshots={list(steps)}".replace(" ", "")]
    return [f"checkpoint=@{start}", *extension, *length]


def crossing(steps: Sequence[int], ratios: Sequence[Estimate]) -> Estimate | None:
    """The steps at which a ratio first passes one, with those at which its interval passes it; None if it never does.

    Ratios and their ends are straight in ln ratio over log2(1 + steps) between readings. The interval holds the steps
    at which 95 % intervals have one within them; its end is infinite if they still have at the last reading.
    """
    places = np.log2(1 + np.asarray(steps, dtype=np.float64))
    value, low, high = np.log([[ratio.value, ratio.low, ratio.high] for ratio in ratios]).T
    if value[0] < 0:
        value, low, high = -value, -high, -low
    ends = [first_crossing(places, curve, 0) for curve in (value, low, high)]
    if ends[0] is None:
        return None
    return Estimate(*(float(2**place - 1) if place is not None else np.inf for place in ends))
