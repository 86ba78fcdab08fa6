"""The result of a search in a table, and its ratio to the best rival."""

from experiments.lab import tables

SEARCHED = "found"
# Labels of readings: known methods, factors a model was fine-tuned with, and a file's factors without its short ones.
LABELS = {"interpolate": "PI", "ntk": "NTK", "yarn": "YaRN", "tuned": "as tuned", "again": "as tuned, then PI"}
LABELS |= {"long": "long alone", "ones": "all ones", "base": "base model", SEARCHED: "found"}


def best_rival(result: dict) -> str:
    """The name of the best rival on the text searched on."""
    return min(result["rivals"], key=lambda name: result["methods"][name]["search"]["perplexity"])


def overfit(result: dict) -> tuple[float, float, float]:
    """Perplexity of the found factors over the best rival's: on the text searched on, on held-out text, and the gap."""
    winner, rival = (result["methods"][name] for name in (SEARCHED, best_rival(result)))
    searched, held_out = (winner[part]["perplexity"] / rival[part]["perplexity"] for part in ("search", "held out"))
    return searched, held_out, held_out / searched - 1


def impossible(result: dict) -> list[str]:
    """A sentence for every method and text on which it beats the optimum of chains by more than chance."""
    from experiments.lab.measure.context import beats_the_optimum

    sentences = []
    for name, row in result["methods"].items():
        for part, text in row.items():
            if "excess" in text and (sentence := beats_the_optimum({text["context"]: text["excess"]})):
                sentences.append(f"{LABELS.get(name, name)}, {part}: {sentence}")
    return sentences


def format_table(result: dict) -> str:
    """Format the perplexities of every method, the ratios of the found factors to them, and the overfit gap."""
    from experiments.lab.measure.context import format_length
    from experiments.lab.statistics import Estimate, compare

    methods, held_out = result["methods"], result["methods"][SEARCHED]["held out"]
    columns = [name for name in methods[SEARCHED] if name not in ("label", "extend")]
    known = "optimum" in held_out  # of chains
    rows = []
    for name, row in methods.items():
        ratios = [compare([methods[SEARCHED][part]], [row[part]]).ratio for part in ("search", "held out")]
        cells = ["", ""] if name == SEARCHED else [f"{ratios[0].value:.3f}", ratios[1]]
        if known:
            length = Estimate.of(row["held out"]["effective_context"])
            cells.insert(0, format_length(length, row["held out"]["context"]))
        rows.append([name, *(f"{row[column]['perplexity']:.3f}" for column in columns), *cells])
    headings = ["method", *columns, *["effective context, held out"] * known]
    table = tables.format_table([*headings, "found / it: search", "found / it: held out"], rows)
    if known:
        best_reader = held_out["optimum"]["perplexity"]
        table += f"\nThe best reader has {best_reader:.3f} on the held-out text."
        table += "".join(f"\n{sentence}" for sentence in impossible(result))
    *first, last = (LABELS[name] for name in result["rivals"])
    inside, outside, gap = overfit(result)
    return (
        f"{table}\n"
        f"Of {', '.join(first)} and {last}, {LABELS[best_rival(result)]} is best on the text searched on; found is "
        f"{inside:.3f} of it there and {outside:.3f} on held-out text: an overfit gap of {100 * gap:.1f} %."
    )
