"""The claims of papers that the lab puts to the test: a file for each, and here their names."""

from experiments.claims.bound import Bound
from experiments.claims.claim import Claim
from experiments.claims.convergence import Convergence
from experiments.claims.extrapolation import Extrapolation
from experiments.claims.spacing import Spacing
from experiments.claims.starting_positions import StartingPositions

CLAIMS: dict[str, type[Claim]] = {
    "convergence": Convergence,
    "extrapolation": Extrapolation,
    "bound": Bound,
    "starting_positions": StartingPositions,
    "spacing": Spacing,
}
