"""A folder of tokens is what was written, or is refused in one sentence: torn, foreign, or made to mislead."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from conf.base import BadInput
from data.corpus import open_corpus, prepare
from data.integrity import digest_of, fingerprint, sha256
from data.settings import DataSettings
from data.token_files import SplitWriter
from tests.test_data_tokenizers import files, write


@pytest.fixture
def folder(tmp_path):
    """Tokens of a small BPE, 300 in the vocabulary."""
    texts = [f"the cat number {i} sat on mat number {i * i}" for i in range(60)]
    settings = files(train=write(tmp_path, "train", texts), tokenizer={"kind": "bpe", "vocabulary": 300})
    return prepare(settings, tmp_path / "cache", progress=False).folder


def change_meta(folder, change):
    """Rewrite meta.json as `change` leaves it."""
    path = folder / "meta.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def forget_digests(folder):
    """Make the folder one of an older version, which has a fingerprint only."""
    change_meta(folder, lambda meta: [meta.pop(key) for key in ("files", "digest", "tokenizer_fingerprint")])


def forge(folder):
    """Make digests and sizes those of the files as they are now, as in what a stranger has made."""

    def change(meta):
        for split, counts in meta["splits"].items():
            counts["tokens"] = (folder / f"{split}.tokens").stat().st_size // 2
            counts["documents"] = (folder / f"{split}.offsets").stat().st_size // 8 - 1
        meta["fingerprint"] = fingerprint(folder, (folder / "tokenizer.json").read_text())
        meta["files"] = {name: sha256(folder / name) for name in meta["files"]}
        meta["digest"] = digest_of(meta)

    change_meta(folder, change)


def refused(folder, match):
    """The sentence with which a folder is refused, named directly or through data=prepared."""
    with pytest.raises(BadInput, match=match) as caught:
        open_corpus(folder)
    assert "\n" not in str(caught.value)
    settings = {"source": "prepared", "name": "copy", "folder": str(folder)}
    with pytest.raises(BadInput, match=match):
        prepare(TypeAdapter(DataSettings).validate_python(settings), folder)


def replace_bytes(path, start, new):
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(new)


def swap_bytes(path, dtype):
    np.fromfile(path, dtype).byteswap().tofile(path)


DAMAGE = {
    "a flipped bit": lambda folder: replace_bytes(folder / "train.tokens", 100, b"\x01"),
    "random tokens": lambda folder: (
        np.random.default_rng(0)
        .integers(0, 300, (folder / "train.tokens").stat().st_size // 2)
        .astype("<u2")
        .tofile(folder / "train.tokens")
    ),
    "the other endianness": lambda folder: swap_bytes(folder / "test.tokens", "<u2"),
    "offsets of the other endianness": lambda folder: swap_bytes(folder / "test.offsets", "<i8"),
    "a negative offset": lambda folder: replace_bytes(folder / "train.offsets", 8, b"\xff" * 8),
    "a huge offset": lambda folder: replace_bytes(folder / "train.offsets", 8, b"\xff" * 7 + b"\x7f"),
    "another tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "a tokenizer that is no text": lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("older", [False, True], ids=["with digests", "older"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_what_was_written_is_refused(folder, damage, older):
    assert open_corpus(folder)
    DAMAGE[damage](folder)
    if older:
        forget_digests(folder)
    refused(folder, "(is not what was|are not those that were) written; delete")


def test_a_file_put_back_with_its_times_is_looked_at_again(folder):
    path = folder / "train.tokens"
    assert open_corpus(folder)
    before = path.stat()
    replace_bytes(path, 100, b"\x01")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(folder, "is not what was written")


FORGERIES = {
    "an id outside the vocabulary": (
        lambda folder: replace_bytes(folder / "train.tokens", 100, b"\xff\xff"),
        "holds token 65535, and the vocabulary has 300",
    ),
    "a negative offset": (DAMAGE["a negative offset"], "offsets are not where the documents of train.tokens begin"),
    "a huge offset": (DAMAGE["a huge offset"], "offsets are not where the documents of train.tokens begin"),
    "another end": (
        lambda folder: replace_bytes(folder / "train.tokens", (folder / "train.tokens").stat().st_size, b"\0\0"),
        "offsets are not where",
    ),
    "documents without their separator": (
        lambda folder: replace_bytes(folder / "validation.tokens", 0, b"\x20\x00"),
        "offsets are not where",
    ),
    "no documents and tokens": (lambda folder: (folder / "test.offsets").write_bytes(bytes(8)), "offsets are not"),
    "lengths that are no numbers": (
        lambda folder: np.save(folder / "bytes_per_token.npy", np.full(300, np.nan)),
        "does not hold the length of every token",
    ),
    "too few lengths": (lambda folder: np.save(folder / "bytes_per_token.npy", np.ones(299)), "does not hold"),
    "lengths as objects": (
        lambda folder: np.save(folder / "bytes_per_token.npy", np.array([None] * 300), allow_pickle=True),
        "does not hold",
    ),
    "a broken header": (lambda folder: replace_bytes(folder / "bytes_per_token.npy", 10, b"{{{{(((("), "does not hold"),
    "an empty array file": (lambda folder: (folder / "bytes_per_token.npy").write_bytes(b""), "does not hold"),
    "a header that promises more": (
        lambda folder: (folder / "bytes_per_token.npy").write_bytes(
            (folder / "bytes_per_token.npy").read_bytes().replace(b"(300,)", b"(3e9,)")
        ),
        "does not hold",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_cannot_be_is_refused_though_digests_agree(folder, forgery):
    change, sentence = FORGERIES[forgery]
    change(folder)
    forge(folder)
    refused(folder, sentence)


def test_lengths_are_looked_at_in_older_folders_too(folder):
    forget_digests(folder)
    np.save(folder / "bytes_per_token.npy", np.full(300, np.nan))
    refused(folder, "does not hold the length of every token in bytes")


META = {
    "no vocabulary": (lambda meta: meta.pop("vocabulary"), "vocabulary"),
    "no splits": (lambda meta: meta.pop("splits"), "splits"),
    "no test split": (lambda meta: meta["splits"].pop("test"), "is not what was written"),
    "no count of tokens": (lambda meta: meta["splits"]["train"].pop("tokens"), "splits.train.tokens"),
    "no kind": (lambda meta: meta["tokenizer"].pop("kind"), "is not what was written"),
    "a separator outside": (lambda meta: meta.update(separator=300), "is not what was written"),
    "a vocabulary of words": (lambda meta: meta.update(vocabulary="300"), "vocabulary"),
    "a vocabulary below zero": (lambda meta: meta.update(vocabulary=-1), "vocabulary"),
    "a huge vocabulary": (lambda meta: meta.update(vocabulary=10**18), "vocabulary"),
    "a larger vocabulary": (lambda meta: meta.update(vocabulary=70_000), "is missing or cut short"),
    "another fingerprint": (lambda meta: meta.update(fingerprint="0" * 64), "are not those that were written"),
    "more documents": (lambda meta: meta["splits"]["train"].update(documents=2**60), "is missing or cut short"),
    "another format": (lambda meta: meta.update(format=7), "was prepared in format 7"),
    "no format": (lambda meta: meta.pop("format"), "is torn or no JSON of prepared tokens"),
}


@pytest.mark.parametrize("older", [False, True], ids=["with digests", "older"])
@pytest.mark.parametrize("damage", META)
def test_a_meta_json_that_lacks_something_is_refused(folder, damage, older):
    change, sentence = META[damage]
    if older:
        forget_digests(folder)
    change_meta(folder, change)
    if not older and sentence.startswith(("is missing", "are not")):
        sentence = "is not what was written"
    refused(folder, sentence)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_a_torn_meta_json_is_refused(folder, text):
    (folder / "meta.json").write_bytes(text)
    refused(folder, "meta.json")


def test_any_change_of_meta_json_is_seen(folder):
    change_meta(folder, lambda meta: meta["splits"]["test"].update(bytes=1))
    refused(folder, "meta.json' is not what was written")


def test_missing_files_and_folders_are_a_sentence(tmp_path, folder):
    refused(tmp_path / "nowhere", "is not a folder of prepared tokens")
    refused(tmp_path, "is not a folder of prepared tokens")
    refused(folder / "train.tokens", "is not a folder of prepared tokens")
    for name in ("train.offsets", "tokenizer.json", "bytes_per_token.npy", "test.tokens"):
        (folder / name).rename(folder / "aside")
        refused(folder, f"{name}' is missing or cut short")
        (folder / "aside").rename(folder / name)
    (folder / "train.tokens").rename(folder / "aside")
    (folder / "train.tokens").symlink_to(folder / "gone")
    refused(folder, "train.tokens' is missing or cut short")


def test_a_cut_file_is_a_sentence(folder):
    with pytest.raises(BadInput, match="there are train, validation, test"):
        open_corpus(folder).split("valid")
    os.truncate(folder / "train.tokens", 100)
    refused(folder, "is missing or cut short")


def test_a_read_error_is_not_called_damage(folder, monkeypatch):
    def fails(path, mode="r", *arguments, **options):
        raise OSError(5, "Input/output error", str(path))

    os.utime(folder / "train.tokens")  # so that it is read again
    monkeypatch.setattr("data.integrity.open", fails, raising=False)
    with pytest.raises(BadInput, match=r"cannot be read \(Input/output error\)") as caught:
        open_corpus(folder)
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("cache", ["file/below", "file", "/dev/null/x"])
def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path, cache):
    (tmp_path / "file").write_text("")
    settings = files(train=write(tmp_path, "train", [f"text {i}" for i in range(60)]))
    with pytest.raises(BadInput, match=r"cannot be kept in cache=.*(Not a directory|File exists)"):
        prepare(settings, tmp_path / cache, progress=False)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.token_files.SplitWriter.add", full)
    settings = files(train=write(tmp_path, "train", [f"text {i}" for i in range(60)]))
    with pytest.raises(BadInput, match=r"cannot be kept in cache=.*No space left on device"):
        prepare(settings, tmp_path / "cache", progress=False)
    assert all(path.name.endswith(".lock") for path in (tmp_path / "cache").iterdir())


def test_files_that_change_while_they_are_read_leave_no_tokens(tmp_path, monkeypatch):
    path = write(tmp_path, "train", [f"text {i}" for i in range(60)])
    settings, close = files(train=path), SplitWriter.close

    def change(self):
        Path(path).write_text('{"text": "other"}\n' * 60)
        return close(self)

    monkeypatch.setattr(SplitWriter, "close", change)
    with pytest.raises(BadInput, match="the files changed while they were read"):
        prepare(settings, tmp_path / "cache", progress=False)
    assert all(path.name.endswith(".lock") for path in (tmp_path / "cache").iterdir())
