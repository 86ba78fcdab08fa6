"""How much of its context a model uses, from losses on the same targets with growing context.

On any corpus: the paired gain of each longer context over the next shorter one, and the gate, the gain of the last
doubling inside the window. On data=chains, where the best reader is known (optimum.py), also the effective context:
how far back the best reader has to look for the loss of the model.

Letters in shape comments: D documents, N draws, G lengths of context.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.settings import Chains
from experiments.lab.canvas import COLOURS, log_ticks, pyplot, write_figure
from experiments.lab.measure.optimum import optimum
from experiments.lab.statistics import Estimate, bootstrap, compare, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.lab.measure.protocols import TokenLosses

ALLOWED = 5  # standard errors by which a model may beat the optimum by chance
JUDGED = 8  # documents at least, for an error of fewer is known too badly: Student's t passes 5 once in a thousand


def gains(rows: Sequence[dict]) -> list[dict]:
    """The gain of each context over the next shorter one on the same targets, nats per token with an interval.

    Args:
        rows: one per context, with document_nll and document_tokens over the same documents.

    Returns:
        [{"from", "to": contexts, "value", "low", "high"}], above zero where the longer one is better.
    """
    ordered = sorted(rows, key=lambda row: row["context"])
    return [
        {"from": short["context"], "to": long["context"], **_gain(short, long).plain()}
        for short, long in pairwise(ordered)
    ]


def _gain(short: dict, long: dict) -> Estimate:
    return mean(np.subtract(short["document_nll"], long["document_nll"]), short["document_tokens"])


def gate(models: Sequence[Sequence[dict]], window: int) -> dict | None:
    """Whether models use their window: the last doubling inside it gains, the paired interval above zero.

    Args:
        models: for each seed the rows of the protocol fixed_targets, one per context, of the same targets.
        window: tokens that the models were trained on.

    Returns:
        {"from", "to", "value", "low", "high", "passed"}, the gain in nats per token over seeds and documents; None
        where the window or its half was not measured. A single document tells nothing of others: it has no interval
        here, however many seeds read it, and passes nothing.
    """
    half = max(1, window // 2)
    at = {length: [row for rows in models for row in rows if row["context"] == length] for length in (half, window)}
    if not all(at.values()):
        return None
    compared = compare(at[half], at[window])
    gain = compared.difference if compared.documents > 1 else Estimate(compared.difference.value, -np.inf, np.inf)
    return {"from": half, "to": window, **gain.plain(), "passed": gain.low > 0}


def gate_sentence(result: dict | None, window: int) -> str:
    """The gate in a sentence."""
    if result is None:
        return (
            f"Whether the model uses its window of {window} tokens was not measured: name {window // 2} and {window}."
        )
    return f"Read so, the model {gate_verdict(result)}."


def gate_verdict(result: dict) -> str:
    """What the gate says of a model, a predicate."""
    verdict = "uses all" if result["passed"] else "shows no use of the second half of"
    gain = Estimate.of(result)
    alone = "" if gain.known else ", in a single document, which has no interval"
    return f"{verdict} {result['to']} tokens: from {result['from']} on it gains {gain} nats a token{alone}"


def lengths(context: int) -> list[int]:
    """Lengths of context at which the optimum is computed: 1, √2, 2, … rounded, and the context itself."""
    halves = np.arange(2 * np.log2(context) + 1) / 2
    return sorted({*np.round(2**halves).astype(int).tolist(), context} - {0})


def with_optimum(
    rows: Sequence[dict], losses: "Sequence[TokenLosses]", documents: Sequence, owners: Sequence[int], language: Chains
) -> list[dict]:
    """Add the losses of the best reader on the same targets and contexts to rows of a reading on chains.

    Args:
        rows: one per context, by document; losses: those they sum; documents: what was read; owners: the document in
            `rows` that each of these is of.

    Returns:
        Rows with "optimum": {"nll", "perplexity", "document_nll"}, "effective_context": {"value", "low", "high"} and
        "excess": {"value", "standard_error"}, nats per token over the optimum.
    """
    result = []
    for row, read in zip(rows, losses, strict=True):
        place = {document: i for i, document in enumerate(row["documents"])}
        of = np.array([place[owners[i]] for i in read.documents])
        curve = np.zeros((len(lengths(row["context"])), len(place)))  # (G, D)
        for sums, limit in zip(curve, lengths(row["context"]), strict=True):
            np.add.at(sums, of, optimum(language, documents, read, limit).sum(axis=1))
        best, tokens = curve[-1], np.asarray(row["document_tokens"], dtype=np.float64)
        nll = float(best.sum())
        result.append(
            {
                **row,
                "optimum": {
                    "nll": nll,
                    "perplexity": float(np.exp(nll / row["tokens"])),
                    "document_nll": best.tolist(),
                },
                "effective_context": effective_context(row["document_nll"], tokens, curve, row["context"]).plain(),
                "excess": excess(np.asarray(row["document_nll"]) - best, tokens),
            }
        )
    return result


def effective_context(
    nll: Sequence[float] | np.ndarray, tokens: Sequence[float] | np.ndarray, curve: np.ndarray, context: int
) -> Estimate:
    """The context with which the best reader has the loss of a model, in tokens, with an interval over documents.

    The optimum falls with its length of context, here made monotone and interpolated in the length's logarithm. It is
    1 where the model is no better than without context, and `context` where it is as good as the optimum: then, as
    the targets saw no more, it may be beyond.

    Args:
        nll, tokens: sums by document, (D,).
        curve: the optimum at `lengths(context)`, sums by document, (G, D).
    """
    places = np.log(lengths(context))

    def crossing(nll, tokens, *curve):
        total = tokens.sum(-1)
        loss = nll.sum(-1) / total  # (…)
        best = np.minimum.accumulate(np.stack([sums.sum(-1) / total for sums in curve], axis=-1), axis=-1)  # (…, G)
        worse = (best > loss[..., None]).sum(-1)  # how many lengths are too short
        right = np.clip(worse, 1, len(places) - 1)
        ends = [np.take_along_axis(best, at[..., None], -1)[..., 0] for at in (right - 1, right)]
        share = (ends[0] - loss) / np.maximum(ends[0] - ends[1], 1e-300)
        inside = places[right - 1] + share * (places[right] - places[right - 1])
        inside = np.where(worse == 0, places[0], np.where(worse == len(places), places[-1], inside))
        return np.exp(inside)

    return bootstrap(crossing, (nll, tokens, *curve))


def excess(nats: np.ndarray, tokens: np.ndarray) -> dict:
    """The mean of nats per token, a ratio of sums over documents (D,), and its standard error, None of few of them."""
    value = nats.sum() / tokens.sum()
    spread = np.sum((nats - value * tokens) ** 2) * len(nats) / max(1, len(nats) - 1)
    error = float(spread**0.5 / tokens.sum()) if len(nats) >= JUDGED else None
    return {"value": float(value), "standard_error": error}


def beats_the_optimum(excesses: dict[int, dict]) -> str | None:
    """A sentence where a model beats the optimum by more than chance, which none can; else None.

    Args:
        excesses: results of `excess` by tokens of context.
    """
    for length, excess_at in excesses.items():
        value, error = excess_at["value"], excess_at["standard_error"]
        if error is not None and value < -(ALLOWED * error + 1e-6):  # losses are float32
            return (
                f"At a context of {length} the loss is {-value:.4f} nats a token below the optimum, which is "
                f"{-value / max(error, 1e-12):.0f} standard errors: no reader can do that, so something is wrong with "
                "the corpus, the targets or the model's mask."
            )
    return None


def format_length(length: Estimate, context: int) -> str:
    """An effective context with its interval in a table; ≥ where it may be beyond what was read."""
    most = context * (1 - 1e-9) if context > 1 else np.inf  # after one token it is 1, whatever the loss
    value, low, high = (f"≥{tokens:.0f}" if tokens >= most else f"{tokens:.0f}" for tokens in vars(length).values())
    return f"{value} [{low}, {high}]" if length.known else value


def figure(curves: dict[str, Sequence[dict]], window: int, title: str, path: Path) -> None:
    """Effective against given context, both axes logarithmic; writes path.png and path.svg.

    Args:
        curves: rows of `with_optimum` for each label.
        window: tokens that the models were trained on.
    """
    drawn, axes = pyplot().subplots(figsize=(6, 5), layout="constrained")
    draw_effective(axes, curves, window)
    axes.set_title(title, fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    write_figure(drawn, path)


def draw_effective(axes: "Axes", curves: dict[str, Sequence[dict]], window: int) -> None:
    """Draw the curves of `figure` into axes; the best reader is the diagonal."""
    contexts = sorted({row["context"] for rows in curves.values() for row in rows})
    axes.plot(contexts, contexts, color="black", linewidth=0.8, label="the best reader")
    axes.axvline(window, color="black", linewidth=0.8, linestyle=":", label="trained window")
    for colour, (label, rows) in zip(COLOURS * len(curves), curves.items(), strict=False):
        given = [row["context"] for row in rows]
        value, low, high = (
            np.array([row["effective_context"][key] for row in rows], dtype=float) for key in ("value", "low", "high")
        )
        axes.plot(given, value, marker="o", markersize=3, color=colour, label=label)
        axes.fill_between(given, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="tokens read", ylabel="effective context, tokens")
    effective_ticks(axes, contexts, min(row["effective_context"]["value"] for rows in curves.values() for row in rows))
    axes.grid(alpha=0.3)


def effective_ticks(axes: "Axes", contexts: Sequence[int], least: float) -> None:
    """Logarithmic axes with ticks at these contexts, and on the y axis at halves of the first down to the least."""
    log_ticks(axes, contexts)
    ticks = [float(context) for context in contexts]
    while ticks[0] > max(1.0, least):
        ticks.insert(0, ticks[0] / 2)
    axes.set_yscale("log")
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
