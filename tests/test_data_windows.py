"""Windows of tokens: what a batch holds is a function of (seed, step), and an epoch meets every window once."""

import itertools
import json

import numpy as np
import pytest
import torch

from conf.base import BadInput
from data.windows import Batches, Windows, fixed_windows


def epoch_starts(windows, epoch):
    """The first tokens of every window of an epoch, where the tokens are 0, 1, 2, …"""
    batches = [windows.batch(epoch * windows.epoch_length + i) for i in range(windows.epoch_length)]
    return torch.cat(batches)[:, 0].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    one, same, other = (Windows(tokens, 16, 4, seed) for seed in (3, 3, 4))
    forward = [one.batch(step) for step in range(60)]
    assert all(torch.equal(same.batch(step), forward[step]) for step in reversed(range(60)))
    assert not torch.equal(other.batch(0), forward[0])
    assert forward[0].shape == (4, 17) and forward[0].dtype == torch.int64
    assert all(torch.equal(row, torch.arange(row[0], row[0] + 17)) for batch in forward for row in batch)


@pytest.mark.parametrize(
    ("length", "window"), [(1000, 16), (1001, 10), (33, 32), (60, 32), (64, 32), (65, 32), (66, 1)]
)
def test_every_window_comes_once_an_epoch_and_none_overlap(length, window):
    tokens = np.arange(length, dtype=np.uint16)
    windows = Windows(tokens, window, 1, seed=5)
    offsets, orders = set(), set()
    for epoch in range(30):
        starts = epoch_starts(windows, epoch)
        offset = min(starts)
        assert sorted(starts) == [offset + i * window for i in range(windows.epoch_length)]
        assert 0 <= offset < window and max(starts) + window + 1 <= length
        assert length - 1 - windows.epoch_length * window < 2 * window
        offsets.add(offset)
        orders.add(tuple(s - offset for s in starts))
    if length >= 2 * window and window > 1:
        assert len(offsets) > 1
    if windows.epoch_length > 4:
        assert len(orders) == 30


def test_batches_that_do_not_divide_an_epoch_run_on_into_the_next():
    tokens = np.arange(1000, dtype=np.uint16)
    single, sevens = Windows(tokens, 16, 1, seed=1), Windows(tokens, 16, 7, seed=1)
    assert sevens.epoch_length % 7
    counted = torch.cat([single.batch(step) for step in range(7 * 40)])
    assert torch.equal(torch.cat([sevens.batch(step) for step in range(40)]), counted)
    large = Windows(tokens, 16, 200, seed=1)
    assert torch.equal(large.batch(0), counted[:200])


def test_ranks_share_out_the_batch_of_one_process():
    windows = Windows(np.arange(1000, dtype=np.uint16), 16, 8, seed=1)
    for step in (0, 7, 40):
        for ranks in (2, 4, 8):
            parts = [windows.batch(step, rank, ranks) for rank in range(ranks)]
            assert torch.equal(torch.cat(parts), windows.batch(step))
    with pytest.raises(BadInput, match="A batch of 8 windows cannot be shared equally by 3 processes"):
        windows.batch(0, 0, 3)


def test_a_split_shorter_than_a_window_is_a_sentence():
    for length in (1, 32):
        with pytest.raises(BadInput, match=f"A window of 32 tokens needs 33, and the split has only {length}"):
            Windows(np.zeros(length, dtype=np.uint16), 32, 1, 0)
        with pytest.raises(BadInput, match="A window of 32 tokens"):
            fixed_windows(np.zeros(length, dtype=np.uint16), 32, 1)


def test_fixed_windows_come_from_every_part_of_a_split_and_never_overlap():
    tokens = np.arange(1000, dtype=np.uint16)
    windows = fixed_windows(tokens, 32, 10)
    assert windows.shape == (10, 33) and windows.dtype == torch.int64
    assert torch.equal(windows, fixed_windows(tokens, 32, 10))
    gaps = windows[1:, 0] - windows[:-1, 0]
    assert min(gaps) >= 32 and all(gaps % 32 == 0) and len(set(gaps.tolist())) > 2
    places = windows[:, 0] // 32
    assert all(i * 31 // 10 <= place < (i + 1) * 31 // 10 for i, place in enumerate(places.tolist()))
    assert len(fixed_windows(tokens, 32, 1000)) == 31
    assert torch.equal(fixed_windows(tokens, 32, 1000)[-1], torch.arange(30 * 32, 31 * 32 + 1))


def test_fixed_windows_do_not_all_begin_at_one_place_of_documents_of_one_length():
    tokens = np.tile(np.append(np.ones(8192, dtype=np.uint16), 0), 64)  # 64 documents with a separator each
    assert (fixed_windows(tokens, 256, 64) == 0).any(dim=1).sum() < 8  # 2 are to be expected


def test_batches_resume_from_one_number():
    windows = Windows(np.arange(1000, dtype=np.uint16), 16, 4, seed=1)
    whole = list(Batches(windows, 50))
    assert len(whole) == len(Batches(windows, 50)) == 50
    first = Batches(windows, 50)
    seen = list(itertools.islice(first, 20))
    state = json.loads(json.dumps(first.state_dict()))
    assert state == {"position": 20}
    second = Batches(Windows(np.arange(1000, dtype=np.uint16), 16, 4, seed=1), 50)
    second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(whole, seen + list(second), strict=True))
    assert torch.equal(next(iter(Batches(windows, 50, 1, 2))), whole[0][2:])


def test_batches_for_a_gpu_are_pinned_and_the_same(monkeypatch):
    options = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: options.append(self) or self)
    windows = Windows(np.arange(1000, dtype=np.uint16), 16, 4, seed=1)
    usual = list(Batches(windows, 3))
    assert not options
    pinned = list(Batches(windows, 3, pinned=True))
    assert len(options) == 3 and all(map(torch.equal, pinned, usual))
