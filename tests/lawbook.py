"""The book of laws: functions of a case that fail by AssertionError, entered under their names."""

from collections.abc import Callable

import torch

from tests.cases import Case

LAWS: dict[str, Callable[[Case], None]] = {}
APPLIES: dict[str, Callable[[Case], bool]] = {}
SAME, MOVED = 1e-4, 1e-3  # logits are of order one: closer is rounding, further is an effect
LENGTH = 12  # within the trained window, for learned tables


def law(applies: Callable[[Case], bool] = lambda case: True):
    """Enter a function in the book under its name, for the schemes it speaks of."""

    def enter(function):
        LAWS[function.__name__], APPLIES[function.__name__] = function, applies
        return function

    return enter


def same(a, b, tolerance: float = SAME) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def moved(a, b) -> None:
    gap = (a - b).abs().max().item()
    assert gap > MOVED, f"nothing moved: the largest difference is {gap:.1e}"
