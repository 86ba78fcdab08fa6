"""Texts too long to be a str are read part by part, and come out as the same tokens."""

import json
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from conf.base import BadInput
from data import files, long_text
from data.corpus import prepare
from data.long_text import LongText, is_blank, long_row, parts
from tests.test_data_files import files as settings_of

TEXT = 'A “quoted” word 🙂, \\ a slash,\r\n\t"quotes" & é\u2028' * 40 + "\ud7ff end"


@pytest.fixture
def small_parts(monkeypatch):
    """Everything over 100 bytes is long, and parts are of 7."""
    monkeypatch.setattr(files, "LONG", 100)
    monkeypatch.setattr(long_text, "PART", 7)


def write(path, texts):
    if path.suffix == ".txt":
        path.write_text(texts[0], newline="")
    elif path.suffix in (".jsonl", ".json"):
        rows = [{"n": [1, {"a": "]"}], "text": text, "z": None, "m": 12.5} for text in texts]
        lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
        array = path.suffix == ".json" and len(texts) > 1
        path.write_text(f"[{', '.join(lines)}]" if array else "\n".join(lines), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_a_long_text_is_read_as_a_short_one(tmp_path, monkeypatch, small_parts, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, [TEXT, "short", TEXT[::-1]])
    read = list(files.read(path, "text"))
    assert isinstance(read[0], LongText) and max(map(len, parts(read[0]))) <= 12
    monkeypatch.setattr(files, "LONG", 2**20)
    assert ["".join(parts(text)) for text in read] == list(files.read(path, "text"))
    assert read[0] != TEXT and "".join(read[0]) == "".join(read[0]), "it can be gone through again"


@pytest.mark.parametrize("kind", ["string", "large_string", "numbered"])
def test_every_kind_of_string_of_a_parquet_is_read_alike(tmp_path, small_parts, kind):
    texts = [None, TEXT, "", "short", TEXT, None, TEXT[::-1]]
    column = pyarrow.array(texts, pyarrow.string() if kind == "numbered" else kind)
    column = column.dictionary_encode() if kind == "numbered" else column
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", row_group_size=4)
    read = list(files.read(tmp_path / "a.parquet", "text"))
    assert ["".join(parts(text)) for text in read] == [text or "" for text in texts]
    assert [isinstance(text, LongText) for text in read] == [len(text or "") > 100 for text in texts]


@pytest.mark.parametrize("shape", ["one", "a group each", "one group", "the same"])
def test_long_rows_of_a_parquet_are_unpacked_one_at_a_time(tmp_path, monkeypatch, shape):
    size = 2**22
    random = np.random.default_rng(0)
    rows = [random.integers(97, 123, size, np.uint8).tobytes().decode() for _ in range(8)]  # which no codec shortens
    rows = rows[:1] * 8 if shape == "the same" else rows
    table = pyarrow.table({"text": rows[:1] if shape == "one" else rows})
    groups = {"a group each": 1}.get(shape)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=groups)
    monkeypatch.setattr(files, "LONG", 2**20)
    before, pool = pyarrow.default_memory_pool(), pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())
    pyarrow.set_memory_pool(pool)
    try:
        assert sum(len(part) for text in files.read(tmp_path / "a.parquet", "text") for part in text) % size == 0
    finally:
        pyarrow.set_memory_pool(before)
    page = 8 if shape == "one group" else 1  # rows of a page, which is unpacked as a whole
    assert size < pool.max_memory() < (page + 2.5) * size


@pytest.mark.parametrize("kind", [{"kind": "bytes"}, {"kind": "bpe", "vocabulary": 300}])
def test_a_long_text_has_the_tokens_of_a_short_one(tmp_path, monkeypatch, kind):
    write(tmp_path / "train.jsonl", [TEXT * 3, *(f"{i} {TEXT[i:300]}" for i in range(80))])
    settings = settings_of(train=str(tmp_path / "train.jsonl"), tokenizer=kind)
    whole = prepare(settings, tmp_path / "whole", progress=False)
    monkeypatch.setattr(files, "LONG", 1000)
    monkeypatch.setattr(long_text, "PART", 70)
    cut = prepare(settings, tmp_path / "cut", progress=False)
    assert cut.fingerprint == whole.fingerprint
    assert np.array_equal(cut.bytes_per_token("train"), whole.bytes_per_token("train"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "%s' % ("a" * 200), "a string does not end"),
        ('{"text": "%s\\q"}' % ("a" * 200), "holds what a string cannot"),
        ('{"text": "%s"} 3' % ("a" * 200), "after the end of the object"),
        ('{"text": "%s" "b": 1}' % ("a" * 200), "stands where"),
        ('{"a": "%s", "b": nope}' % ("a" * 200), "Expecting value"),
        ('[1, "%s"]' % ("a" * 200), "stands where '{' should"),
        ('{"text": "%s\\ud83d"}' % ("a" * 200), "half of a surrogate pair"),
        ('{"other": "%s"}' % ("a" * 200), "has no column 'text'; it has 'other'"),
        ('{"other": "%s", "text": 3}' % ("a" * 200), "holds int in column 'text'"),
    ],
)
def test_a_long_line_that_is_no_row_is_named(tmp_path, small_parts, line, reason):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(BadInput, match=r"a\.jsonl") as error:
        list(files.read(tmp_path / "a.jsonl", "text"))
    assert reason in str(error.value)


def test_bytes_that_are_no_utf8_are_named_wherever_they_are(tmp_path, small_parts):
    (tmp_path / "a.txt").write_bytes(b"a" * 100_000 + b"\xff")
    (text,) = files.read(tmp_path / "a.txt", "text")
    assert not is_blank(text)
    with pytest.raises(BadInput, match=r"a.txt' cannot be read as .txt: it is not UTF-8"):
        list(text)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_the_memory_of_a_long_row_does_not_grow_with_it(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(files, "LONG", 2**20)
    path = tmp_path / f"a{suffix}"
    with open(path, "w") as file:
        file.write('{"text": "')
        for _ in range(20):
            file.write("many words 🙂 " * 2**16)
        file.write('"}')
    read = {
        ".jsonl": lambda path: [long_row(path, 0, path.stat().st_size)["text"]],
        ".json": lambda path: files.read(path, "text"),
    }[suffix]
    tracemalloc.start()
    assert sum(len(part) for text in read(path) for part in text) == 20 * 2**16 * len("many words 🙂 ")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6, "of text that takes 70 MB as a str"


def test_a_long_row_of_json_may_hold_a_long_list(tmp_path, small_parts):
    rows = [{"list": list(range(500)), "text": TEXT}, {"text": "é" * 99}, {"list": [TEXT], "text": TEXT[::-1]}]
    for dump in (json.dumps(rows, ensure_ascii=False), "\ufeff" + json.dumps(rows, indent=1)):
        (tmp_path / "a.json").write_text(dump, encoding="utf-8")
        read = list(files.read(tmp_path / "a.json", "text"))
        assert ["".join(parts(text)) for text in read] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    "text", ['[{"text": "%s\\q"}]', '[{"text": "%s', '[{"text": "%s"} 3]', '[{"text": "%s"}', '[{"text": "%s"}] x']
)
def test_a_long_row_of_broken_json_is_a_sentence(tmp_path, small_parts, text):
    (tmp_path / "a.json").write_text(text % ("a" * 200))
    with pytest.raises(BadInput, match=r"a\.json' cannot be read as \.json"):
        list(files.read(tmp_path / "a.json", "text"))
