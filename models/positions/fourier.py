"""FoPE, a rotation whose cosine and sine are sums of several tones."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import BadInput, CountOrZero
from models.positions.base import Settings
from models.positions.frequencies import draws
from models.positions.rotate import Rotary


class FoPE(Rotary):
    """Fourier position embedding: every pair turns by a Fourier series, not a single tone (Hua et al. 2024, 4).

    cos_m(p) = cos(ω_m p) + Σ_n a_nm cos(ω_n p), and sin_m likewise with coefficients b: both normal with deviation
    σ/√K', drawn per head from `seed`, the same in every layer, and never trained (arXiv 2412.17739). Frequencies
    that make less than one turn in the window are under-trained and set to zero; only the K' others mix.

    The authors' code gives a zeroed frequency cosine 1 *and* sine 1, which doubles its channels' scores; here, as in
    the paper, it is the identity: cosine 1, sine 0. An extension sees the full table before its slow end is stopped,
    and which pairs stop is a matter of the spectrum and the window trained on alone.
    """

    class Knobs(Settings):
        name: Literal["fope"] = "fope"
        sigma: float = Field(0.3, ge=0)
        seed: CountOrZero = 0

    stretches = frozenset({"positions", "frequencies"})
    relative = False  # products of two series hold sums of positions beside their differences
    exempt: ClassVar = {"rotation_keeps_norms": "a series of tones is no rotation: its sine and cosine share no radius"}

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        turning = spectrum.table(self.rotated) * geometry.window >= 2 * math.pi
        self.turning = turning.nonzero().flatten().tolist()  # the pairs that complete a turn
        if not self.turning:
            raise BadInput(
                f"position=fope has nothing to turn: no frequency completes a turn in {geometry.window} tokens"
            )

    def prepare(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Positions (T,) or (B, T) → cosines and sines, each (H, T, K) or (B, H, T, K)."""
        device, turning = positions.device, len(self.turning)
        pairs = torch.tensor(self.turning, device=device)
        phase = self.phase(positions)[..., pairs].unsqueeze(-3)  # (…, 1, T, K')
        noise = draws("normal", self.knobs.seed, (2, self.geometry.heads, turning, turning)).to(device)
        mix = torch.eye(turning, dtype=torch.float64, device=device) + noise * self.knobs.sigma * turning**-0.5
        tables = []
        for wave, part, still in ((phase.cos(), mix[0], 1.0), (phase.sin(), mix[1], 0.0)):
            series = wave.double() @ part  # (…, H, T, K'); in float64, out of the reach of reduced matrix precision
            table = series.new_full((*series.shape[:-1], self.rotated // 2), still)
            tables.append(table.index_copy(-1, pairs, series).to(positions.dtype))
        return tuple(tables)
