"""Spectra: the frequencies at which a sinusoidal or rotary scheme turns, and the phases they give.

    phase[t, k] = position[t] · frequency[k]

A spectrum is its own settings and a pure function of them, `table(channels)`: K = channels/2 frequencies, fastest
first, in radians per token; the wavelength of ω is 2π/ω tokens. Frequencies are computed in float64 and rounded
once, so that a phase far from the start carries the rounding of a single float32 product and nothing more.

Two spacings are compared fairly when they share their end points. Those with an end of their own (a base, an
exponent) keep it while `slowest` is null; given, they run from 1 to it, both included, as the others run from
`fastest` to `slowest`.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from conf.base import BadInput, Count, CountOrZero, Settings
from models.positions.files import read_yaml


def phases(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Every position times every frequency: (…, T) and (K,) → (…, T, K) in the dtype of the positions.

    A plain product, not a matrix multiplication: autocast would run the latter in bfloat16, where positions collide
    from 257 on.
    """
    return positions[..., None] * frequencies.to(positions.dtype)


def steps(count: int, device: torch.device | None) -> Tensor:
    """0, 1, … count - 1, (count,) in float64."""
    return torch.arange(count, dtype=torch.float64, device=device)


def shares(count: int, device: torch.device | None) -> Tensor:
    """From 0 to 1 in even steps, both included, (count,) in float64; a single step stands at 0."""
    return steps(count, device) / max(count - 1, 1)


