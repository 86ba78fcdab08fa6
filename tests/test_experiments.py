"""The experiments on tiny models: everything asked for is measured, reused, drawn and said."""

import json
from dataclasses import replace

import numpy as np
import pytest

from conf.base import BadInput
from conf.schema import Config
from conf.validation import validate
from experiments.lab.measure.perplexity import Measurement, default_contexts, measure_checkpoint
from experiments.lab.measure.request import choose_passes, read_request
from experiments.lab.measure.segments import cut
from experiments.lab.statistics import compare
from models.checkpoint_files import find_checkpoint
from models.restore import read_record
from tests.runs import CACHE, run_program, tiny
from train import compose, train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    words = tiny(tmp_path_factory.mktemp("base"), "name=base")
    return train(compose(words), words)


HOW = Measurement(contexts=(16, 32, 64), stride=8, segments=6)


def test_a_reading_is_kept_and_read_back(base):
    how = Measurement(contexts=(16, 32, 64), stride=8, segments=5)  # which no other test here reads
    before = set(base.folder.glob("perplexity/*.json"))
    first = measure_checkpoint(base.checkpoint, None, how, str(CACHE))
    (saved,) = set(base.folder.glob("perplexity/*.json")) - before
    saved.write_text(json.dumps({**first, "read": "back"}))
    assert measure_checkpoint(base.checkpoint, None, how, str(CACHE))["read"] == "back"


def test_every_context_scores_the_same_targets_and_sums_are_by_document(base):
    result = measure_checkpoint(base.checkpoint, {"name": "interpolate", "factor": 2.0}, HOW, str(CACHE))
    assert result["label"] == "interpolate2" and result["original_window"] == 32
    assert len({row["token_set"] for row in result["rows"]}) == 1
    for row in result["rows"]:
        assert row["tokens"] == sum(row["document_tokens"]) == 6 * 8
        assert row["nll"] == pytest.approx(sum(row["document_nll"]))


def test_factor_one_reads_as_trained(base):
    plain = measure_checkpoint(base.checkpoint, {"name": "none"}, HOW, str(CACHE))
    one = measure_checkpoint(base.checkpoint, {"name": "interpolate", "factor": 1.0}, HOW, str(CACHE))
    assert [row["nll"] for row in plain["rows"]] == [row["nll"] for row in one["rows"]]


class Rows:
    """Documents of given lengths, each token telling its document."""

    def __init__(self, *lengths):
        self.documents = [np.full(length, i) for i, length in enumerate(lengths)]

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, i):
        return self.documents[i]

    def at_least(self, length):
        return [i for i, document in enumerate(self.documents) if len(document) >= length]


def test_segments_are_disjoint_owned_and_spread():
    segments = cut(Rows(10, 25, 4, 31), 10, 99)
    assert segments.owners == [0, 1, 1, 3, 3, 3]
    pair = (segments.tokens, segments.owners)
    assert all(len(tokens) == 10 and set(tokens) == {owner} for tokens, owner in zip(*pair, strict=True))
    assert set(cut(Rows(10, 25, 4, 31), 10, 3).owners) == {0, 1, 3}
    with pytest.raises(BadInput, match="40 tokens"):
        cut(Rows(10, 25), 40, 9)


def test_default_contexts_run_from_half_the_window_to_eight_times_it():
    assert default_contexts(128) == (64, 128, 256, 512, 1024)


def test_a_run_folder_stands_for_its_last_checkpoint(base, tmp_path):
    assert find_checkpoint(base.folder) == base.checkpoint
    with pytest.raises(BadInput, match="no such"):
        find_checkpoint(tmp_path / "nothing")


def test_the_perplexity_command(base):
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "segments=4", "logger=none", "contexts=[16,32]"]
    status, out, err = run_program(*words, "extend=interpolate", "extend.factor=2", module="experiments.perplexity")
    assert status == 0, err
    assert "extend=interpolate2" in out and out.splitlines()[1].split()[:2] == ["context", "perplexity"]
    status, _, err = run_program("checkpoint=nowhere", module="experiments.perplexity")
    assert status == 1 and "nowhere" in err and "Traceback" not in err


