"""The claims of papers that the lab puts to the test: a file for each, and here their names."""

from experiments.claims.bound import Bound
from experiments.claims.claim import Claim
from experiments.claims.convergence import Convergence
from experiments.claims.effective_window import EffectiveWindow
from experiments.claims.extrapolation import Extrapolation
from experiments.claims.finetuning import Finetuning
from experiments.claims.position_free import PositionFree
from experiments.claims.search import SearchClaim
from experiments.claims.spacing import Spacing
from experiments.claims.starting_positions import StartingPositions

CLAIMS: dict[str, type[Claim]] = {
    "convergence": Convergence,
    "extrapolation": Extrapolation,
    "finetuning": Finetuning,
    "effective_window": EffectiveWindow,
    "search": SearchClaim,
    "bound": Bound,
    "starting_positions": StartingPositions,
    "spacing": Spacing,
    "position_free": PositionFree,
}
