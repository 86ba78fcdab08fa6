"""Candidates of a search for LongRoPE's factors, scored by one model that is built once.

The texts are stretches of held-out documents with all targets scored, or retrieval trials with the key as far back as
possible and only the key scored (LongRoPE2's needle perplexity, Shang et al. 2025, section 3.2). For the protocols
both are a context length and a number of targets; the score is exp(Σ nll / Σ tokens).

Letters in shape comments: T tokens, K frequencies, P candidates, D texts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conf.base import BadInput
from data.retrieval import Task
from experiments.lab.measure.context import with_optimum
from experiments.lab.measure.perplexity import by_document
from experiments.lab.measure.protocols import TokenLosses, summarise, token_losses
from experiments.lab.measure.retrieval import make_trials
from experiments.lab.measure.segments import cut
from experiments.longrope.evolution import STEPS, Individual, Space
from models.positions import EXTENSIONS
from models.positions.frequencies import phases
from models.positions.longrope import LongRoPE
from models.positions.rescaled import ranks

if TYPE_CHECKING:
    from data.corpus import Corpus
    from data.settings import Chains, Retrieval
    from models.gpt import GPT

# The paper's list of n̂; those beyond the trained window are dropped, since they would stretch nothing.
N_HATS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
PERIODS = 10  # turns in the window of the first pair that LongRoPE2 takes for critical


@dataclass(frozen=True)
class Texts:
    """Texts to score a model on, one array each, and the unit each belongs to, a document or a trial.

    context: tokens read at a time; targets: number of scored targets at the end of a text (None: all); language: of
    chains, whose best reader is known.
    """

    tokens: list[np.ndarray]
    owners: list[int]
    context: int
    targets: int | None = None
    language: "Chains | None" = None

    def losses(self, model: "GPT", repeat: int = 1, **options) -> TokenLosses:
        """Token losses of these texts, repeated `repeat` times; options are those of token_losses."""
        protocol, region = ("windows" if self.targets is None else "fixed_targets"), len(self.tokens[0]) - 1
        texts = self.tokens * repeat
        return token_losses(model, texts, [self.context], protocol, self.targets, region=region, **options)[0]

    def row(self, model: "GPT", **options) -> dict:
        """Perplexity of these texts with sums by document or trial, as experiments.lab.statistics compares them.

        Of chains also what context.with_optimum adds.
        """
        losses = self.losses(model, **options)
        row = by_document(asdict(summarise(losses)), self.owners)
        if self.language is None:
            return row
        return with_optimum([row], [losses], self.tokens, self.owners, self.language)[0]


def stretch_texts(corpus: "Corpus", split: str, length: int, count: int, context: int) -> Texts:
    """At most `count` stretches of held-out documents, of `length` targets each, read `context` tokens at a time."""
    segments = cut(corpus.split(split), length + 1, count)
    return Texts(segments.tokens, segments.owners, context, language=corpus.language)


def needle_texts(corpus: "Corpus", settings: "Retrieval", split: str, length: int, count: int, seed: int) -> Texts:
    """Make `count` retrieval trials of this length, each key as far from its question as the length allows.

    Raises:
        BadInput: the template does not fit the length.
    """
    task = Task(settings, corpus.encode, corpus.separator)
    if length < task.shortest:
        raise BadInput(f"fitness=needle takes texts of at least {task.shortest} tokens here, and these have {length}")
    trials = make_trials(task, corpus.split(split), length, task.farthest(length), count, seed)
    texts = [np.concatenate((trial.prompt, trial.key)) for trial in trials]
    return Texts(texts, list(range(count)), length, task.digits)


class Candidates(LongRoPE):
    """LongRoPE whose factors (P, K), fastest first, and n̂ (P,) are set from outside instead of by its settings.

    All rows of a batch read a single candidate; of several candidates, each is read by its own rows.
    """

    def set_candidates(self, candidates: Sequence[Individual], repeat: int, device: torch.device | str) -> None:
        """Set these candidates, each for `repeat` rows of a batch in turn."""
        factors = torch.tensor([one.factors for one in candidates], dtype=torch.float64, device=device) / STEPS
        n_hats = torch.tensor([one.n_hat for one in candidates], device=device)
        self.factors, self.n_hats = factors.repeat_interleave(repeat, 0), n_hats.repeat_interleave(repeat)[:, None]

    def positions(self, positions: Tensor) -> Tensor:
        """(T,) or (B, T) → (P, T) or (B, T): schemes then know that rows may differ."""
        return positions.expand(torch.broadcast_shapes(positions.shape, self.n_hats.shape))

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        return (frequencies / self.factors[:, ranks(frequencies)])[:, None]  # (P, 1, K)

    def phases(self, positions: Tensor, frequencies: Tensor) -> Tensor:
        first, plain = (positions < self.n_hats)[..., None], phases(positions, frequencies)
        return torch.where(first, plain, phases(positions, self.frequencies(frequencies, positions)))  # (P, T, K)


def install_candidates(model: "GPT") -> tuple[Candidates, list[float]]:
    """Make a model with extend=longrope read candidates instead; also returns its frequencies, fastest first.

    Raises:
        BadInput: parts of the model turn at different frequencies, so that one list of factors is not enough.
    """
    original = model.position.extension
    candidates, spectra = Candidates(original.knobs, original.window), []

    class Probe(LongRoPE):
        def phases(self, positions, frequencies):
            spectra.append(frequencies.detach().sort(descending=True).values.tolist())
            return super().phases(positions, frequencies)

    for extension in (Probe(original.knobs, original.window), candidates):
        for part in model.position.modules():
            if isinstance(getattr(part, "extension", None), LongRoPE):
                part.extension = extension
        if extension is not candidates:
            with torch.no_grad():
                model.position.prepare(torch.zeros(1, device=next(model.parameters()).device))
    if any(table != spectra[0] for table in spectra):
        raise BadInput(f"position={model.position.knobs.name} turns at different frequencies in different layers")
    return candidates, spectra[0]


class Fitness:
    """Scores candidates by perplexity on the same texts, as many in one forward pass as batch_tokens allows."""

    def __init__(
        self,
        model: "GPT",
        candidates: Candidates,
        texts: Texts,
        batch_tokens: int,
        device: dict,
        report: Callable[[list[float]], None] = lambda scores: None,
    ):
        """Score with this model, which reads `candidates`.

        Args:
            device: device and precision; report: called with the scores of every forward pass.
        """
        self.model, self.candidates, self.texts, self.device, self.report = model, candidates, texts, device, report
        self.batch_tokens = batch_tokens
        self.together = max(1, batch_tokens // (len(texts.tokens) * texts.context))

    def __call__(self, individuals: Sequence[Individual]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(individuals), self.together):
            batch = individuals[start : start + self.together]
            rows = len(self.texts.tokens) if len(batch) > 1 else 1  # a single one may be read in several passes
            self.candidates.set_candidates(batch, rows, self.device["device"])
            losses = self.texts.losses(self.model, len(batch), batch_tokens=self.batch_tokens, **self.device)
            nats = losses.nll.reshape(len(batch), -1).mean(axis=1, dtype=np.float64)
            scores += [math.exp(min(mean, 700.0)) for mean in nats]
            self.report(scores[start:])
        return scores


def known_factors(frequencies: Sequence[float], factor: float, window: int) -> dict[str, list[float]]:
    """λ of the pairs, fastest first, by PI, NTK and YaRN, which seed a search."""
    table, length = torch.tensor(frequencies, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    vectors = {"interpolate": [factor] * len(table)}
    for name in ("ntk", "yarn"):
        extension = EXTENSIONS[name](EXTENSIONS[name].Knobs(factor=factor), window)
        vectors[name] = (table / extension.frequencies(table, length)).tolist()
    return vectors


def make_space(frequencies: Sequence[float], factor: float, window: int, n_hats: Sequence[int] | None, critical: bool):
    """The search space of LongRoPE, λ from 1 to 1.25·s, or with `critical` of LongRoPE2, λ from s to 2s.

    Critical pairs are those from the first with at most ten turns in the window to the first with at most one.
    """
    decay = tuple(math.log(frequencies[0] / frequency) for frequency in frequencies)
    n_hats = tuple(n_hats) if n_hats else tuple(n for n in N_HATS if n <= window)
    if not critical:
        return Space(STEPS, round(STEPS * 1.25 * factor), n_hats, decay)
    turns, last = [frequency * window / (2 * math.pi) for frequency in frequencies], len(frequencies) - 1
    first, last_critical = (next((i for i, turn in enumerate(turns) if turn <= most), last) for most in (PERIODS, 1))
    pairs = tuple(i for i in range(first, last_critical + 1) if i == 0 or decay[i] > 0)
    return Space(round(STEPS * factor), round(STEPS * 2 * factor), n_hats, decay, pairs)
