"""One plan over claims: runs shared, bases first, failures listed and tried again, the same by every launcher."""

import json
import os
import re
import shutil
import sys
import time
from importlib.util import find_spec

import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values
from conf.environment import COMMAND
from conf.run_folder import RESULTS, RunFolder
from conf.validation import validate
from experiments.lab import launch
from experiments.lab import plan as engine
from experiments.lab.launch import Progress
from experiments.lab.plan import describe, make_plan, missing, train_all
from experiments.reproduce import verdicts as reproduce
from experiments.reproduce.arms import Request, arms_of
from experiments.reproduce.claim import Claim, Findings, verdict
from experiments.reproduce.claims import CLAIMS
from experiments.reproduce.evidence import Evidence
from tests.runs import command, reproduce_request, tiny_claims


class Chain(Claim):
    """Fine-tuning from fine-tuning, named before what it starts from."""

    title = source = statement = rule = paper = settle = "a chain"

    def arms(self, window):
        further = ["extend=interpolate", "optimizer.warmup=2"]
        return {
            "twice": ["checkpoint=@once", f"window={4 * window}", "steps=2", *further, "extend.factor=4"],
            "once": ["checkpoint=@base", f"window={2 * window}", "steps=20", "snapshots=[2]", *further,
                     "extend.factor=2"],
            "base": ["position=rope", "frequencies.base=100", "data.retrieval.fraction=0.5", "data.retrieval.digits=3",
                     "optimizer.lr=1e-2"],
        }  # fmt: skip


@pytest.mark.slow
def test_fine_tuned_arms_are_planned_before_their_base_is_there_and_start_from_its_end(
    tmp_path, monkeypatch, one_thread
):
    from train import train

    monkeypatch.setitem(CLAIMS, "chain", Chain)
    request = reproduce_request(tmp_path, "convergence", "seeds=1", 'train=["data.retrieval.keys=1"]')
    runs = arms_of(Chain(), request)
    assert list(runs) == ["base", "once", "twice"], "a base comes before what needs it"
    base, once, twice = (arm[0] for arm in runs.values())
    assert once.checkpoint == f"{tmp_path}/claims-tiny/{base.name}/checkpoints/step-00000006.ckpt"
    assert twice.checkpoint == f"{tmp_path}/claims-tiny/{once.name}/checkpoints/step-00000020.ckpt"
    assert (once.frequencies, twice.model, once.data) == (base.frequencies, base.model, base.data)
    assert [item.batch * item.window for item in (base, once, twice)] == [128] * 3
    assert [item.original_window for item in (base, once, twice)] == [32] * 3
    assert (once.optimizer.lr, once.optimizer.schedule, once.optimizer.warmup) == (2.5e-3, "constant", 2)
    assert twice.optimizer.lr == 2.5e-3 and twice.snapshots == () and once.snapshots == (2,)
    assert once.name.startswith(base.name.removesuffix("-s1") + "-tuned-inter") and once.name.endswith("-s1")

    whole = plan_of(["chain"], request)
    assert train_all(whole, ["chain"], Progress(missing(list(whole.runs.values()))), {}) == {}
    trained = {arm: [train(run) for run in item] for arm, item in whole.arms["chain"].items()}
    start, end = (torch.load(path, weights_only=True) for path in (once.checkpoint, trained["once"][0].checkpoint))
    first = torch.load(trained["once"][0].folder / "checkpoints" / "snapshot-00000002.ckpt", weights_only=True)
    moved = [
        (item["state_dict"]["gpt.embedding.weight"] - start["state_dict"]["gpt.embedding.weight"]).norm()
        for item in (first, end)
    ]
    assert 0 < moved[0] < moved[1] and end["lab"]["config"]["original_window"] == 32

    evidence = Evidence(trained, base, segments=8)
    tuned, plainly = evidence.perplexity("twice"), evidence.perplexity("twice", "none")
    assert set(tuned) == {32, 64, 128} and tuned[128][0]["nll"] != plainly[128][0]["nll"]
    assert tuned[128] == evidence.perplexity("twice", "interpolate", 4)[128]
    assert set(evidence.perplexity("once", step=2, contexts=(32, 256))) == {32, 256}
    (row,) = evidence.in_window("once")
    assert row["context"] == 32
    (reading,) = evidence.by_position("once", context=64)
    assert reading["rows"][-1]["high"] == 64
    (keys,) = evidence.passkey("twice", "interpolate", 4, lengths=(64,), depths=2, trials=2)
    assert keys["digits"] == 3 and [item["length"] for item in keys["lengths"]] == [64]


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"a": ["checkpoint=@b"]}, "@b: an arm is fine-tuned from another"),
        ({"a": ["checkpoint=@b"], "b": ["checkpoint=@a"]}, "@a: an arm is fine-tuned from another"),
        ({"a": [], "b": ["checkpoint=@a", "position=alibi"]}, "position comes from checkpoint="),
    ],
)
def test_arms_that_cannot_be_fine_tuned_are_refused_in_the_plan(tmp_path, arms, sentence):
    class Wrong(Chain):
        def arms(self, window):
            return arms

    with pytest.raises(BadInput, match=sentence):
        arms_of(Wrong(), reproduce_request(tmp_path, "convergence", "seeds=1"))


