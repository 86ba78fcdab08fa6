"""What all tests share."""

import pytest

# Helpers whose assertions should explain themselves as those of test files do.
pytest.register_assert_rewrite("tests.lawbook", "tests.laws_behaviour", "tests.laws_tables")


@pytest.fixture
def one_thread():
    """Tiny tensors on one thread: handing them to a second one costs a hundred times the work on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