def draws(kind: str, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Random numbers, "uniform" on [0, 1) or "normal", float64 on the CPU: a function of the arguments alone.

    A compiled model holds them as constants; a generator would break its graph.
    """
    sample = {"uniform": torch.rand, "normal": torch.randn}[kind]
    return sample(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")


# As torch.compiler.assume_constant_result does, without the second that the compiler takes to import.
draws._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Falling(Settings):
    """Frequencies base^(-φ(u)) for u = k/K, or, given `slowest`, slowest^(φ(u)) for u = k/(K - 1)."""

    base: float = Field(10_000.0, gt=1)
    slowest: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _has_one_end(self):
        if self.slowest is not None and self.base != type(self).model_fields["base"].default:
            raise ValueError(f"base={self.base:g} changes nothing beside slowest={self.slowest:g}: leave one out")
        return self

    def _exponent(self, share: Tensor) -> Tensor:
        """φ, from φ(0) = 0 to φ(1) = 1."""
        return share

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        """The frequencies of a group of channels, (channels/2,) in float64, radians per token."""
        if self.slowest is None:
            return self.base ** -self._exponent(steps(channels // 2, device) / (channels // 2))
        return self.slowest ** self._exponent(shares(channels // 2, device))


class Geometric(_Falling):
    """Frequencies base^(-2k/channels), wavelengths from 2π to almost 2π·base tokens (Vaswani et al. 2017, 3.5)."""

    name: Literal["geometric"] = "geometric"


class Cosh(_Falling):
    """EVQ-cosh: φ(u) = 1 - asinh((1 - u) sinh τ)/τ, which moves a geometric spectrum towards short wavelengths.

    τ → 0 is geometric. From the hybrid-rope project, whose recipe has u = k/K; its sweeps used u = (k + ½)/K.
    """

    name: Literal["cosh"] = "cosh"
    tau: float = Field(2.0, gt=0, le=100)

    def _exponent(self, share: Tensor) -> Tensor:
        return 1 - torch.asinh((1 - share) * math.sinh(self.tau)) / self.tau


class Power(Settings):
    """A power law, ω_k = (1 + c·k)^(-exponent): c = 1, or what makes the last one `slowest`."""

    name: Literal["power"] = "power"
    exponent: float = Field(2.0, gt=0)
    slowest: float | None = Field(None, gt=0, lt=1)

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        count, stretch = channels // 2, 1.0
        if self.slowest is not None:
            stretch = (self.slowest ** (-1 / self.exponent) - 1) / max(count - 1, 1)
        return (1 + stretch * steps(count, device)) ** -self.exponent


class _Between(Settings):
    """A spectrum with both end points as settings, radians per token."""

    fastest: float = Field(1.0, gt=0)
    slowest: float = Field(1e-4, gt=0)

    @model_validator(mode="after")
    def _falls(self):
        if self.slowest > self.fastest:
            raise ValueError(f"slowest={self.slowest:g} must not be above fastest={self.fastest:g}")
        return self


class Linear(_Between):
    """Frequencies in even steps from fastest to slowest."""

    name: Literal["linear"] = "linear"

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        return self.fastest + (self.slowest - self.fastest) * shares(channels // 2, device)


class Cosine(_Between):
    """Half a cosine from fastest to slowest: dense at both ends, ω(u) = slowest + (fastest - slowest)(1 + cos πu)/2."""

    name: Literal["cosine"] = "cosine"

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        share = (1 + torch.cos(math.pi * shares(channels // 2, device))) / 2
        return self.slowest + (self.fastest - self.slowest) * share


class LogUniform(_Between):
    """Logarithms drawn uniformly between those of slowest and fastest, sorted: a geometric spectrum left to chance."""

    name: Literal["log_uniform"] = "log_uniform"
    seed: CountOrZero = 0

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        share = draws("uniform", self.seed, (channels // 2,)).to(device).sort().values
        return self.fastest * (self.slowest / self.fastest) ** share


class Gaussian(Settings):
    """Random Fourier features: |ω| of ω ~ N(0, scale²), sorted (Rahimi & Recht 2007).

    With many frequencies the kernel mean cos(ω r) tends to exp(-(scale·r)²/2). The sign of a frequency only says
    which way a pair turns, so its magnitude is kept.
    """

    name: Literal["gaussian"] = "gaussian"
    scale: float = Field(0.3, gt=0)
    seed: CountOrZero = 0

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        sample = draws("normal", self.seed, (channels // 2,)).to(device).abs()
        return self.scale * sample.sort(descending=True).values


class Harmonic(Settings):
    """Multiples of half a turn per `length` tokens, ω_k = 2πk/(2·length) for k = K … 1, as in a Fourier series.

    Orthogonal within the length and all back in phase at 2·length: there the encoding repeats itself.
    """

    name: Literal["harmonic"] = "harmonic"
    length: Count = 256

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        return (channels // 2 - steps(channels // 2, device)) * (math.pi / self.length)


class TwoTone(_Between):
    """Two frequencies: the first half of the pairs turns at fastest, the rest at slowest."""

    name: Literal["two_tone"] = "two_tone"

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        first = shares(channels // 2, device) < 0.5
        return self.slowest + (self.fastest - self.slowest) * first.double()


class SingleTone(Settings):
    """One frequency for every pair."""

    name: Literal["single_tone"] = "single_tone"
    frequency: float = Field(0.1, gt=0)

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        return torch.full((channels // 2,), self.frequency, dtype=torch.float64, device=device)


def read_frequencies(path: str) -> list[float]:
    """The numbers of a file: a YAML or JSON list, or plain numbers separated by space.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message is one sentence.
    """
    listed = read_yaml(path)
    try:
        return [float(value) for value in (listed if isinstance(listed, list) else str(listed).split())]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"path={path} must hold a YAML or JSON list of numbers, or plain numbers") from None


class File(Settings):
    """The frequencies listed in a file, in its order, one per pair of channels, radians per token.

    They become part of the settings, so a checkpoint carries them and needs the file no more. A zero would be a pair
    that never turns, which p_rope is for.
    """

    name: Literal["file"] = "file"
    path: str
    values: Annotated[tuple[float, ...], BeforeValidator(tuple)]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given):
        if isinstance(given, dict) and isinstance(given.get("path"), str) and "values" not in given:
            return given | {"values": read_frequencies(given["path"])}
        return given

    @model_validator(mode="after")
    def _positive(self):
        wrong = [value for value in self.values if not 0 < value < math.inf]
        if wrong:
            raise ValueError(f"path={self.path} lists {wrong[0]:g}; a frequency must be positive and finite")
        return self

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        """The frequencies, (channels/2,) in float64.

        Raises:
            BadInput: the file lists another number of them.
        """
        if len(self.values) != channels // 2:
            raise BadInput(
                f"frequencies.path={self.path} lists {len(self.values)} frequencies; "
                f"{channels} channels turn in {channels // 2} pairs"
            )
        return torch.tensor(self.values, dtype=torch.float64, device=device)


SPECTRA: dict[str, type[Settings]] = {
    "geometric": Geometric,
    "linear": Linear,
    "power": Power,
    "cosine": Cosine,
    "cosh": Cosh,
    "log_uniform": LogUniform,
    "gaussian": Gaussian,
    "harmonic": Harmonic,
    "two_tone": TwoTone,
    "single_tone": SingleTone,
    "file": File,
}