def test_two_ways_to_say_the_same_are_one_run_and_whatever_differs_is_another(tmp_path):
    class Twins(Chain):
        def arms(self, window):
            knobs = ["frequencies=geometric", "frequencies.base=100", "position=rope"]
            other = {"window": ["window=64"], "kept": ["snapshots=[2]"], "both": ["window=64", "snapshots=[2]"]}
            other = {name: ["frequencies.base=100", *words] for name, words in other.items()}
            return {"short": ["frequencies.base=100"], "long": knobs, "spelt": ["frequencies.base=1e2"]} | other

    short, long, spelt, *others = arms_of(Twins(), reproduce_request(tmp_path, "convergence", "seeds=1")).values()
    assert short == long == spelt and short[0].name == "rope-nano-base100-s1"
    assert len({run.name for (run,) in (short, *others)}) == 4


def plan_of(claims, request):
    known = {}
    arms = {claim: arms_of(CLAIMS[claim](), request, known) for claim in claims}
    return make_plan(arms, request.launcher, request.jobs_on_gpu)


@pytest.mark.parametrize("words", [["trainer.devices=2"], ["trainer=ddp", "trainer.devices=1", "trainer.nodes=2"]])
def test_a_plan_of_runs_on_several_devices_is_refused(tmp_path, words):
    """Lightning would start the whole command anew for each of the other processes."""
    request = reproduce_request(tmp_path, "convergence", "seeds=1", *words)
    with pytest.raises(BadInput, match=r"a plan trains on one device per job: set trainer\.devices=1"):
        plan_of(["convergence"], request)


class Pair(Claim):
    """Two schemes, one of them fine-tuned; its verdict is the number of its runs."""

    title = source = statement = rule = paper = settle = "a pair"
    schemes = ("rope", "alibi")

    def arms(self, window):
        arms = {f"{scheme} tuned": [f"checkpoint=@{scheme}", "steps=2"] for scheme in self.schemes[:1]}
        return arms | {scheme: [f"position={scheme}"] for scheme in self.schemes}

    def measure(self, evidence):
        return Findings([{"arm": arm, "perplexity": evidence.in_window(arm)[0]["perplexity"]} for arm in evidence.runs])

    def judge(self, result):
        return {"all": verdict(True, False, f"{len(result.rows)} arms")}

    def draw(self, result, verdicts):
        from experiments.lab.canvas import Drawing, pyplot

        return Drawing(pyplot().subplots()[0], self.title, self.statement)


class Other(Pair):
    """Shares a scheme with the pair."""

    schemes = ("alibi", "none")


@pytest.fixture
def two_claims(monkeypatch):
    monkeypatch.setitem(CLAIMS, "pair", Pair)
    monkeypatch.setitem(CLAIMS, "other", Other)


