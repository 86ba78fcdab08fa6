"""Evaluation on long texts: perplexity protocols against a plain forward pass, and the memory of the bias schemes.

A plain forward pass computes the logits of every token at once, in inference mode and not compiled, like the protocols;
transformers' Llama does the same. Then every scheme with a bias reads one long text; a dense bias would take H·T·T
float32 numbers, which are never held at once.
"""

from collections.abc import Iterator
from dataclasses import asdict

from conf.schema import Config
from experiments.benchmark.peers import PEERS
from experiments.benchmark.timing import Run, peak_cell, ratio, spread_cell, timed_loop
from experiments.benchmark.workbench import Workbench
from experiments.lab.measure.protocols import measure
from experiments.lab.tables import format_rows
from experiments.schemes import hooks
from models.positions import SCHEMES

PLAIN, LLAMA = "plain forward", "transformers Llama"
PROTOCOLS = ("fixed_targets", "windows")  # the head on few targets, and on all; sliding is the latter, overlapping
TRAINED = 256  # assumed training window, and number of targets of fixed_targets


def run(bench: Workbench) -> Iterator[list[dict]]:
    """Rows of kind "speed", one per model, context, scheme and protocol, and of kind "bounded", one per scheme."""
    for model, context in bench.settings.read_at:
        yield _speed(bench, model, context)
    for model in dict.fromkeys(model for model, _ in bench.settings.read_at):
        yield _bounded(bench, model, bench.settings.bounded)


def _speed(bench: Workbench, model: str, context: int) -> list[dict]:
    builders, texts = {}, bench.sequences(context)
    for scheme in bench.settings.readers:
        config = bench.config(model, scheme, TRAINED)
        builders[scheme, PLAIN] = lambda config=config: plain(bench, config, context)
        for protocol in PROTOCOLS:
            builders[scheme, protocol] = lambda config=config, p=protocol: measured(bench, config, context, p, texts)
    builders[LLAMA, PLAIN] = lambda: llama(bench, bench.config(model, "rope", TRAINED), context)
    outcomes = bench.compare(f"evaluation {model} {context}", builders)
    rows = []
    for (scheme, protocol), outcome in outcomes.items():
        row = {"kind": "speed", "model": model, "context": context, "texts": texts, "scheme": scheme}
        row |= {"protocol": protocol} | asdict(outcome)
        if outcome.failure is None:
            row["tokens_per_second"] = asdict(outcome.rate(texts * context))
            config = bench.config(model, "rope", TRAINED)  # the same operations for every contestant
            row["mfu"] = asdict(bench.mfu(config, outcome, texts * context, context, reading=True))
            if outcomes[scheme, PLAIN].failure is None:
                row["speed_over_plain"] = asdict(ratio(outcomes[scheme, PLAIN], outcome))
        rows.append(row)
    return rows


def plain(bench: Workbench, config: Config, context: int) -> Run:
    gpt = bench.module(config).gpt
    return bench.forward_loop(gpt, gpt, bench.tokens(bench.sequences(context), context), before=0)


def llama(bench: Workbench, config: Config, context: int) -> Run:
    model, logits = PEERS[LLAMA](config.model, bench.vocabulary, context)
    tokens = bench.tokens(bench.sequences(context), context)
    return bench.forward_loop(model.to(bench.device), logits, tokens, before=0)


def measured(bench: Workbench, config: Config, context: int, protocol: str, texts: int) -> Run:
    """The protocol on `texts` texts of context + 1 tokens, all in one forward pass."""
    gpt, documents = bench.module(config).gpt, list(bench.tokens(texts, context + 1).cpu())
    precision = "bfloat16" if bench.device.type == "cuda" else "float32"
    options = {"batch_tokens": context * texts, "device": bench.device, "precision": precision}
    stride = min(TRAINED, context)
    return timed_loop(lambda: measure(gpt, documents, [context], protocol, stride, **options), bench.device)


def _bounded(bench: Workbench, model: str, context: int) -> list[dict]:
    """Peak bytes of reading one text by each bias scheme, once and untimed, beside the dense bias of that text."""
    configs = {
        scheme: bench.config(model, scheme, TRAINED)
        for scheme in bench.settings.schemes
        if "bias" in hooks(SCHEMES[scheme])
    }
    builders = {
        scheme: lambda config=config: measured(bench, config, context, "fixed_targets", 1)
        for scheme, config in configs.items()
    }
    outcomes = bench.compare(f"memory {model} {context}", builders, repeats=0)
    return [
        {"kind": "bounded", "model": model, "context": context, "scheme": scheme}
        | {"dense": configs[scheme].model.heads * context**2 * 4, "peak": outcome.peak, "failure": outcome.failure}
        for scheme, outcome in outcomes.items()
    ]


def table(rows: list[dict]) -> str:
    """Speeds, then memories."""
    shared = {"model": "{model}", "context": "{context}", "scheme": "{scheme}"}
    speed = {"protocol": "{protocol}", "tokens/s": "{tokens_per_second[median]:,.0f}", "MFU": "{mfu[median]:.2f}"}
    speed |= {"peak MB": peak_cell, "speed over plain forward": spread_cell("speed_over_plain")}
    memory = {"peak MB": lambda row: row["failure"] or peak_cell(row)}
    memory["dense bias MB"] = lambda row: f"{row['dense'] / 1e6:,.1f}"
    kinds = {"speed": shared | speed, "bounded": shared | memory}
    return "\n\n".join(
        format_rows([row for row in rows if row["kind"] == kind], columns) for kind, columns in kinds.items()
    )
