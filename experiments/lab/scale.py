"""The scales of experiments, as in conf/scale."""

from collections.abc import Sequence

from pydantic import Field

from conf.base import Count, Settings, Words
from conf.compose import compose_values
from conf.overrides import key_of, value_at


class Scale(Settings):
    """A scale: seeds for a verdict, stretches of held-out text for a measurement, overrides of every run.

    corpora: further overrides on another corpus than that of `train`, by its name in conf/data.
    tasks: on a task of data=tasks, by its name.
    """

    name: str
    seeds: Count
    segments: Count
    train: Words
    corpora: dict[str, Words] = Field(default_factory=dict)
    tasks: dict[str, Words] = Field(default_factory=dict)

    def on(self, corpus: str | None) -> list[str]:
        """The overrides that change the corpus of `train` to another one; None: it stays."""
        return [] if corpus is None else [f"data={corpus}", *self.corpora.get(corpus, ())]

    def on_task(self, words: Sequence[str], given: Sequence[str] = ()) -> list[str]:
        """The overrides for the task that one of `words` names, but of keys that `given` sets already."""
        task = next((word.partition("=")[2] for word in words if key_of(word) == "data.task"), None)
        keys = set(map(key_of, given))
        return [word for word in self.tasks.get(task or "", ()) if key_of(word) not in keys]

    def compatible_with(self, words: Sequence[str]) -> list[str]:
        """The overrides of `train` that apply together with `words`, which win; without keys that then do not exist."""
        given = set(map(key_of, words))
        overrides = [word for word in self.train if key_of(word) not in given]
        values = compose_values("config", [*(word for word in overrides if "." not in key_of(word)), *words])
        absent = object()
        return [word for word in overrides if value_at(values, key_of(word), absent) is not absent]