@pytest.mark.slow
def test_claims_share_runs_and_every_run_knows_its_claims(tmp_path, two_claims):
    both = plan_of(["pair", "other"], reproduce_request(tmp_path, "[pair,other]"))
    assert len(both.runs) == 10 and both.users["alibi-nano-s2"] == ["pair", "other"]
    assert both.arms["pair"]["alibi"] == both.arms["other"]["alibi"]
    assert both.runs["alibi-nano-s1"].logger.tags == ("pair", "other") and both.runs["none-nano-s1"].logger.tags == (
        "other",
    )
    alone = plan_of(["other"], reproduce_request(tmp_path, "other"))
    assert {run.name for run in both.of(["other"])} == set(alone.runs), "names do not depend on what else is asked"
    text = describe(both, "All:")
    assert "pair                 3 arms, 6 runs, 0 done, 2 shared with other questions" in text
    assert (
        "10 runs, 4 fine-tuned from others; 0 are done, 10 to train: 0.01 M tokens, 1 at a time by launcher=here"
        in text
    )
    assert re.search(r"^It takes about [\d.]+ \w+ \(some speeds timed just now\)\.$", text, re.M)


def test_verdicts_do_not_wait_for_the_whole_plan_nor_places_for_verdicts(tmp_path, two_claims):
    many = reproduce_request(tmp_path, "[pair,other]", "seeds=4")
    assert list(plan_of(["pair", "other", "bound"], many).portions()) == [["pair"], ["other"], ["bound"]]
    wide = reproduce_request(tmp_path, "[pair,other]", "seeds=4", "launcher=submitit_slurm", "launcher.jobs=2")
    assert list(plan_of(["pair", "other", "bound"], wide).portions()) == [["pair", "other"], ["bound"]]


def test_workers_go_on_with_tuned_runs_while_the_last_base_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(CLAIMS, "chain", Chain)
    whole = plan_of(
        ["chain"], reproduce_request(tmp_path, "convergence", "seeds=3", "launcher=joblib", "launcher.jobs=2")
    )
    waves = []
    monkeypatch.setattr(engine, "launch", lambda runs, *_: waves.append(runs) or {})
    assert train_all(whole, ["chain"], Progress([]), {}) == {}
    arms = {run.name: (arm, run.seed) for arm, runs in whole.arms["chain"].items() for run in runs}
    assert [[arms[run.name] for run in wave] for wave in waves] == [
        [("base", 1), ("base", 2)],
        [("base", 3), ("once", 1)],
        [("once", 2), ("once", 3), ("twice", 1)],
        [("twice", 2), ("twice", 3)],
    ]
    turned = [run for wave in waves[2:] for run in wave][::-1]  # as where a question's bases come after tuned runs
    ready = engine.next_runs(whole, turned)
    assert [arms[run.name] for run in ready] == [("once", 3), ("once", 2), ("twice", 1)], "bases first"