@pytest.mark.slow
def test_both_readings_side_by_side_where_the_length_matters_and_a_sentence_where_not(base):
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "segments=4", "logger=none", "contexts=[32,128]"]

    def message(*more):
        status, out, err = run_program(*words, *more, module="experiments.perplexity")
        assert status == 0, err
        return out

    plain = message("extend=none")
    assert "does not depend on the length of the text" in plain and plain.count(" perplexity ") == 1
    both = message("extend=dynamic_ntk")
    assert "depends on the length of the text" in both and both.count("context") == 3
    head, first, second = both.splitlines()[-3:]
    assert head.split("  ")[-1].strip() == "decoded / whole"
    assert first.split()[3] == "1.000" and second.split()[1] != "nan"
    assert len(list((base.folder / "perplexity").glob("*-dynamic_ntk-fixed_targets-decoded-*.json"))) == 1
    logger, extend = {"name": "none"}, {"name": "dynamic_ntk"}
    request = read_request(
        {"checkpoint": str(base.folder), "cache": str(CACHE), "runs": "runs", "logger": logger, "extend": extend}
    )
    readings, sentence = choose_passes(request, "whole")
    assert readings == ["whole"] and "reading=both adds" in sentence
    changed = {"layers": {"pattern": "A", "kinds": {"A": {"extend": {"name": "dynamic_ntk"}}}}}
    trained = validate(Config, request.trained.model_dump(mode="json") | changed)
    assert trained.extend.name == "none", "the layers have an extension of their own"
    assert choose_passes(replace(request, trained=trained, extend=None), "both")[0] == ["whole", "decoded"]
    with pytest.raises(BadInput, match="reading=twice is not known: one of whole, decoded, both"):
        choose_passes(request, "twice")


@pytest.mark.slow
def test_an_experiment_beside_a_checkpoint_sets_what_can_be_set(base, tmp_path):
    words = [f"checkpoint={base.checkpoint}", f"runs={tmp_path}", f"cache={CACHE}", "logger=none", "name=tuned"]
    with pytest.raises(BadInput, match=r"model comes from checkpoint=.* and cannot be changed"):
        compose([*words, "experiment=retrieval"])
    config, trained = compose([*words, "experiment=stretch"]), read_record(base.checkpoint)["config"]
    assert (config.window, config.original_window) == (1024, trained["window"])
    assert config.data.retrieval.template == "passkey" != trained["data"]["retrieval"]["template"]
    assert config.data.name == trained["data"]["name"] and config.model.width == trained["model"]["width"]


def row(nll, tokens, token_set="same"):
    return {"document_nll": nll, "document_tokens": tokens, "token_set": token_set}


def test_a_paired_ratio_sees_what_an_unpaired_one_cannot():
    """Documents differ by nats, the arms by a hundredth: paired, the interval excludes one."""
    random = np.random.default_rng(0)
    hard = random.normal(400, 100, size=40)
    ours, theirs = row(hard - 1 + random.normal(0, 0.1, 40), [100] * 40), row(hard, [100] * 40)
    ratio = compare([ours], [theirs]).ratio
    assert ratio.low < np.exp(-0.01) < ratio.high < 1
    assert ratio.value == pytest.approx(np.exp(-0.01), rel=1e-3)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        difference = random.normal(0.0, 5.0, size=50)
        ratio = compare([row(difference, [100] * 50)], [row(np.zeros(50), [100] * 50)]).ratio
        covered += ratio.low <= 1 <= ratio.high
    assert 0.88 <= covered / 200 <= 0.99


def test_different_targets_are_not_compared():
    with pytest.raises(ValueError, match="same targets"):
        compare([row([1.0], [1])], [row([1.0], [1], "other")])
