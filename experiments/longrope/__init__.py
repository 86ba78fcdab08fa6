"""LongRoPE's factors: searched for longer texts, and recovered for short ones."""

from experiments.lab.face import hand_out

__getattr__ = hand_out(
    __name__,
    candidates=("Fitness", "Texts", "in_place", "known", "needles", "space"),
    evolution=("Individual",),
    recovery=("Recovery", "recover"),
    search=("Longer", "Search", "search_factors"),
    searching=("Searching", "overfit", "rival", "search_progress"),
)
