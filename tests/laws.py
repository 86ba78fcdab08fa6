"""The laws that every positional scheme obeys, as plain functions of a case that fail by AssertionError.

A scheme may name a law it cannot obey in its class attribute `exempt`, with the reason; that the law really fails
there is then tested in its place. Tests parametrise the laws over the schemes, and inject historical bugs to show
that the laws see them.
"""

import pytest

from tests import laws_behaviour, laws_tables  # noqa: F401 - enter their laws
from tests.lawbook import APPLIES, LAWS

__all__ = ["APPLIES", "LAWS", "MARKS"]

MARKS = {"compiles_whole": pytest.mark.slow}  # of a law's tests
