"""Extensions that change the frequencies: NTK-aware bases, ramps between kept and interpolated pairs, rounding.

Each is a function of the table of frequencies, in float64, fastest first or not: pairs are told apart by how fast
they turn, so a spectrum needs no order. With ω_max the fastest, a factor λ_k ≥ 1 divides ω_k.

Letters in shape comments are those of models/__init__.py.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from conf.base import BadInput
from models.positions.extensions import Extension, Stretch
from models.positions.rows import Sharpened


class Rescaled(Extension):
    """An extension of the frequencies, with a temperature: the published one unless it is set.

    The temperature divides all scores, once (models/gpt.py). Code that scales cosines and sines instead, as
    `transformers` does by 1/√t, leaves the channels that do not rotate without it; with all channels rotating the
    two are the same.
    """

    class Knobs(Stretch):
        temperature: float | None = Field(None, gt=0)

    changes = "frequencies"
    published_temperature: float = 1.0

    @property
    def temperature(self) -> float:
        given = self.knobs.temperature
        return self.published_temperature if given is None else given

    def _needs_two(self, frequencies: Tensor) -> None:
        if frequencies.max() == frequencies.min():
            raise BadInput(f"extend={self.knobs.name} needs at least two different frequencies per head, and has one")

    def _needs_geometric(self, frequencies: Tensor, what: str) -> None:
        steps = frequencies.sort(descending=True).values.log().diff()
        if not len(steps) or steps[0] == 0 or (steps / steps[0] - 1).abs().max() > 1e-6:
            raise BadInput(f"extend={self.knobs.name} {what} needs frequencies=geometric and at least two pairs")


def ranks(frequencies: Tensor) -> Tensor:
    """The place of every frequency from the fastest, (K,) → 0 … K - 1, (K,) int64."""
    return frequencies.argsort(descending=True, stable=True).argsort()


def ntk_factors(frequencies: Tensor, factor: float | Tensor, pivot: Tensor | float | None = None) -> Tensor:
    """λ_k = s^(ln(ω_max/ω_k) / ln(ω_max/pivot)): the fastest frequency stays, and one at the pivot is divided by s.

    On a geometric spectrum this is a change of base. pivot: the slowest frequency if not given. factor may be
    (…, T, 1), and λ then is (…, T, K).
    """
    fastest, pivot = frequencies.max(), frequencies.min() if pivot is None else pivot
    return factor ** (torch.log(fastest / frequencies) / torch.log(fastest / pivot))


def mixed_radix_factors(frequencies: Tensor, factor: float, power: float) -> Tensor:
    """λ_k = s^((m/K)^power) for the m-th of K frequencies from the fastest on, m = 1 … K.

    Between the fastest and the slowest, m goes by the logarithm of the frequency, as it does in a geometric spectrum.
    """
    fastest, count = frequencies.max(), len(frequencies)
    place = 1 + (count - 1) * torch.log(fastest / frequencies) / torch.log(fastest / frequencies.min())
    return factor ** ((place / count) ** power)


class NTK(Rescaled):
    """NTK-aware scaling: slow pairs slow down, the more the slower; by default with a larger base.

    form classic (bloc97; YaRN, Peng et al. 2023, 3.1): base' = base · s^(d/(d-2)), so λ_i = s^(2i/(d-2)) and the
    slowest pair is divided by s. form critical (Liu et al. 2023, arXiv 2310.05209; LongRoPE2): base' = base^κ with
    κ = ln(sL/2π)/ln(L/2π), so a pair that turned once in L tokens turns once in s·L; slower ones are divided by more.

    Su (2023, kexue.fm/archives/9706) reads phases as the K digits of a number, of radix base^(1/K). In two other forms
    the m-th pair from the fastest, m = 1 … K, is divided by λ_1·…·λ_m, which is s for the slowest. form fixed: every λ
    is s^(1/K), so the fastest pair slows down too. form mixed: λ_1·…·λ_m = exp(a·m^b) with b = 0.625, so fast pairs
    slow down more, and the radix differs from digit to digit (also MrRoPE, arXiv 2601.22181).
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["ntk"] = "ntk"
        form: Literal["classic", "critical", "fixed", "mixed"] = "classic"

        @property
        def stem(self) -> str:
            return super().stem + ("" if self.form == "classic" else f"-{self.form}")

    def fits(self, frequencies: Tensor) -> None:
        self._needs_two(frequencies)
        if self.knobs.form == "critical" and frequencies.max() * self.window <= 2 * math.pi:
            raise BadInput(f"extend.form=critical needs a pair that turns more than once in {self.window} tokens")

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        if self.knobs.form in ("fixed", "mixed"):
            power = 1.0 if self.knobs.form == "fixed" else 0.625
            return frequencies / mixed_radix_factors(frequencies, self.knobs.factor, power)
        pivot = None if self.knobs.form == "classic" else 2 * math.pi / self.window
        return frequencies / ntk_factors(frequencies, self.knobs.factor, pivot)


