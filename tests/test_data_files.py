"""Local files: other columns do not matter, nothing is left out unsaid, and no text stands in two splits."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest

import data.long_text
from conf.base import BadInput
from data.corpus import open_corpus, prepare
from data.files import read
from data.sources import texts
from tests.test_data_tokenizers import files, write


def lines(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


# Rows and columns


@pytest.mark.slow
def test_unused_columns_may_change_their_type_come_and_go(tmp_path):
    rows = [{"text": "one", "x": 1}] * 20_000 + [
        {"x": {"a": [1]}, "text": "two"},
        {"text": "three"},
        {"text": "4", "x": ""},
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    assert list(read(path, "text"))[-4:] == ["one", "two", "three", "4"]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"], "x": [1]}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"x": ["no number"], "text": ["two"]}), tmp_path / "b.parquet")
    settings = files(train=f"{tmp_path}/*.parquet", validation=str(path), test=str(path.with_suffix(".json")))
    (tmp_path / "a.json").write_text('[{"text": "five", "x": null}]')
    assert [text for split, text in texts(settings) if split != "validation"] == ["five", "one", "two"]


def test_empty_files_and_shards_are_no_obstacle(tmp_path):
    (tmp_path / "a1.jsonl").write_text("")
    (tmp_path / "a2.json").write_text("[]")
    (tmp_path / "a3.json").write_text("")
    lines(tmp_path / "a4.jsonl", ["\n", {"text": "a"}, "  \n", {"text": "b"}, "\n"])
    schema = pyarrow.schema([("text", pyarrow.string())])
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "a5.parquet")
    pyarrow.parquet.ParquetWriter(tmp_path / "a6.parquet", schema).close()  # without a row group
    (tmp_path / "a7.txt").write_text("")
    settings = files(train=f"{tmp_path}/a*", validation=write(tmp_path, "v", ["c"]), test=write(tmp_path, "t", ["d"]))
    assert [text for split, text in texts(settings) if split == "train"] == ["a", "b"]


def test_the_same_bytes_are_rows_in_one_type_and_one_text_in_another(tmp_path):
    rows = lines(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(50)])
    text = tmp_path / "a.txt"
    text.write_bytes(rows.read_bytes())
    held_out = {split: write(tmp_path, split, [split]) for split in ("validation", "test")}
    for path, documents in ((rows, 50), (text, 1), (rows, 50)):
        corpus = prepare(files(train=str(path), **held_out), tmp_path / "cache", progress=False)
        assert len(corpus.split("train")) == documents


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_every_type_of_text_in_parquet_is_read(tmp_path, kind):
    column = pyarrow.array(["one", None, "two — é"] * 100)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pyarrow, kind)())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", row_group_size=70)
    assert list(read(tmp_path / "a.parquet", "text")) == ["one", "", "two — é"] * 100


def test_rows_without_text_are_counted_and_told(tmp_path, capsys):
    rows = [{"text": f"text {i}"} for i in range(5)] + [{"body": "no text"}, {"text": None}, {"text": " \n"}]
    settings = files(train=str(lines(tmp_path / "a.jsonl", rows)), validation=write(tmp_path, "v", ["c"]),
                     test=write(tmp_path, "t", ["d", ""]))  # fmt: skip
    corpus = prepare(settings, tmp_path / "cache", progress=False)
    said = capsys.readouterr().err
    assert "data=trial: 3 rows of train have no text and are left out." in said
    assert "1 rows of test have no text" in said and "validation" not in said
    meta = json.loads((corpus.folder / "meta.json").read_text())
    assert [meta["splits"][split]["empty"] for split in ("train", "validation", "test")] == [3, 0, 1]
    assert len(open_corpus(corpus.folder).split("train")) == 5
    prepare(settings, tmp_path / "cache", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"text": "torn', r"a\.jsonl', line 9,991, cannot be read as JSON"),
        ('{"text": 5}\n', "line 9,991, holds int in column 'text'"),
        ('["text"]\n', "line 9,991, holds list; an object with column 'text' is needed"),
        ('"text"\n', "line 9,991, holds str"),
        ('{"text": "\\ud800"}\n', "line 9,991, holds half of a surrogate pair"),
        ("[" * 50_000 + "\n", "line 9,991, cannot be read as JSON"),
    ],
)
def test_the_faulty_line_is_named(tmp_path, row, sentence):
    path = lines(tmp_path / "a.jsonl", [{"text": "x" * 50}] * 9990 + [row])
    with pytest.raises(BadInput, match=sentence) as caught:
        list(read(path, "text"))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_sentence_with_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(BadInput, match=r"line 2, cannot be read as \.jsonl: it is not UTF-8"):
        list(read(tmp_path / "a.jsonl", "text"))
    (tmp_path / "a.json").write_bytes(b'[{"text": "caf\xe9"}]')
    with pytest.raises(BadInput, match=r"cannot be read as \.json: it is not UTF-8"):
        list(read(tmp_path / "a.json", "text"))
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="row 1, holds bytes in column 'text'"):
        list(read(tmp_path / "a.parquet", "text"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + "é one\r\ntwo".encode())
    (tmp_path / "a.jsonl").write_bytes(mark + b'{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "a.json").write_bytes(mark + b'[{"text": "one"}]')
    assert list(read(tmp_path / "a.txt", "text")) == ["é one\ntwo"]
    assert list(read(tmp_path / "a.jsonl", "text")) == ["one", "two"]
    assert list(read(tmp_path / "a.json", "text")) == ["one"]


# Arrays of JSON, read a piece at a time

ROWS = [{"text": "a, ]}{["}, {"text": '\\ "quoted" \u2028', "n": [1, {"m": []}]}, {"text": ""}, {"text": "long " * 40}]


@pytest.mark.parametrize("together", [1, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_in_pieces_is_what_json_is(tmp_path, monkeypatch, together, indent):
    monkeypatch.setattr(data.long_text, "PART", together)
    path = tmp_path / "a.json"
    expected = [row["text"] for row in ROWS]
    path.write_text(f" {json.dumps(ROWS, indent=indent)} \n")
    assert list(read(path, "text")) == expected
    path.write_text("\n".join(json.dumps(row, indent=indent) for row in ROWS))  # one object after another
    assert list(read(path, "text")) == expected


BROKEN = ['[{"text": "a"}', '[{"text": "a"} {"text": "b"}]', '[{"text": "a"}] x', '[{"text": "a', "[1]", "text"]


@pytest.mark.parametrize("text", [*BROKEN, '[{"text": "a"},,{}]', "[" * 10_000, '[{"text": "a"},]'])
def test_broken_json_is_a_sentence(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match=r"a\.json' cannot be read as \.json"):
        list(read(tmp_path / "a.json", "text"))


# Paths


@pytest.mark.parametrize("name", ["[x].txt", "[a-c]*.txt", "ü=#(1).txt", "a b,c.txt", "{x}.txt", "?.txt"])
def test_a_file_that_is_there_is_meant_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("the text")
    (tmp_path / "a.txt").write_text("another")
    settings = files(test=str(tmp_path / name))
    assert list(texts(settings)) == [("test", "the text")]


def test_what_is_no_readable_file_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    for pattern in ("gone*.txt", "gone.txt", "pipe.txt", "loop*.txt"):
        with pytest.raises(BadInput, match=r"data\.test: .* is not a file, or a link to nothing"):
            prepare(files(test=f"{tmp_path}/{pattern}"), tmp_path / "cache", tokenizer="bytes")
    for name in ("a.txt/b.txt", "a" * 5000, "nul\0", "[]", "**", ""):
        with pytest.raises(BadInput, match=r"no file matches|is a folder"):
            prepare(files(test=f"{tmp_path}/{name}"), tmp_path / "cache", tokenizer="bytes")
    with pytest.raises(BadInput, match=r"no file matches .~nobody-of-that-name"):
        prepare(files(test="~nobody-of-that-name/a.txt"), tmp_path / "cache", tokenizer="bytes")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".parquet"])
def test_a_read_error_is_a_sentence(tmp_path, monkeypatch, suffix):
    def refuses(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / f"a{suffix}").write_text("{}")
    for module in ("files", "long_text"):
        monkeypatch.setattr(f"data.{module}.open", refuses, raising=False)
    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", refuses)
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\)"):
        list(read(tmp_path / f"a{suffix}", "text"))


# One text, one split


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A file of text and other ways to its content."""
    (tmp_path / "book.txt").write_text("the same text")
    (tmp_path / "link.txt").symlink_to(tmp_path / "book.txt")
    os.link(tmp_path / "book.txt", tmp_path / "hard.txt")
    (tmp_path / "below").mkdir()
    (tmp_path / "other.txt").write_text("another text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPELLINGS = [
    "book.txt",
    "./book.txt",
    "below/../book.txt",
    "{}/book.txt",
    "link.txt",
    "hard.txt",
    "b*.txt",
    "[b]ook.txt",
]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_a_file_has_one_split_however_it_is_spelled(book, spelled):
    spelled = spelled.format(book)
    with pytest.raises(BadInput, match=r"is in data\.train too"):
        prepare(files(train="book.txt", validation=spelled, test="other.txt"), book / "cache", progress=False)
    (book / "last.txt").write_text("the last")
    settings = files(train=["book.txt", spelled], validation="other.txt", test="last.txt")
    assert [text for _, text in texts(settings)] == ["the last", "another text", "the same text"]


def test_a_copy_of_a_trained_file_is_not_held_out(book):
    (book / "copy.txt").write_text("the same text")
    with pytest.raises(BadInput, match=r"data\.test: 'copy.txt' has the content of a file in data\.train"):
        prepare(files(train="book.txt", validation="other.txt", test="copy.txt"), book / "cache", progress=False)


def test_documents_that_are_trained_on_and_measured_are_told(tmp_path, capsys):
    settings = files(
        train=write(tmp_path, "train", ["a", "b", "c"]),
        validation=write(tmp_path, "validation", ["b", "c", "d"]),
        test=write(tmp_path, "test", ["e"]),
    )
    prepare(settings, tmp_path / "cache", progress=False)
    assert "2 documents of train are in validation too: what is measured" in capsys.readouterr().err
