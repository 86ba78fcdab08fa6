"""The claims of papers under test: one file each, and their names."""

from experiments.reproduce.claim import Claim
from experiments.reproduce.claims.bound import Bound
from experiments.reproduce.claims.convergence import Convergence
from experiments.reproduce.claims.dependency_width import DependencyWidth
from experiments.reproduce.claims.effective_window import EffectiveWindow
from experiments.reproduce.claims.extrapolation import Extrapolation
from experiments.reproduce.claims.finetuning import Finetuning
from experiments.reproduce.claims.length_generalization import LengthGeneralization
from experiments.reproduce.claims.locality import Locality
from experiments.reproduce.claims.position_free import PositionFree
from experiments.reproduce.claims.search import SearchClaim
from experiments.reproduce.claims.spacing import Spacing
from experiments.reproduce.claims.starting_positions import StartingPositions
from experiments.reproduce.claims.turn import Turn

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
    "dependency_width": DependencyWidth,
    "locality": Locality,
    "turn": Turn,
    "length_generalization": LengthGeneralization,
}