class DynamicNTK(Rescaled):
    """NTK-aware scaling by what the text read needs, l tokens long (YaRN, Peng et al. 2023, 3.3; emozilla).

    variant paper: s = max(1, l/L), and the factor is not read. variant transformers: s = factor·l/L - (factor - 1)
    beyond L, which is 13 where l = 4L and factor = 4; both agree at factor = 1. A function of l alone: nothing is
    remembered from one text to the next.
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["dynamic_ntk"] = "dynamic_ntk"
        factor: float = Field(1.0, ge=1)
        variant: Literal["paper", "transformers"] = "paper"

        @property
        def stem(self) -> str:
            return self.name if self.variant == "paper" else f"{super().stem}-{self.variant}"

    depends_on_length = True
    relative = False  # later positions mean a longer text

    def fits(self, frequencies: Tensor) -> None:
        self._needs_two(frequencies)

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        needed = (length.double() / self.window).clamp(min=1)
        if self.knobs.variant == "transformers":
            needed = self.knobs.factor * needed - (self.knobs.factor - 1)
        return frequencies / ntk_factors(frequencies, needed)


def by_parts(frequencies: Tensor, factor: float, unscaled: Tensor) -> Tensor:
    """Between ω/s where `unscaled` is 0 and ω where it is 1, linearly: (K,) and (K,) → (K,)."""
    return torch.lerp(frequencies / factor, frequencies, unscaled)


def by_rotations(frequencies: Tensor, window: int, slow: float, fast: float) -> Tensor:
    """The share of a pair that is kept, by its turns in a window: 0 up to `slow`, 1 from `fast` on, linear between."""
    turns = frequencies * window / (2 * math.pi)
    return ((turns - slow) / (fast - slow)).clamp(0, 1)


def by_index(frequencies: Tensor, window: int, slow: float, fast: float, truncate: bool = True) -> Tensor:
    """The same, linear in the rank of the pair between those that make `fast` and `slow` turns.

    For K frequencies in a geometric series. As in the released code: the one rank is kept from 0, the other to 2K - 1,
    twice as far as there are pairs; truncate: to whole pairs, the one rounded down, the other up.
    """
    count, fastest = len(frequencies), frequencies.max()
    step = torch.log(fastest / frequencies.min()) / (count - 1)
    first, last = (torch.log(fastest * window / (2 * math.pi * turns)) / step for turns in (fast, slow))
    if truncate:
        first, last = first.floor(), last.ceil()
    first, last = first.clamp(min=0), last.clamp(max=2 * count - 1)
    last = torch.where(first == last, last + 0.001, last)
    return 1 - ((ranks(frequencies) - first) / (last - first)).clamp(0, 1)


class Yarn(Rescaled):
    """YaRN: slow pairs are interpolated, fast ones kept, with a ramp between, and scores sharpened (Peng et al. 2023).

    ω' = (1 - γ)·ω/s + γ·ω (eq. 18) and √(1/t) = 0.1·ln s + 1 (section 3.4). ramp rotations, the paper: γ is linear in
    the turns a pair makes in the window, from 0 at beta_slow (α) to 1 at beta_fast (β). ramp index, the authors' code
    and `transformers`: linear in the index of the pair (truncate: between whole indices). The two differ by up to three
    times.

    The paper's β = 32 is for Llama: at windows below 201 tokens not even the fastest pair makes 32 turns. Unset, it is
    min(32, L/8π), four times slower than one radian per token, but at least twice beta_slow.
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["yarn"] = "yarn"
        ramp: Literal["rotations", "index"] = "rotations"
        beta_fast: float | None = Field(None, gt=0)
        beta_slow: float = Field(1.0, gt=0)
        truncate: bool = Field(True, exclude_if=True.__eq__)  # of ramp=index: its ends are whole pairs

        @model_validator(mode="after")
        def _fits(self):
            if not self.truncate and self.ramp != "index":
                raise ValueError(f"truncate=false changes nothing with ramp={self.ramp}: it is of ramp=index")
            if self.beta_fast is not None and self.beta_fast <= self.beta_slow:
                raise ValueError(f"beta_fast={self.beta_fast:g} must be above beta_slow={self.beta_slow:g}")
            return self

        @property
        def stem(self) -> str:
            return super().stem + ("" if self.ramp == "rotations" else f"-{self.ramp}")

    @property
    def published_temperature(self) -> float:
        return (0.1 * math.log(self.knobs.factor) + 1) ** -2

    def fits(self, frequencies: Tensor) -> None:
        if self.knobs.ramp == "index":
            self._needs_geometric(frequencies, "with ramp=index")

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        slow, fast = self.knobs.beta_slow, self.knobs.beta_fast
        if fast is None:
            fast = max(min(32, self.window / (8 * math.pi)), 2 * slow)
        if self.knobs.ramp == "rotations":
            unscaled = by_rotations(frequencies, self.window, slow, fast)
        else:
            unscaled = by_index(frequencies, self.window, slow, fast, self.knobs.truncate)
        return by_parts(frequencies, self.knobs.factor, unscaled)


