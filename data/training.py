"""What a run trains on and what it is validated on: windows of text, some with keys hidden in them, or samples."""

import torch

from conf.base import BadInput
from data.corpus import Corpus
from data.retrieval import MixedWindows, mixed
from data.settings import Retrieval
from data.tasks import longest_document
from data.windows import Samples, Windows, fixed_windows, sample_rows


def training_windows(
    corpus: Corpus, window: int, batch: int, seed: int, retrieval: Retrieval, original_window: int
) -> Windows | MixedWindows | Samples:
    """The windows a model is trained on.

    Raises:
        BadInput: the corpus or a window is too short for them.
    """
    documents = corpus.split("train")
    if corpus.task is None:
        windows = Windows(documents.tokens, window, batch, seed)
        return mixed(windows, corpus, retrieval, window, seed, original_window)
    if window + 1 < (longest := longest_document(corpus.task, 0)):
        raise BadInput(f"data.task={corpus.task.task} has samples of {longest} tokens: window must be {longest - 1}")
    return Samples(documents, window, batch, seed, corpus.separator)


def validation_windows(corpus: Corpus, window: int, count: int) -> torch.Tensor:
    """The windows a run is validated on, at most `count`, (n, T + 1); the same every time."""
    documents = corpus.split("validation")
    if corpus.task is None:
        return fixed_windows(documents.tokens, window, count)
    return sample_rows(documents, range(min(count, len(documents))), window, corpus.separator)
