"""Every scheme of conf/position is held to every law; what a law says is in tests/laws.py."""

import pytest

from conf.base import BadInput
from models.positions import SCHEMES
from tests.cases import discover
from tests.laws import APPLIES, LAWS, MARKS

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = discover()


@pytest.mark.parametrize(
    ("case", "law"),
    [
        pytest.param(case, law, id=f"{case}-{law}", marks=MARKS.get(law, ()))
        for case in CASES
        for law in LAWS
        if APPLIES[law](case)
    ],
)
def test_scheme_obeys_law(case, law):
    """A law a scheme is exempt from must fail on it, so that no exemption outlives its reason."""
    if law not in case.kind.exempt:
        LAWS[law](case)
    else:
        with pytest.raises((AssertionError, BadInput)):
            LAWS[law](case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exemptions_name_laws_and_give_a_reason(case):
    for law, reason in case.kind.exempt.items():
        assert law in LAWS
        assert len(reason.split()) > 3, "an exemption is a sentence"


def test_every_scheme_has_one_settings_file_and_every_file_a_scheme():
    assert {case.name for case in CASES} == set(SCHEMES)
