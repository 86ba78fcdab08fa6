"""LongRoPE's search: the evolution on fitness functions with a known best, then the whole of it on a tiny model."""

import errno
import json
import math
import os
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values
from conf.load import load_model
from data.corpus import prepare
from data.retrieval import Task
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.lab.measure.retrieval import make_trials, score_trials
from experiments.longrope import searching
from experiments.longrope.__main__ import run_command
from experiments.longrope.candidates import Fitness, Texts, install_candidates, known_factors, make_space, needle_texts
from experiments.longrope.evolution import Evolution, Individual, Scored, Space, best, evolve
from experiments.longrope.search import Search, override, search_factors
from experiments.longrope.searching import Progress
from experiments.longrope.table import format_table
from models.positions import SPECTRA
from tests.cases import WINDOW, Case
from tests.runs import CACHE, run_program, tiny
from train import compose, train

K = 6
HOW = Evolution(population=32, parents=16, mutations=12, crossovers=12, generations=20, probability=0.3, seed=0)
DECAY = tuple(math.log(10_000.0 ** (i / K)) for i in range(K))
PLAIN = Space(100, 500, (0, 2, 4), DECAY)
CRITICAL = Space(400, 800, (0, 2, 4), DECAY, (2, 3, 4))
VECTORS = [[4.0] * K, [4.0 ** (i / (K - 1)) for i in range(K)], [1, 1, 1, 2.5, 4, 4]]
TARGET = Individual((100, 120, 200, 310, 450, 500), 4)


def distance(individuals):
    """Zero at TARGET alone."""
    return [
        sum(((a - b) / 100) ** 2 for a, b in zip(item.factors, TARGET.factors, strict=True))
        + 0.1 * (item.n_hat != TARGET.n_hat)
        for item in individuals
    ]


def run(arena=PLAIN, fitness=distance, vectors=VECTORS, history=(), **changes):
    return list(evolve(arena, arena.seeds(vectors), fitness, HOW.model_copy(update=changes), history))


@pytest.mark.slow
def test_the_evolution_comes_close_to_a_known_best():
    history = run(generations=60)
    (winner,) = best(history)
    assert winner.score < 0.05 and winner.individual.n_hat == TARGET.n_hat
    assert min(distance(PLAIN.seeds(VECTORS))) > 1  # from far away
    random = np.random.default_rng(0)
    drawn = [Individual(tuple(sorted(random.integers(100, 501, K))), 4) for _ in range(sum(map(len, history)))]
    assert winner.score < min(distance(drawn)) / 2  # as many tries at random do not


@pytest.mark.slow
@pytest.mark.parametrize("arena", [PLAIN, CRITICAL], ids=["plain", "critical"])
def test_every_candidate_is_of_the_space_and_its_ends_are_reached(arena):
    everybody = [item.individual for generation in run(arena, generations=40) for item in generation]
    assert len(set(everybody)) == len(everybody)
    for item in everybody:
        tail = item.factors[item.critical :]
        assert all(a <= b for a, b in pairwise(item.factors))
        assert arena.low <= tail[0] and tail[-1] <= arena.high
        assert item.n_hat in arena.n_hats and item.critical in arena.criticals
        for i in range(item.critical):
            head = (tail[0] / 100) ** (i / item.critical)  # a geometric spectrum: NTK's exponents are even steps
            assert item.factors[i] == pytest.approx(100 * head, abs=0.5001)
    assert {item.n_hat for item in everybody} == set(arena.n_hats)
    assert {item.critical for item in everybody} == set(arena.criticals)
    random = np.random.default_rng(0)
    redrawn = [arena.mutate(everybody[0], 1.0, random) for _ in range(3000)]
    assert min(item.factors[item.critical] for item in redrawn) == arena.low
    assert max(item.factors[-1] for item in redrawn) == arena.high


@pytest.mark.slow
def test_a_mutation_draws_evenly_from_what_fits_and_leaves_the_rest():
    """One free pair between neighbours at 200 and 300: all 101 values come up, none far more than another."""
    random, arena = np.random.default_rng(0), Space(100, 500, (0,), DECAY[:3])
    parent = Individual((200, 250, 300), 0)
    middle = [
        mutant.factors[1]
        for mutant in (arena.mutate(parent, 0.3, random) for _ in range(20_000))
        if mutant.factors[::2] == (200, 300) and mutant.factors[1] != 250
    ]
    assert set(middle) == {*range(200, 301)} - {250}
    counts = np.bincount(middle)[200:301]
    assert counts.max() < 3 * np.delete(counts, 50).min()
    parent = Individual((150, 250, 350), 0)
    changed = [arena.mutate(parent, 0.3, random).factors[1] != 250 for _ in range(2000)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.04)


