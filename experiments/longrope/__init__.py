"""LongRoPE's factors: searched for longer texts, and recovered for short ones."""

from experiments.lab.face import hand_out
from experiments.longrope.recovery import Recovery, recover
from experiments.longrope.search import Longer, Search, search_factors
from experiments.longrope.searching import Searching, overfit, rival, search_progress

__all__ = [
    "Longer",
    "Recovery",
    "Search",
    "Searching",
    "overfit",
    "recover",
    "rival",
    "search_factors",
    "search_progress",
]
__getattr__ = hand_out(
    __name__,
    Fitness="candidates",
    Individual="evolution",
    Texts="candidates",
    in_place="candidates",
    known="candidates",
    needles="candidates",
    space="candidates",
)
