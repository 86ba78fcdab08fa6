"""A copy of a run's folder is all that is needed to measure it on any text: its tokenizer is kept with it."""

import shutil

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.pretrained import export_run
from models.checkpoint_files import find_checkpoint, load_checkpoint, numbered, save_checkpoint
from models.restore import read_record
from tests.runs import tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "It was a bright cold day in April, and the clocks were striking thirteen; nobody looked up. "
HOW = Measurement(contexts=(8, 16), stride=4, segments=2)


@pytest.fixture
def run(tmp_path):
    """A run that learned a BPE on a text, and the text."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(f'{{"text": "{number} {WORDS * (1 + number % 5)}"}}' for number in range(60)))
    words = tiny(tmp_path / "runs", "name=a", "data=files", f"data.train={texts}", f"cache={tmp_path}/cache",
                 "data.tokenizer.kind=bpe", "data.tokenizer.vocabulary=280")  # fmt: skip
    return train(compose(words), words).folder, texts


@pytest.fixture
def other(tmp_path):
    """Plain settings of another text."""
    (tmp_path / "other.txt").write_text(f"Winston looked at the clocks. {WORDS * 20}")
    return compose_values("config", ["data=files", f"data.test={tmp_path}/other.txt", "data.name=other"])["data"]


def rows(folder, cache, data):
    return measure_checkpoint(find_checkpoint(folder), None, HOW, str(cache), data=data)["rows"]


@pytest.mark.parametrize("texts_are", ["changed", "gone"])
def test_a_copied_run_is_measured_on_any_text_in_its_own_tokens(run, other, tmp_path, texts_are):
    folder, texts = run
    shutil.copytree(folder, tmp_path / "copy")
    expected = rows(folder, tmp_path / "cache", other)
    texts.write_text('{"text": "abc"}\n{"text": "abd"}\n{"text": "abe"}') if texts_are == "changed" else texts.unlink()
    assert rows(tmp_path / "copy", tmp_path / "elsewhere", other) == expected
    with pytest.raises(BadInput, match=r"has changed since|no file matches"):
        rows(tmp_path / "copy", tmp_path / "elsewhere", None)
    export_run(tmp_path / "copy", tmp_path / "out", str(tmp_path / "elsewhere"))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def test_a_run_without_its_tokenizer_takes_that_of_its_text_if_it_is_the_same(run, other, tmp_path, capsys):
    """As older runs, which have none, and those whose own is torn."""
    folder, texts = run
    expected = rows(folder, tmp_path / "cache", other)
    for content in ("{", (folder / "tokenizer.json").read_text().replace('"t"', '"ŧ"')):
        shutil.rmtree(folder / "perplexity")
        (folder / "tokenizer.json").write_text(content)
        assert rows(folder, tmp_path / "cache", other) == expected
        assert "is not the tokenizer that the run was trained with" in capsys.readouterr().out
    shutil.rmtree(folder / "perplexity")
    (folder / "tokenizer.json").unlink()
    assert rows(folder, tmp_path / "cache", other) == expected
    texts.write_text('{"text": "abc"}\n{"text": "abd"}\n{"text": "abe"}')
    for measure in (rows, lambda folder, cache, data: export_run(folder, tmp_path / "out", str(cache))):
        with pytest.raises(BadInput, match=r"has another tokenizer than .* not in .*tokenizer\.json either"):
            measure(folder, tmp_path / "cache", other | {"name": "again"})
    texts.unlink()
    with pytest.raises(BadInput, match=r"is neither in .*tokenizer\.json nor to be had of its training text: "):
        rows(folder, tmp_path / "cache", other | {"name": "again"})


@pytest.mark.slow
def test_an_unfinished_run_of_before_is_given_its_tokenizer_when_it_goes_on(run, tmp_path):
    folder, texts = run
    written = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    (folder / "status.json").write_text('{"state": "interrupted"}')
    numbered(folder / "checkpoints")[-1].unlink()
    words = tiny(tmp_path / "runs", "name=a", "data=files", f"data.train={texts}", f"cache={tmp_path}/cache",
                 "data.tokenizer.kind=bpe", "data.tokenizer.vocabulary=280")  # fmt: skip
    train(compose(words), words)
    assert (folder / "tokenizer.json").read_text() == written


def test_a_model_of_bytes_needs_no_text_to_say_so(tmp_path, other):
    """Also where its settings name no tokenizer, as those of data=prepared."""
    result = train(compose(tiny(tmp_path, "name=a")))
    assert not (result.folder / "tokenizer.json").exists()
    loaded = load_checkpoint(result.checkpoint)
    data = {"name": "gone", "source": "prepared", "folder": "/gone", "isolate_documents": False}
    loaded["lab"]["config"]["data"] = data | {"retrieval": loaded["lab"]["config"]["data"]["retrieval"]}
    save_checkpoint(loaded, result.checkpoint)
    assert read_record(result.checkpoint)["config"]["data"]["source"] == "prepared"
    assert rows(result.folder, tmp_path / "cache", other)[0]["tokens"] == 8
