"""The sizes at which questions are asked, as in conf/scale."""

from collections.abc import Sequence

from conf.base import Count, Settings, Words
from conf.compose import compose_values


class Scale(Settings):
    """A size: how many seeds a verdict takes, stretches of held-out text a reading takes, overrides of every run.

    text: further overrides where a question needs text, and `train` has a corpus without.
    """

    name: str
    seeds: Count
    segments: Count
    train: Words
    text: Words = ()

    def beside(self, words: Sequence[str]) -> list[str]:
        """The overrides of every run that still hold beside other ones, which win: a language has no tokenizer."""
        given = set(map(key_of, words))
        own = [word for word in self.train if key_of(word) not in given]
        values = compose_values("config", [*(word for word in own if "." not in key_of(word)), *words])
        return [word for word in own if _known(values, key_of(word))]


def key_of(override: str) -> str:
    """The key of an override: "+data.name=books" → data.name."""
    return override.lstrip("+~").partition("=")[0]


def _known(values: dict, key: str) -> bool:
    """Whether nested values have something at a dotted key."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
