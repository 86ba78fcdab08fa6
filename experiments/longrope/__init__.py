"""LongRoPE's factors: searched for longer texts, and recovered for short ones."""

from experiments.lab.exports import lazy_exports

__getattr__ = lazy_exports(
    __name__,
    candidates=("Fitness", "Texts", "install_candidates", "known_factors", "make_space", "needle_texts"),
    evolution=("Individual",),
    recovery=("Recovery", "recover"),
    search=("Longer", "Search", "search_factors"),
    searching=("Searching", "search_progress"),
    table=("best_rival", "impossible", "overfit"),
)