@pytest.mark.slow
def test_a_failing_run_stops_its_dependents_alone_and_is_tried_again(
    tmp_path, two_claims, monkeypatch, capsys, one_thread
):
    import train

    original, order = train.train, []

    def breaking(config):
        order.append(config.name)
        if config.name == "alibi-nano-s1":
            raise RuntimeError("a cable came loose")
        return original(config)

    request = reproduce_request(tmp_path, "[other,pair]", "seeds=1")
    monkeypatch.setattr(engine, "ROUNDS", 1)  # one claim after the other; what failed for one is not tried again
    monkeypatch.setattr(train, "train", breaking)
    with pytest.raises(BadInput) as failed:
        reproduce.reproduce(["other", "pair"], request, [])
    message = str(failed.value)
    assert "alibi-nano-s1: RuntimeError('a cable came loose')" in message
    assert "alibi-nano-tuned-steps2-s1: not started, because alibi-nano-s1 failed, which it goes on from" in message
    assert "2 of 5 runs failed, 2 of 2 came to nothing (other, pair)" in message
    assert order == ["alibi-nano-s1", "none-nano-s1", "rope-nano-s1", "rope-nano-tuned-steps2-s1"]
    assert not (tmp_path / "claims").exists()

    monkeypatch.setattr(train, "train", original)
    saved = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claims-tiny/*/results.json")}
    results = reproduce.reproduce(["other", "pair"], request, [])
    assert len(saved) == 3 and {path: path.stat().st_mtime_ns for path in saved} == saved
    assert {name: len(item["rows"]) for name, item in results.items()} == {"other": 3, "pair": 3}
    out = capsys.readouterr().out
    assert "5 runs, 2 fine-tuned from others; 3 are done, 2 to train" in out
    assert "[1/2] alibi-nano-s1: validation perplexity" in out and "[2/2] alibi-nano-tuned-steps2-s1" in out


@pytest.mark.slow
def test_a_claim_that_cannot_be_measured_leaves_others_their_verdicts(tmp_path, two_claims, monkeypatch, one_thread):
    def measure(self, evidence):
        raise ZeroDivisionError("no targets")

    monkeypatch.setattr(Pair, "measure", measure)
    monkeypatch.setattr(Other, "measure", lambda self, evidence: Findings([{"arm": 1}]))
    with pytest.raises(BadInput, match=r"pair: ZeroDivisionError[^$]*all runs are there, 1 of 2 came"):
        reproduce.reproduce(["pair", "other"], reproduce_request(tmp_path, "[pair,other]", "seeds=1"), [])
    assert (tmp_path / "claims" / "other-tiny-s1" / "result.json").is_file()


def keep(question, trained):
    """A reading that is kept in a file, and then fails for one claim."""
    (run,) = trained["alibi"]
    folder = run.folder.parent.parent / "read"
    folder.mkdir(exist_ok=True)
    (folder / f"{question} {run.folder.name[-2:]}").write_text(str(os.getpid()))
    print("nobody wants to see this")
    assert question == "pair"


@pytest.mark.slow
def test_seeds_are_read_side_by_side_before_a_claim_is_judged(tmp_path, two_claims, capfd, one_thread):
    request = reproduce_request(tmp_path, "[pair,other]", "seeds=2", "launcher=joblib", "launcher.jobs=2")
    found = {}

    def conclude(question, trained):
        found[question] = {path.name: int(path.read_text()) for path in (tmp_path / "read").iterdir()}

    failures = engine.carry_out(plan_of(["pair", "other"], request), conclude, keep)[1]
    assert failures is None, "what a reading raises is for whoever concludes"
    assert all({f"{name} s1", f"{name} s2"} <= found[name].keys() for name in ("pair", "other"))
    assert os.getpid() not in found["other"].values()
    shown = capfd.readouterr().out
    assert re.search(r"^\[2/4\] \w+, seed \d, is read: \d+ s$", shown, re.M) and "nobody" not in shown


@pytest.mark.parametrize(
    ("status", "results", "said"),
    [
        ("", json.dumps(dict.fromkeys(RESULTS, "") | {"metrics": {"validation/perplexity": 2}}), "perplexity 2.000"),
        ('{"state": "done", "time": 1}', '{"name"', "its results.json is damaged"),
    ],
)
def test_a_damaged_file_of_a_run_ends_no_plan(tmp_path, two_claims, capsys, status, results, said):
    request = reproduce_request(tmp_path, "other", "seeds=1")
    (run, *_) = plan_of(["other"], request).runs.values()
    folder = RunFolder.of(run).path
    folder.mkdir(parents=True)
    with Progress([run]).watching([run]):
        (folder / "results.json").write_text(results)
        (folder / "status.json").write_text(status)
    assert f"[1/1] {run.name}: " in (out := capsys.readouterr().out) and said in out


def weights(folder) -> dict[str, dict]:
    result = {}
    for run in sorted(folder.glob("claims-tiny/*-s1")):
        (path,) = run.glob("checkpoints/step-*.ckpt")
        result[run.name] = torch.load(path, weights_only=True)["state_dict"]
    return result


RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray has its own environment: conf/launcher/ray.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", pytest.param("ray", marks=RAY)])
def test_every_launcher_leaves_the_weights_of_this_process(tmp_path, launcher, two_claims, monkeypatch, one_thread):
    """Its runs know the command they are for, and one that fails is told."""
    monkeypatch.setattr(launch, "threads", lambda *_: 1)
    monkeypatch.setattr(sys, "argv", ["pytest", "a word"])
    folders = {}
    for name in ("here", launcher):
        folders[name] = tmp_path / name
        request = reproduce_request(folders[name], "[pair,other]", "seeds=1", f"launcher={name}", "launcher.jobs=2")
        whole = plan_of(["pair", "other"], request)
        occupied = folders[name] / "claims-tiny" / "none-nano-s1"
        occupied.mkdir(parents=True)
        other = whole.runs["none-nano-s1"].model_copy(update={"steps": 3})
        (occupied / "config.json").write_text(json.dumps(other.model_dump(mode="json")))
        (occupied / "metrics.jsonl").write_text('{"step": 1}\n')  # what never took a step can be taken over
        runs = [whole.runs[f"{scheme}-nano-s1"] for scheme in ("rope", "none", "alibi")]
        failures = launch.launch(runs, whole.launcher, 2)
        assert list(failures) == ["none-nano-s1"] and "steps (3 there, 6 here)" in failures["none-nano-s1"]
        recorded = [json.loads(path.read_text()) for path in folders[name].glob("claims-tiny/*/environment.json")]
        assert [item["command"][-1] for item in recorded] == ["a word"] * 2 and COMMAND not in os.environ
        shutil.rmtree(occupied)
    ours, theirs = (weights(folder) for folder in folders.values())
    assert len(ours) == 2 and ours.keys() == theirs.keys()
    for name, state in ours.items():
        assert all(torch.equal(tensor, theirs[name][key]) for key, tensor in state.items()), name


