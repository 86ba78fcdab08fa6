"""What all tests share."""

import pytest

# Helpers whose assertions should explain themselves as those of test files do.
pytest.register_assert_rewrite("tests.laws")
