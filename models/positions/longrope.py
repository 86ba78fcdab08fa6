"""LongRoPE: one factor per pair, found by a search, and the first tokens left as they were."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from conf.base import BadInput, CountOrZero
from models.positions.files import read_yaml
from models.positions.frequencies import phases
from models.positions.rescaled import Rescaled, ntk_factors, ranks

# λ of every pair, from the fastest to the slowest.
Factors = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
LISTED = ("long", "short", "n_hat", "temperature")  # what a file may set


def read_factors(path: str) -> dict:
    """The mapping in a YAML file: long, and maybe short, n_hat, temperature, factor; other keys are for who wrote it.

    Raises:
        ValueError: the file cannot be read, or lists no factors; the message is one sentence.
    """
    held = read_yaml(path)
    if not isinstance(held, dict) or not isinstance(held.get("long"), list):
        raise ValueError(f"path={path} must hold a mapping with `long`, a list of one factor per pair")
    return held


class LongRoPE(Rescaled):
    """A factor for every pair, and the first n̂ positions left as they were (Ding et al. 2024, arXiv 2402.13753).

    phase = p·ω_i for p < n̂, else p·ω_i/λ_i. For texts of up to L tokens `short` takes the place of `long` if it is
    given; a text of L tokens is still short. The temperature, 1/t = 1 + ln s/ln L, holds for both (the authors' code;
    as a factor of cosines and sines it is √(1/t)). Factors come as lists or from a YAML file, and travel with the
    settings, so that a checkpoint needs the file no more. Without any, `long` is what NTK would divide by.

    With n̂ > 0 phases fall back where the stretched part begins (n̂ = 64, λ = 8: token 63 stands at 63, 64 at 8), and
    scores depend on more than distances.
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["longrope"] = "longrope"
        path: str | None = None
        long: Factors | None = None
        short: Factors | None = None
        n_hat: CountOrZero | None = None  # None: 0, or what the file says

        @model_validator(mode="before")
        @classmethod
        def _read(cls, given):
            if not isinstance(given, dict) or not isinstance(given.get("path"), str) or given.get("long") is not None:
                return given
            held = read_factors(given["path"])
            given = given | {key: held[key] for key in LISTED if key in held and given.get(key) is None}
            if "factor" in held and given.setdefault("factor", held["factor"]) != held["factor"]:
                raise ValueError(f"path={given['path']} is for factor={held['factor']}, not factor={given['factor']}")
            return given

        @property
        def stem(self) -> str:
            """With the first tokens left alone and the switch by length, which change what a reading means."""
            first = f"-n{self.n_hat}" if self.n_hat else ""
            return super().stem + first + ("-switch" if self.short is not None else "")

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        if window == 1 and knobs.temperature is None:
            raise BadInput("extend.temperature must be set: LongRoPE's own is not defined for a window of one token")
        self.depends_on_length = knobs.short is not None
        self.relative = not knobs.n_hat and not self.depends_on_length

    @property
    def published_temperature(self) -> float:
        return 1 / (1 + math.log(self.knobs.factor) / math.log(self.window))

    def fits(self, frequencies: Tensor) -> None:
        for name in ("long", "short"):
            listed = getattr(self.knobs, name)
            if listed is not None and len(listed) != len(frequencies):
                raise BadInput(f"extend.{name} lists {len(listed)} factors for {len(frequencies)} pairs of channels")
        if self.knobs.long is None:
            self._needs_two(frequencies)

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        long = self._stretched(self.knobs.long, frequencies)
        if self.knobs.short is None:
            return long
        return torch.where(length > self.window, long, self._stretched(self.knobs.short, frequencies))

    def _stretched(self, factors: tuple[float, ...] | None, frequencies: Tensor) -> Tensor:
        if factors is None:
            return frequencies / ntk_factors(frequencies, self.knobs.factor)
        listed = torch.tensor(factors, dtype=torch.float64, device=frequencies.device)
        return frequencies / listed[ranks(frequencies)]

    def phases(self, positions: Tensor, frequencies: Tensor) -> Tensor:
        first = positions[..., None] < (self.knobs.n_hat or 0)
        return torch.where(first, phases(positions, frequencies), super().phases(positions, frequencies))