class Llama3(Rescaled):
    """Llama 3.1: YaRN's ramp over rotations, from 1 to 4 turns in the window, without its temperature.

    With wavelengths 2π/ω: kept below L/high_freq_factor, divided by s above L/low_freq_factor (Grattafiori et al.
    2024; their code).
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["llama3"] = "llama3"
        low_freq_factor: float = Field(1.0, gt=0)
        high_freq_factor: float = Field(4.0, gt=0)

        @model_validator(mode="after")
        def _ordered(self):
            if self.high_freq_factor <= self.low_freq_factor:
                raise ValueError(
                    f"high_freq_factor={self.high_freq_factor:g} must be above low_freq_factor={self.low_freq_factor:g}"
                )
            return self

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        low, high = self.knobs.low_freq_factor, self.knobs.high_freq_factor
        return by_parts(frequencies, self.knobs.factor, by_rotations(frequencies, self.window, low, high))


class Base(Rescaled):
    """A plain change of base: ω_i = ω_max · θ^(-2i/d), whatever it was before (ABF, Xiong et al. 2023: 500 000)."""

    class Knobs(Sharpened):
        name: Literal["base"] = "base"
        theta: float = Field(500_000.0, gt=1)  # the new base
        temperature: float | None = Field(None, gt=0)

        @property
        def stem(self) -> str:
            return f"{self.name}{self.theta:.0f}"

    def fits(self, frequencies: Tensor) -> None:
        self._needs_geometric(frequencies, "replaces a base, so it")

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        fastest, count = frequencies.max(), len(frequencies)
        old = torch.log(fastest / frequencies.min()) * count / (count - 1)  # the logarithm of the base there was
        return fastest * (frequencies / fastest) ** (math.log(self.knobs.theta) / old)


class Resonance(Rescaled):
    """Resonance: wavelengths rounded to whole tokens, after another method changed them (Wang et al. 2024, 2403.00071).

    ω' = 2π/round(2π/ω) with ω those of `over`, as in the authors' code, whose three forms these are; so a pair that
    has turned within the window meets no phase beyond it that it did not meet inside. The temperature is that of
    `over`. Long wavelengths hardly change.
    """

    class Knobs(Rescaled.Knobs):
        name: Literal["resonance"] = "resonance"
        over: Literal["none", "ntk", "yarn"] = "yarn"

        @property
        def stem(self) -> str:
            if self.over == "none":  # whose factor changes nothing
                return f"{self.name}-none"
            return super().stem + ("" if self.over == "yarn" else f"-{self.over}")

    exempt: ClassVar = {"factor_one_changes_nothing": "a factor of one leaves the rounding of the wavelengths"}

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        kind: Any = {"none": Extension, "ntk": NTK, "yarn": Yarn}[knobs.over]
        self.over = kind(kind.Knobs(factor=knobs.factor) if knobs.over != "none" else kind.Knobs(), window)
        self.published_temperature = self.over.temperature

    def fits(self, frequencies: Tensor) -> None:
        if self.knobs.over == "ntk":
            self._needs_two(frequencies)

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        wavelengths = 2 * math.pi / self.over.frequencies(frequencies, length)
        return 2 * math.pi / wavelengths.round().clamp(min=1)