def test_a_cross_has_every_number_from_a_parent():
    random, one, other = np.random.default_rng(0), Individual((100,) * K, 0), Individual((300,) * K, 4)
    children = [PLAIN.cross(one, other, random) for _ in range(200)]
    assert {factor for child in children for factor in child.factors} == {100, 300}
    assert {child.n_hat for child in children} == {0, 4}
    assert {child.factors.count(300) for child in children} == set(range(K + 1))


def test_a_search_is_a_function_of_its_seed():
    assert run() == run()
    assert run()[1:] != run(seed=1)[1:]


@pytest.mark.parametrize("done", [0, 1, 7, 20])
def test_a_search_goes_on_as_if_never_interrupted(done):
    whole = run()
    assert whole[:done] + run(history=whole[:done]) == whole


@pytest.mark.slow
def test_generations_are_as_large_as_asked_for():
    """Also where two parents have few different children, so that mutants take the place of crosses."""
    assert [len(generation) for generation in run()] == [32, *[24] * 20]
    assert [len(generation) for generation in run(parents=2, mutations=1, crossovers=40)] == [32, *[41] * 20]


def test_nothing_found_is_worse_than_the_seeds_on_the_text_searched_on():
    """Even where mutants are a trap, no number, or infinite."""
    for trap in (1.0, math.nan, math.inf):

        def fitness(individuals, trap=trap):
            return [0.5 if item == PLAIN.seeds(VECTORS)[1] else trap for item in individuals]

        (winner,) = best(run(fitness=fitness, generations=3))
        assert winner == Scored(PLAIN.seeds(VECTORS)[1], 0.5)


@pytest.mark.slow
def test_parents_are_the_best_of_all_generations():
    """With one parent and no crosses, a fitness that only gets worse leaves every child a mutant of the first best."""
    calls = iter(range(10_000))
    history = run(
        fitness=lambda individuals: [next(calls) for _ in individuals], parents=1, crossovers=0, probability=0.01
    )
    first = history[0][0].individual
    for generation in history[1:]:
        for item in generation:
            assert sum(a != b for a, b in zip(item.individual.factors, first.factors, strict=True)) <= 3


def test_a_small_space_is_searched_to_its_end_and_no_further():
    """λ in {1, 1.01} for two pairs, n̂ in {0, 1}: six individuals in all, each scored once."""
    arena, scored = Space(100, 101, (0, 1), DECAY[:2]), []

    def fitness(individuals):
        scored.extend(individuals)
        return [0.0] * len(individuals)

    history = run(arena, fitness, [[1.0, 1.0]], population=3, generations=50)
    assert len(history) < 51 and len(scored) == len(set(scored)) == 6
    only = Space(100, 100, (0,), DECAY[:2])
    assert [len(generation) for generation in run(only, fitness, [[4.0, 4.0]])] == [1]


# Every scheme whose frequencies can be rescaled, read by several candidates in one pass.
SCHEMES = ["rope", "p_rope", "xpos", "learned_rope", "fope", "pope", "sinusoidal", "mixture"]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("batch_tokens", [10_000, 3 * 48, 2 * 48, 48])
def test_candidates_are_scored_as_a_model_built_for_each(name, batch_tokens):
    case, longer = Case(name), 3 * WINDOW
    model = case.model(extend="longrope", factor=3.0)
    candidates, frequencies = install_candidates(model)
    random = np.random.default_rng(0)
    arena = make_space(frequencies, 3.0, WINDOW, None, critical=False)
    people = arena.seeds(known_factors(frequencies, 3.0, WINDOW).values())
    people = list(dict.fromkeys([*people, *(arena.mutate(people[i % 3], 0.5, random) for i in range(6))]))
    assert len(people) > 6 and {item.n_hat for item in people} > {0}
    texts = Texts([random.integers(0, 23, longer + 1) for _ in range(2)], [0, 1], longer)
    scores = Fitness(model, candidates, texts, batch_tokens, {"device": "cpu"})(people)
    for item, score in zip(people, scores, strict=True):
        alone = case.model(extend="longrope", factor=3.0, long=item.long, n_hat=item.n_hat)
        assert score == pytest.approx(texts.row(alone)["perplexity"], rel=1e-5)
    assert len(set(scores)) > 4  # FoPE stops slow pairs, whose factors then change nothing