def test_a_launcher_that_is_not_installed_is_told(tmp_path, two_claims):
    whole = plan_of(["pair"], reproduce_request(tmp_path, "pair", "seeds=1", "launcher.plugin=carrier_pigeon"))
    failures = launch.launch(whole.of(["pair"])[:1], whole.launcher, 1)
    assert "carrier_pigeon" in failures["rope-nano-s1"]


KILLABLE = """from conf.compose import command_line
from tests.test_plan import CLAIMS, Pair, reproduce
CLAIMS["pair"] = Pair
command_line("reproduce", reproduce.run_command)"""


@pytest.mark.slow
def test_killed_it_goes_on(tmp_path, two_claims, capsys, one_thread):
    words = ["claim=pair", *tiny_claims(tmp_path), "seeds=1"]
    process = command(*words, code=KILLABLE)

    def done() -> set:
        states = {path: json.loads(path.read_text())["state"] for path in tmp_path.glob("claims-tiny/*/status.json")}
        return {path.with_name("results.json") for path, state in states.items() if state == "done"}

    while not done():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    saved = {path: path.stat().st_mtime_ns for path in done()}
    assert 0 < len(saved) < 3
    reproduce.reproduce(["pair"], reproduce_request(tmp_path, "pair", "seeds=1"), [])
    assert (
        f"3 runs, 1 fine-tuned from others; {len(saved)} are done, {3 - len(saved)} to train" in capsys.readouterr().out
    )
    assert {path: path.stat().st_mtime_ns for path in saved} == saved
    assert len(list(tmp_path.glob("claims-tiny/*/results.json"))) == 3


@pytest.mark.slow
def test_claims_that_need_text_have_it_at_a_scale_of_chains(tmp_path):
    overrides = ["claim=all", "scale=pico", "seeds=1", f"runs={tmp_path}", "logger=none", "trainer=cpu"]
    request = validate(Request, compose_values("reproduce", overrides))
    for claim in CLAIMS.values():
        for runs in arms_of(claim(), request).values():
            needed = {"text": "sotu", "tasks": "tasks"}.get(claim.needs, "chains")
            assert {run.data.source for run in runs} == {needed}
    options = validate(Request, compose_values("reproduce", [*overrides, 'train=["data=files","data.train=a.txt"]']))
    (run, *_) = arms_of(CLAIMS["effective_window"](), options)["retrieving"]
    assert run.data.source == "files"
    options = validate(Request, compose_values("reproduce", [*overrides, "scale=nano", 'train=["data=chains"]']))
    for (run,) in arms_of(CLAIMS["convergence"](), options).values():  # the scale's tokenizer is set aside
        assert (run.data.source, run.model.name) == ("chains", "nano")
