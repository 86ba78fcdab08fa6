"""Held-out documents cut into disjoint segments, so that a long document gives many targets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conf.base import BadInput

if TYPE_CHECKING:
    from data.corpus import Documents


@dataclass(frozen=True)
class Segments:
    """Disjoint stretches of documents: tokens, one (length,) array each, the document each is of, and where in it."""

    tokens: list[np.ndarray]
    owners: list[int]
    starts: list[int]


def cut(documents: "Documents", length: int, limit: int) -> Segments:
    """Cut documents into disjoint segments of `length` tokens, at most `limit`, spread evenly over the documents.

    Raises:
        BadInput: no document is that long.
    """
    places = [
        (i, start) for i in documents.at_least(length) for start in range(0, len(documents[i]) - length + 1, length)
    ]
    if not places:
        longest = max((len(documents[i]) for i in range(len(documents))), default=0)
        raise BadInput(f"contexts need documents of {length} tokens, and the longest held out has {longest}")
    spread = np.unique(np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int))
    chosen = [places[index] for index in spread]
    tokens = [np.asarray(documents[i][start : start + length]) for i, start in chosen]
    return Segments(tokens, [i for i, _ in chosen], [start for _, start in chosen])