def test_factors_go_by_the_speed_of_a_pair_not_by_its_place(tmp_path):
    (tmp_path / "list.yaml").write_text(str([0.01, 1.0, 0.3, 0.001, 0.05, 0.5, 0.002, 0.1]))  # in no order
    spectrum, texts = SPECTRA["file"](path=str(tmp_path / "list.yaml")), Texts([np.arange(49) % 23], [0], 48)
    model = Case("rope").model(extend="longrope", factor=3.0, spectrum=spectrum)
    candidates, frequencies = install_candidates(model)
    assert frequencies == [1.0, 0.5, 0.3, 0.1, 0.05, 0.01, 0.002, 0.001]
    item = Individual((100, 110, 120, 150, 170, 250, 300, 300), 1)
    alone = Case("rope").model(extend="longrope", factor=3.0, spectrum=spectrum, long=item.long, n_hat=1)
    (score,) = Fitness(model, candidates, texts, 48, {"device": "cpu"})([item])
    assert score == pytest.approx(texts.row(alone)["perplexity"], rel=1e-6)


def test_layers_of_different_frequencies_need_more_than_one_list():
    case = Case("mixture", {"first": "rope", "second": {"name": "rope", "fraction": 0.5}, "every": 2})
    with pytest.raises(BadInput, match="different frequencies"):
        install_candidates(case.model(extend="longrope", factor=3.0))


