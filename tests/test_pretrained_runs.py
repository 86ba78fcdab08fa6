"""Runs made of checkpoints: they are read and fine-tuned as any other, and runs made here leave for `transformers`."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from conf.compose import compose_values
from conf.load import load_model
from data.corpus import prepare
from experiments.lab.finetuning import existing_base
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.pretrained import export_run, find, import_run
from models.checkpoint_files import find_checkpoint
from tests import transformers_models as theirs
from tests.runs import CACHE, run_program, tiny
from tests.test_pretrained_out import load
from tests.test_training import run
from train import compose, train

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = 50  # of the tokenizer; the weights have rows for 61


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A Llama with more rows than its tokenizer has tokens, extended by YaRN, and a text of its words."""
    folder = tmp_path_factory.mktemp("theirs")
    options = theirs.LLAMA | theirs.with_rope("yarn")
    theirs.save(theirs.build("llama", **options), folder, tokens=TOKENS)
    generator = torch.Generator().manual_seed(0)
    for name in ("train", "validation", "test"):
        drawn = torch.randint(2, TOKENS, (4, 300), generator=generator).tolist()
        texts = [" ".join(f"w{i}" for i in text) for text in drawn]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def words(checkpoint: Path, runs: Path, *overrides: str) -> list[str]:
    splits = [f"data.{name}={checkpoint}/{name}.jsonl" for name in ("train", "validation", "test")]
    given = [f"from={checkpoint}", "name=tiny", "data=files", *splits, f"runs={runs}", f"cache={runs}/cache"]
    return [word for word in given if word.split("=")[0] not in {o.split("=")[0] for o in overrides}] + list(overrides)


def imported(checkpoint: Path, runs: Path, *overrides: str) -> Path:
    return import_run(compose_values("pretrained", words(checkpoint, runs, *overrides)))[0]


def nll(model, text: torch.Tensor) -> float:
    """Mean over the targets of a text (T + 1,), by `transformers`."""
    with torch.no_grad():
        return float(F.cross_entropy(model(text[None, :-1]).logits[0], text[1:]))


