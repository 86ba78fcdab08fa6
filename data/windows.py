"""Windows of tokens as a pure function of (seed, step), so that resuming needs one number.

Letters: N tokens in the split, T the window, B the batch. A window is T + 1 tokens: T inputs and the T targets one
token further on. Neighbouring windows share that one token, so that every token is a target once. Where documents are
samples of a task, every row is one of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from conf.base import BadInput
from data.corpus import Documents


class Windows:
    """Batches of windows: within an epoch no window comes twice, and two windows never overlap.

    Each epoch shifts the boundaries by a random offset below T and visits its windows in a random order, both drawn
    from (seed, epoch). Windows are counted on across the end of an epoch, so that every batch is full and the epoch
    loses none; up to 2T - 1 tokens at the ends of the split sit out an epoch, other ones in the next.
    """

    def __init__(self, tokens: np.ndarray, window: int, batch: int, seed: int):
        self._tokens = tokens
        self._window = window
        self._batch = batch
        self._seed = seed
        _available(tokens, window)
        # Windows in an epoch: whatever the offset, this many fit.
        self.epoch_length: int = max(1, (len(tokens) - window) // window)
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        """The (B / ranks, T + 1) tokens of one step; the batches of all ranks, stacked in order, are that of one."""
        indices = _share(self._batch, step, rank, ranks)
        rows = np.empty((len(indices), self._window + 1), dtype=np.int64)
        for row, index in zip(rows, indices, strict=True):
            epoch, place = divmod(index, self.epoch_length)
            start = self._starts(epoch)[place]
            row[:] = self._tokens[start : start + self._window + 1]
        return torch.from_numpy(rows)

    def _starts(self, epoch: int) -> np.ndarray:
        """The starts of an epoch's windows in the order of their visits, (epoch_length,)."""
        if epoch not in self._epochs:
            random = np.random.default_rng([self._seed, epoch])
            spare = len(self._tokens) - 1 - self.epoch_length * self._window
            offset = random.integers(0, min(spare, self._window - 1), endpoint=True)
            # A batch may straddle two epochs, and none straddles more unless it is larger than an epoch.
            self._epochs = {e: starts for e, starts in self._epochs.items() if abs(e - epoch) == 1}
            self._epochs[epoch] = offset + self._window * random.permutation(self.epoch_length)
        return self._epochs[epoch]


class Samples:
    """Batches of whole documents, one in a row: an epoch has each once, in an order drawn from (seed, epoch)."""

    def __init__(self, documents: Documents, window: int, batch: int, seed: int, separator: int):
        """Batches of documents of at most T + 1 tokens; shorter ones are filled up with the separator."""
        self._documents, self._window, self._batch, self._seed = documents, window, batch, seed
        self._separator = separator
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        """The (B / ranks, T + 1) tokens of one step, as of Windows."""
        places = [divmod(index, len(self._documents)) for index in _share(self._batch, step, rank, ranks)]
        documents = [int(self._order(epoch)[place]) for epoch, place in places]
        return sample_rows(self._documents, documents, self._window, self._separator)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = np.random.default_rng([self._seed, epoch]).permutation(len(self._documents))
        return self._orders[epoch]


def sample_rows(documents: Documents, numbers: Sequence[int], window: int, separator: int) -> torch.Tensor:
    """Some documents as rows, (n, T + 1), filled up with the separator.

    Raises:
        BadInput: one is longer.
    """
    rows = np.full((len(numbers), window + 1), separator, dtype=np.int64)
    for row, number in zip(rows, numbers, strict=True):
        document = documents[number]
        if len(document) > window + 1:
            raise BadInput(f"window={window} is too short for a sample of {len(document)} tokens: one less is read")
        row[: len(document)] = document
    return torch.from_numpy(rows)


def _share(batch: int, step: int, rank: int, ranks: int) -> range:
    """The numbers of the rows of one step that a process reads, counted over all steps."""
    if batch % ranks:
        raise BadInput(f"A batch of {batch} windows cannot be shared equally by {ranks} processes.")
    share = batch // ranks
    return range(step * batch + rank * share, step * batch + (rank + 1) * share)


def fixed_windows(tokens: np.ndarray, window: int, count: int) -> torch.Tensor:
    """At most `count` windows of a split, one from each of as many stretches, (n, T + 1); the same every time.

    They never overlap. Which of its stretch each is was drawn: at equal distances all would begin at one place of their
    documents, where these are of one length.
    """
    available = _available(tokens, window)
    stretches = np.arange(min(count, available) + 1) * available // min(count, available)
    starts = np.random.default_rng(0).integers(stretches[:-1], stretches[1:]) * window
    return torch.from_numpy(np.stack([tokens[s : s + window + 1] for s in starts]).astype(np.int64))


def _available(tokens: np.ndarray, window: int) -> int:
    """The number of windows that fit side by side; BadInput if none does."""
    if len(tokens) < window + 1:
        raise BadInput(f"A window of {window} tokens needs {window + 1}, and the split has only {len(tokens)}.")
    return (len(tokens) - 1) // window


class Batches:
    """The batches of steps 0 … steps - 1 for one rank, as a loader whose whole state is the next step.

    It has a length so that Lightning does not fetch a batch ahead, which would count a batch that was never used.
    Iterating goes on from the current position; it does not start again.
    """

    def __init__(self, windows: Windows, steps: int, rank: int = 0, ranks: int = 1, pinned: bool = False):
        """Batches of `windows`; pinned, for a GPU, lie where the copy to it needs nobody to wait."""
        self.windows = windows
        self.steps = steps
        self.rank = rank
        self.ranks = ranks
        self.pinned = pinned
        self.position = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.position < self.steps:
            batch = self.windows.batch(self.position, self.rank, self.ranks)
            self.position += 1
            yield batch.pin_memory() if self.pinned else batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]):
        self.position = state["position"]
