"""Published shares of exact answers, to set ours beside: Huang et al. 2024 (arXiv 2410.02140).

Means over the runs that the authors report, as their public repository (lacoco-lab/length_generalization) has them:
five that reached 100 % in the range of training, or five of the largest model where none did. The sizes are those with
which absolute positions, or none, first did so: layers, heads, width.
"""

from dataclasses import dataclass

ABSOLUTE, NONE = "learned+offset", "none"
LENGTHS = (50, 100, 150)  # the longest questions of training and of the ranges beyond it


@dataclass(frozen=True)
class Published:
    """The model and its exact answers to questions of up to 50, of 51 to 100 and of 101 to 150 tokens."""

    model: str
    exact: tuple[float, float, float]


PUBLISHED: dict[str, dict[str, Published]] = {
    "bin_majority": {
        ABSOLUTE: Published("1 layer, 1 head, 16", (1.0, 0.9999, 0.9996)),
        NONE: Published("1 layer, 1 head, 16", (1.0, 1.0, 1.0)),
    },
    "majority": {
        ABSOLUTE: Published("1 layer, 2 heads, 256", (1.0, 0.9962, 0.9781)),
        NONE: Published("1 layer, 1 head, 64", (1.0, 0.9986, 0.9846)),
    },
    "interleaved_majority": {
        ABSOLUTE: Published("2 layers, 4 heads, 256", (1.0, 0.9675, 0.8470)),
        NONE: Published("12 layers, 12 heads, 768", (0.9616, 0.6881, 0.3947)),
    },
    "sort": {
        ABSOLUTE: Published("1 layer, 2 heads, 256", (1.0, 0.9996, 0.9937)),
        NONE: Published("1 layer, 1 head, 256", (1.0, 0.9981, 0.8060)),
    },
    "unique_copy": {
        ABSOLUTE: Published("2 layers, 1 head, 64", (1.0, 0.9986, 0.9874)),
        NONE: Published("4 layers, 4 heads, 256", (1.0, 0.1800, 0.0)),
    },
    "repeat_copy": {
        ABSOLUTE: Published("4 layers, 4 heads, 256", (1.0, 0.2555, 0.0)),
        NONE: Published("4 layers, 4 heads, 256", (1.0, 0.2801, 0.0)),
    },
    "parity": {
        ABSOLUTE: Published("4 layers, 2 heads, 256", (1.0, 0.8295, 0.6206)),
        NONE: Published("12 layers, 12 heads, 768", (0.9752, 0.7450, 0.6330)),
    },
    "addition": {
        ABSOLUTE: Published("12 layers, 12 heads, 768", (0.9974, 0.2678, 0.0)),
        NONE: Published("12 layers, 12 heads, 768", (0.9950, 0.2769, 0.0)),
    },
}


def published_share(task: str, scheme: str, place: int, high: int) -> float | None:
    """The published share of a task and scheme in a range, its place and longest question; None if there is none."""
    published = PUBLISHED.get(task, {}).get(scheme)
    return published.exact[place] if published and LENGTHS[place : place + 1] == (high,) else None