def test_the_space_is_the_papers():
    frequencies = [10_000 ** (-i / 16) for i in range(16)]
    arena = make_space(frequencies, 8.0, 32, None, critical=False)
    assert (arena.low, arena.high, arena.criticals) == (100, 1000, (0,))
    assert arena.n_hats == (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32)
    assert make_space(frequencies, 8.0, 4096, [0], critical=False).n_hats == (0,)
    ours = make_space(frequencies, 8.0, 256, None, critical=True)  # 40.7 turns of the fastest; pair 2 makes 12.9, 3 7.2
    assert (ours.low, ours.high, ours.criticals) == (800, 1600, (3, 4, 5, 6, 7))  # pair 6 makes 1.3 turns, 7 0.7
    seed = known_factors(frequencies, 8.0, 256)
    assert seed["interpolate"] == [8.0] * 16
    np.testing.assert_allclose(seed["ntk"], [8 ** (i / 15) for i in range(16)])
    assert seed["yarn"][0] == 1 and seed["yarn"][-1] == 8
    assert ours.individual([800] * 16, 0, 7).long[:8] == [round(8 ** (i / 7), 2) for i in range(8)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    words = tiny(tmp_path_factory.mktemp("base"), "name=base", "steps=4")
    return train(compose(words), words)


class Bar:
    def update(self, count):
        pass

    def set_postfix(self, **_):
        pass


TINY = {"population": 6, "parents": 4, "mutations": 3, "crossovers": 3, "generations": 2, "probability": 0.3, "seed": 0}
TINY |= {"tokens": 512, "segments": 4, "factor": 4.0}


def results(base, tell=None, **changes):
    return search_factors(base.checkpoint, Search(**TINY | changes), str(CACHE), tell or Progress(Bar()))


@pytest.mark.slow
def test_the_command_searches_keeps_draws_and_what_it_prints_reads_the_same(base):
    options = [f"{key}={value}" for key, value in TINY.items()]
    place = [f"checkpoint={base.folder}", f"cache={CACHE}", f"runs={base.folder.parent}", "logger=none"]
    status, out, err = run_program(*options, *place, module="experiments.longrope")
    assert status == 0, err
    result, folder = results(base)  # read back: the same question
    assert result["evaluations"] == 6 + 2 * 6 and result["evaluations_per_second"] > 0
    assert format_table(result) in out and override(4.0, folder) in out
    for name in ("factors.yaml", "history.json", "figure.png", "figure.svg"):
        assert (folder / name).stat().st_size > 100
    history = json.loads((folder / "history.json").read_text())
    assert [len(generation) for generation in history] == [6, 6, 6]
    scores = [item["score"] for generation in history for item in generation]
    own_result = result["methods"]["found"]
    assert result["score"] == min(scores) == pytest.approx(own_result["search"]["perplexity"], rel=1e-6)
    assert result["score"] <= min(scores[:3]) and result["history"] == sorted(result["history"], reverse=True)
    assert scores[0] == pytest.approx(result["methods"]["interpolate"]["search"]["perplexity"], rel=1e-5)
    assert own_result["search"]["token_set"] != own_result["held out"]["token_set"] == own_result["at 32"]["token_set"]

    words = re.search(r"Read with it: (.+)", out)[1].split()
    extend = compose_values("perplexity", [place[0], *words])["extend"]
    options = Measurement(protocol="windows", contexts=(128,), stride=1, segments=4)
    (row,) = measure_checkpoint(base.checkpoint, extend, options, str(CACHE))["rows"]
    assert row["perplexity"] == pytest.approx(own_result["held out"]["perplexity"], rel=1e-6)
    assert row["token_set"] == own_result["held out"]["token_set"]
    read = load_model(base.checkpoint, extend)[1].extend
    assert list(read.long) == result["vectors"]["found"] and (read.n_hat, read.temperature) == (result["n_hat"], 1.0)


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on(base):
    whole, folder = results(base, seed=5)
    saved = (folder / "history.json").read_text()
    (folder / "results.json").unlink()
    (folder / "history.json").write_text(json.dumps(json.loads(saved)[:2]))
    progress = Progress(Bar())
    again, _ = results(base, progress, seed=5)
    assert progress.done == 6  # the one generation that was missing
    assert (folder / "history.json").read_text() == saved
    assert again["methods"] == whole["methods"]
    assert again["evaluations_per_second"] and again["evaluations"] == whole["evaluations"]


@pytest.mark.parametrize(("file", "scored"), [("history.json", 6), ("factors.yaml", 18), ("results.json", 18)])
def test_a_disk_that_is_full_by_then_costs_no_factors(base, monkeypatch, capsys, file, scored):
    def refusing(write):
        def refuse(path, value):
            if path.name == file:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            write(path, value)

        return refuse

    for writer in ("write_text", "write_json"):
        monkeypatch.setattr(searching, writer, refusing(getattr(searching, writer)))
    with pytest.raises(OSError, match="No space left on device"):
        results(base, seed=7 + scored + len(file))
    out = capsys.readouterr().out
    factors = re.search(rf"Best of {scored} candidates, by a score of [\d.]+: n̂ = \d+, λ = ([\d. ]+)\n", out)[1]
    assert len(factors.split()) > 1
    assert ("found / it: held out" in out) == (file == "results.json")


def test_needle_fitness_is_the_perplexity_of_the_farthest_keys(base):
    result, _ = results(base, fitness="needle", critical=True, n_hats=[0])
    model, config, _ = load_model(base.checkpoint, result["methods"]["found"]["extend"])
    corpus = prepare(config.data, CACHE, progress=False)
    task = Task(config.data.retrieval, corpus.encode, corpus.separator)
    trials = make_trials(task, corpus.split("validation"), 128, task.farthest(128), 4, 0)
    assert trials[0].k == trials[1].k == task.farthest(128)
    nats = score_trials(model, trials).nll.mean() / task.digits
    assert result["score"] == pytest.approx(math.exp(nats), rel=1e-6)
    assert result["n_hat"] == 0 and result["bounds"] == [4.0, 8.0]
    assert set(result["methods"]["found"]) == {"label", "extend", "search", "held out", "at 32", "at 128"}
    held_out = needle_texts(corpus, config.data.retrieval, "test", 128, 4, 1)
    assert len(held_out.tokens) == 4 and held_out.targets == 5


def test_what_cannot_be_is_one_sentence(base, tmp_path):
    with pytest.raises(BadInput, match="these have 8"):
        _, config, _ = load_model(base.checkpoint)
        needle_texts(prepare(config.data, CACHE, progress=False), config.data.retrieval, "test", 8, 4, 0)
    words = tiny(tmp_path, "position=none", "name=bare", "steps=2")
    bare = train(compose(words), words)
    with pytest.raises(BadInput, match="position=none has no frequencies"):
        results(bare)
    for words, message in {
        "factor=1": "factor=1",
        "n_hats=[]": "n_hats=",
        "parents=1": "parents=1 cannot be crossed",
        "checkpoint=nowhere": "checkpoint=nowhere",
    }.items():
        options = [f"checkpoint={base.folder}", f"cache={CACHE}", "logger=none", words]
        with pytest.raises(BadInput, match=re.escape(message)):
            run_command(compose_values("longrope", options), options)


def test_a_search_in_another_precision_is_another_search(base):
    (exact, folder), (rounded, other) = results(base, generations=1), results(base, generations=1, precision="bfloat16")
    assert folder != other and rounded["measured"]["precision"] == "bfloat16"
    scores = [result["methods"]["extrapolation"]["search"]["perplexity"] for result in (exact, rounded)]
    assert scores[0] != scores[1] == pytest.approx(scores[0], rel=0.02)


def test_device_of_candidates_is_that_of_the_model():
    """What is shown lies where it is read (a wrong device would only show on a GPU): the meta device says so."""
    candidates, _ = install_candidates(Case("rope").model(extend="longrope", factor=3.0))
    candidates.set_candidates([TARGET], 2, "meta")
    assert all(part.device == torch.device("meta") for part in (candidates.factors, candidates.n_hats))