def test_a_run_of_it_is_read_as_any_other_and_its_perplexity_is_theirs(checkpoint, tmp_path):
    folder = imported(checkpoint, tmp_path)
    assert folder == tmp_path / "pretrained" / "tiny"
    path = find_checkpoint(folder)
    _, config, record = load_model(path)
    assert (config.original_window, config.extend.name, record["vocabulary"]) == (32, "yarn", TOKENS)
    settings_used = Measurement(protocol="windows", contexts=(32, 128), stride=16, segments=8)
    rows = measure_checkpoint(path, None, settings_used, str(tmp_path / "cache"))["rows"]
    model = load(checkpoint)
    corpus = prepare(config.data, Path(config.cache), progress=False)
    documents = [torch.from_numpy(corpus.split("test")[i].astype("int64")) for i in range(4)]
    texts = [document[start : start + 129] for document in documents for start in (0, 129)]
    expected = sum(nll(model, text) for text in texts) / 8
    assert rows[-1]["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


@pytest.mark.slow
def test_every_command_for_one_checkpoint_takes_it(checkpoint, tmp_path):
    folder = imported(checkpoint, tmp_path)
    common = [f"checkpoint={folder}", f"cache={tmp_path}/cache", f"runs={tmp_path}", "logger=none"]
    arguments = {"by_position": [], "perplexity": ["contexts=[32,64]", "extend=interpolate", "extend.factor=2"]}
    for module, more in arguments.items():
        status, out, err = run_program(*common, *more, module=f"experiments.{module}")
        assert status == 0, (module, err)
        assert "tiny" in out
    status, out, err = run_program(str(folder), str(folder), "logger=none", module="experiments.compare")
    assert "Traceback" not in err


def test_moved_it_is_the_same_run_and_reads_other_text_in_its_own_tokens(checkpoint, tmp_path):
    place = tmp_path / "elsewhere"
    imported(checkpoint, tmp_path).rename(place)
    other = tmp_path / "other.txt"
    other.write_text(" ".join(f"w{2 + i % 40}" for i in range(200)))
    settings_used = Measurement(protocol="windows", contexts=(32,), stride=16, segments=2)
    data = compose_values("pretrained", ["data=files", f"data.test={other}", "data.name=other"])["data"]
    for text, name in ((None, "files"), (data, "other")):
        result = measure_checkpoint(find_checkpoint(place), None, settings_used, str(tmp_path / "cache2"), data=text)
        assert result["corpus"]["name"] == name
        assert result["corpus"]["trained_on"] is None and "trained elsewhere" in result["corpus"]["why"]


def test_what_is_stretched_already_is_no_base_to_stretch(checkpoint, tmp_path):
    with pytest.raises(BadInput, match=r"was extended already \(extend=yarn\): this starts from a base model"):
        existing_base(find_checkpoint(imported(checkpoint, tmp_path)))


def test_it_is_fine_tuned_and_leaves_with_its_extension(checkpoint, tmp_path):
    path = find_checkpoint(imported(checkpoint, tmp_path))
    overrides = [entry for entry in tiny(tmp_path) if not entry.startswith(("model.", "data.", "cache"))]
    overrides += [f"checkpoint={path}", "extend=interpolate", "extend.factor=2", "window=64", f"cache={tmp_path}/cache"]
    overrides = [entry for entry in overrides if entry != "window=32"]
    tuned = train(compose([*overrides, "name=tuned"]), overrides)
    gpt, config, _ = load_model(tuned.checkpoint)
    assert config.original_window == 32
    export_run(tuned.folder, tmp_path / "out", str(tmp_path / "cache"))
    model = load(tmp_path / "out")
    assert model.config.rope_parameters["rope_type"] == "linear"
    assert (model.config.rope_parameters["factor"], model.config.max_position_embeddings) == (2.0, 64)
    text = torch.randint(TOKENS, (1, 100), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gpt(text), theirs.logits(model, text), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("overrides", [("position=rope",), ("model=pico_modern", "extend=yarn", "extend.factor=4")])
def test_a_byte_model_trained_here_leaves_with_its_tokenizer(tmp_path, overrides):
    from transformers import AutoTokenizer

    result = run(tmp_path, *overrides, "name=bytes")
    assert not export_run(result.folder, tmp_path / "out", str(CACHE))
    model, tokenizer = load(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    gpt, config, record = load_model(result.checkpoint)
    corpus = prepare(config.data, CACHE, progress=False)
    text = "Fellow citizens: naïve — 42 %\n\n\tand «so on»."
    assert tokenizer(text)["input_ids"] == corpus.encode(text).tolist()
    assert tokenizer.decode(corpus.encode(text).tolist()) == text
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == record["separator"] == model.config.bos_token_id
    document = torch.from_numpy(corpus.split("test")[0][:65].astype("int64"))
    ours = gpt(document[None, :-1], targets=document[None, 1:])[0]
    assert ours.item() == pytest.approx(nll(model, document), rel=1e-5)


def test_in_out_in_is_the_identity_tokenizer_included(checkpoint, tmp_path):
    first = imported(checkpoint, tmp_path)
    export_run(first, tmp_path / "out", str(tmp_path / "cache"))
    second = imported(checkpoint, tmp_path, f"from={tmp_path}/out", "name=again")
    one, two = (load_model(find_checkpoint(folder)) for folder in (first, second))
    assert all(torch.equal(value, two[0].state_dict()[key]) for key, value in one[0].state_dict().items())
    assert one[2]["corpus"] == two[2]["corpus"]  # a digest of the tokenizer and of what it made of the text
    saved = ("model", "position", "frequencies", "extend", "original_window")
    settings = [{key: record["config"][key] for key in saved} for _, _, record in (one, two)]
    assert settings[0]["model"].pop("name") == "tiny" and settings[1]["model"].pop("name") == "again"
    assert settings[0] == settings[1]


def test_the_preset_takes_the_package_if_it_is_installed_and_else_the_hub(tmp_path, monkeypatch):
    preset = compose_values("pretrained", ["pretrained=smollm2"])
    package, _, file = preset["from"].removeprefix("package:").partition("/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=f"from={preset['otherwise']}: .*the hub cannot be reached"):
        find(preset["from"], preset["otherwise"])
    monkeypatch.undo()
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find(preset["from"], preset["otherwise"]) == tmp_path / package / file


# One sentence, status 1, and nothing left behind.


def refused(tmp_path: Path, *given: str) -> str:
    status, _, err = run_program(*given, module="experiments.pretrained")
    assert status == 1 and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert not left and not list(tmp_path.glob("pretrained/*")) and not list(tmp_path.glob(".*"))
    return err


def test_a_tokenizer_that_does_not_fit(checkpoint, tmp_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(theirs.tokenizer_json(62))
    assert "62 tokens, and the weights have rows for 61" in refused(
        tmp_path, *words(checkpoint, tmp_path, f"tokenizer={path}")
    )


@pytest.fixture
def endless(tmp_path_factory):
    """A tokenizer.json of so many tokens, none of which ends a text."""

    def make(tokens: int) -> Path:
        path = tmp_path_factory.mktemp("endless") / "tokenizer.json"
        path.write_text(theirs.tokenizer_json(tokens).replace("<|endoftext|>", "<start>"))
        return path

    return make


def test_a_separator_that_the_tokenizer_lacks_is_remarked_upon(checkpoint, tmp_path, endless):
    given = words(checkpoint, tmp_path, f"tokenizer={endless(TOKENS)}")
    folder, remarks = import_run(compose_values("pretrained", given))
    assert [f"no end of a text: token {TOKENS}, <|document|>," in remark for remark in remarks] == [True]
    assert json.loads((folder / "origin.json").read_text())["remarks"] == list(remarks)
    assert load_model(find_checkpoint(folder))[2]["separator"] == TOKENS
    assert not import_run(compose_values("pretrained", words(checkpoint, tmp_path, "name=own")))[1]


def test_a_separator_without_a_row_is_not_laid_to_the_tokenizer(checkpoint, tmp_path, endless):
    given = words(checkpoint, tmp_path, f"tokenizer={endless(61)}")
    assert "62 tokens, one of them the separator of documents, which it lacks, and" in refused(tmp_path, *given)


def test_nothing_is_left_of_an_import_that_fails_late(checkpoint, tmp_path):
    given = words(checkpoint, tmp_path, "data.train=nowhere/*.txt")
    assert "nowhere" in refused(tmp_path, *given)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["name=null"], "name=None"),
        (["name=../up"], "name=../up"),
        (["from=nowhere"], "from=nowhere"),
        (["from=nobody/nothing"], "the hub cannot be reached"),
        (["from=package:no_such_package/a.gguf"], "is not installed"),
        (["original_window=-1"], "original_window=-1"),
        (["original_window=true"], "original_window=true"),
        (["runs=null"], "runs="),
        (["cache=null"], "cache="),
        (["form=lab"], "form cannot be set with from="),
        (["to=there"], "to cannot be set with from="),
        (["data=chains"], "no tokenizer"),
        (["checkpoint=somewhere"], "either from="),
        (["from=null"], "either from="),
        (["from=null", "checkpoint=somewhere"], "to="),
        (["from=null", "checkpoint=somewhere", "to=there"], "data cannot be set with checkpoint=somewhere"),
    ],
)
def test_impossible_requests(checkpoint, tmp_path, overrides, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = words(checkpoint, tmp_path, *overrides)
    if "data=chains" in overrides:
        given = [word for word in given if not word.startswith("data.")]
    assert sentence in refused(tmp_path, *given)


def test_a_name_that_is_taken_and_a_folder_that_is_there(checkpoint, tmp_path):
    folder = imported(checkpoint, tmp_path)
    assert imported(checkpoint, tmp_path) == folder  # the same again is there already
    with pytest.raises(BadInput, match="came from elsewhere"):
        imported(checkpoint, tmp_path, f"from={tmp_path}/other")
    with pytest.raises(BadInput, match="is there already"):
        export_run(folder, tmp_path / "cache", str(tmp_path / "cache"))
    result = run(tmp_path, "position=alibi", "name=alibi")
    with pytest.raises(BadInput, match="position=alibi"):
        export_run(result.folder, tmp_path / "out", str(CACHE))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("original_window=16", "original_window"),
        ("data.column=txt", "data"),
        ("tokenizer={checkpoint}/tokenizer.json", "tokenizer"),
        ("weights", "files"),
    ],
)
def test_a_run_that_was_made_of_something_else_is_not_handed_out_for_it(checkpoint, tmp_path, change, names):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    imported(source, tmp_path)
    if change == "weights":
        (weights,) = source.glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        changes = []
    else:
        changes = [change.format(checkpoint=checkpoint)]
    with pytest.raises(BadInput, match=f"was made of another {names}: give another name="):
        imported(source, tmp_path, *changes)


def test_the_record_of_an_import_that_is_torn_is_named(checkpoint, tmp_path):
    folder = imported(checkpoint, tmp_path)
    (folder / "origin.json").write_text("")
    with pytest.raises(BadInput, match=r"origin\.json is torn"):
        imported(checkpoint, tmp_path)


def test_home_is_expanded(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, out, err = run_program(*words(checkpoint, Path("~/runs")), module="experiments.pretrained")
    assert status == 0, err
    assert (tmp_path / "runs" / "pretrained" / "tiny").is_dir() and "~" not in out
    run_folder = "checkpoint=~/runs/pretrained/tiny"
    status, _, err = run_program(run_folder, "to=~/out", "cache=~/runs/cache", module="experiments.pretrained")
    assert status == 0, err
    assert (tmp_path / "out" / "config.json").is_file()
