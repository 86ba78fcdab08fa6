"""Another text under the tokenizer of a corpus, and what makes two tokenizers the same."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from conf.base import BadInput
from data.corpus import open_corpus, prepare
from data.settings import DataSettings
from data.tokenizer import fingerprint_of


def files(**values):
    """Typed settings of local files, as bytes unless told otherwise."""
    values = {"name": "trial", "source": "files", "tokenizer": {"kind": "bytes"}, **values}
    return TypeAdapter(DataSettings).validate_python(values)


def write(folder, name, texts):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def trained(tmp_path):
    """A corpus with a BPE of its own, and its settings."""
    texts = [f"the cat number {i} sat on mat number {i * i}" for i in range(60)]
    settings = files(train=write(tmp_path, "train", texts), tokenizer={"kind": "bpe", "vocabulary": 300})
    return prepare(settings, tmp_path / "cache", progress=False), settings


def test_another_text_is_tokenised_by_the_tokenizer_of_a_corpus(tmp_path, trained):
    corpus, _ = trained
    texts = ["the cat sat — naïvely", "on another mat"]
    settings = files(name="other", test=write(tmp_path, "other", texts))
    other = prepare(settings, tmp_path / "cache", progress=False, tokenizer=corpus.tokenizer_text)
    assert (other.name, other.vocabulary, other.separator) == ("other", corpus.vocabulary, corpus.separator)
    assert other.tokenizer_fingerprint == corpus.tokenizer_fingerprint
    assert other.fingerprint != corpus.fingerprint
    assert [len(other.split(split)) for split in ("train", "validation", "test")] == [0, 0, 2]
    for i, text in enumerate(texts):
        assert other.split("test")[i].tolist() == [corpus.separator, *corpus.encode(text)]
    again = prepare(settings, tmp_path / "cache", progress=False, tokenizer=corpus.tokenizer_text)
    assert again.folder == other.folder


def test_the_text_a_tokenizer_was_trained_on_keeps_its_fingerprint_under_it(tmp_path, trained):
    corpus, settings = trained
    again = prepare(settings, tmp_path / "cache", progress=False, tokenizer=corpus.tokenizer_text)
    assert again.folder != corpus.folder and again.fingerprint == corpus.fingerprint


def test_bytes_are_given_as_a_word_and_found_where_they_are(tmp_path, trained):
    _, settings = trained
    plain = prepare(files(train=settings.train), tmp_path / "cache", progress=False)
    given = prepare(settings, tmp_path / "cache", progress=False, tokenizer=plain.tokenizer_text)
    assert given.folder == plain.folder and plain.tokenizer_text == "bytes"


def test_prepared_tokens_are_refused_under_another_tokenizer(tmp_path, trained):
    corpus, _ = trained
    settings = TypeAdapter(DataSettings).validate_python(
        {"source": "prepared", "name": "copy", "folder": str(corpus.folder)}
    )
    same = prepare(settings, tmp_path, tokenizer=corpus.tokenizer_text)
    assert (same.name, same.fingerprint) == ("copy", corpus.fingerprint)
    with pytest.raises(BadInput, match="are those of another tokenizer"):
        prepare(settings, tmp_path, tokenizer="bytes")
    written = json.loads(corpus.tokenizer_text)  # as a checkpoint's folder has it, in which older fields may be missing
    del written["pre_tokenizer"]["use_regex"]
    assert fingerprint_of(json.dumps(written)) != corpus.tokenizer_fingerprint
    assert prepare(settings, tmp_path, tokenizer=json.dumps(written)).fingerprint == corpus.fingerprint


def test_training_needs_a_train_split(tmp_path):
    path = write(tmp_path, "a", ["some text"])
    with pytest.raises(ValueError, match=r"name files for data\.train"):
        files()
    with pytest.raises(BadInput, match=r"data\.train must name files"):
        prepare(files(test=path, validation=path), tmp_path / "cache", progress=False)


def test_a_tokenizer_is_what_it_does_not_how_it_is_written(trained):
    corpus, _ = trained
    content = json.loads(corpus.tokenizer_text)
    same = {**content, "truncation": {"max_length": 3}, "padding": None, "version": "0.9"}
    same["model"] = {**content["model"], "merges": [" ".join(pair) for pair in content["model"]["merges"]]}
    assert fingerprint_of(json.dumps(same, indent=1)) == corpus.tokenizer_fingerprint

    vocabulary = dict(content["model"]["vocab"])
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    swapped = {**content, "model": {**content["model"], "vocab": vocabulary}}
    merges = {**content, "model": {**content["model"], "merges": content["model"]["merges"][::-1]}}
    normalised = {**content, "normalizer": {"type": "Lowercase"}}
    fingerprints = {fingerprint_of(json.dumps(item)) for item in (content, swapped, merges, normalised)}
    assert len(fingerprints | {fingerprint_of("bytes")}) == 5
    with pytest.raises(BadInput, match="is not the text of a tokenizer"):
        fingerprint_of("no json")


def test_older_folders_have_their_tokenizer_fingerprint_computed(trained):
    corpus, _ = trained
    path = corpus.folder / "meta.json"
    meta = json.loads(path.read_text())
    assert meta.pop("tokenizer_fingerprint") == corpus.tokenizer_fingerprint
    del meta["digest"], meta["files"]
    path.write_text(json.dumps(meta))
    assert open_corpus(corpus.folder).tokenizer_fingerprint == corpus.tokenizer_fingerprint


def test_an_empty_split_reads_as_no_documents(tmp_path, trained):
    corpus, _ = trained
    settings = files(test=write(tmp_path, "one", ["some text"]))
    other = prepare(settings, tmp_path / "cache", progress=False, tokenizer=corpus.tokenizer_text)
    documents = other.split("train")
    assert len(documents) == 0 and documents.tokens.shape == (0,) and np.array_equal(documents.offsets, [0])


def test_states_and_text_are_not_read_as_each_other(tmp_path, trained):
    _, text = trained
    languages = []
    for states in (3, 4):
        values = {"source": "chains", "name": "chains", "states": states, "alpha": 0.5, "length": 40}
        settings = TypeAdapter(DataSettings).validate_python(
            {**values, "documents": {"train": 3, "validation": 2, "test": 2}}
        )
        languages.append((settings, prepare(settings, tmp_path / "cache", progress=False)))
    (settings, one), (_, other) = languages
    assert one.tokenizer_fingerprint != other.tokenizer_fingerprint
    assert prepare(settings, tmp_path / "cache", tokenizer=one.tokenizer_text).folder == one.folder
    for wrong in (other.tokenizer_text, "bytes"):
        with pytest.raises(BadInput, match="has states 3 for tokens: a model of other tokens"):
            prepare(settings, tmp_path / "cache", tokenizer=wrong)
    with pytest.raises(BadInput, match="is text: a model of states 3 cannot read it"):
        prepare(text, tmp_path / "cache", tokenizer=one.tokenizer_text)
