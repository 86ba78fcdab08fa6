"""Runs on data=tasks: what is learned and counted, when they stop, and experiments.tasks from plan to page."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from conf.base import BadInput
from conf.compose import compose_values
from conf.run_folder import differences
from conf.validation import validate
from data.corpus import prepare
from data.tasks import TASKS, answered, longest_document
from data.training import validation_windows
from experiments.lab.measure.exact import read_ranges
from experiments.lab.statistics import wilson
from experiments.tasks.accuracy import Accuracy, accuracies, fitted
from experiments.tasks.arms import Request, arm_overrides, task_settings
from experiments.tasks.published import LENGTHS, PUBLISHED, published_share
from experiments.tasks.report import sentences, summary_rows, table
from experiments.tasks.study import describe_plan, make_task_plan, run_command
from models.language_model import LanguageModel, exact_rows
from tests.runs import CACHE, ROOT, tiny
from tests.test_tasks import task
from train import build_model, compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

SORT = ["data=tasks", "data.lengths=[6,9,12]", "data.documents={train: 64, validation: 9, test: 4}", "window=14"]


def sorting(folder, *overrides: str):
    """The Config of a tiny run that sorts."""
    words = [word for word in tiny(folder) if not word.startswith(("data.", "cache=", "window="))]
    return compose([*words, f"cache={folder}", *SORT, "name=sorting", *overrides])


def module_of(config, corpus) -> LanguageModel:
    record = {"separator": corpus.separator}
    return LanguageModel(build_model(config), config.optimizer, 5, None, record, answered=corpus.answered)


def test_answers_alone_are_learned_and_scored(tmp_path):
    config = sorting(tmp_path)
    corpus = prepare(config.data, tmp_path, progress=False)
    module, rows = module_of(config, corpus), validation_windows(corpus, config.window, 9)
    counted = answered(corpus.task, rows)
    logits = module.gpt(rows[:, :-1])
    nll = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    assert module.training_step(rows, 0).item() == pytest.approx(nll[counted].mean().item(), rel=1e-5)
    _, each = module.gpt(rows[:, :-1], targets=rows[:, 1:], counted=counted)
    torch.testing.assert_close(each, nll * counted)
    nats, tokens, width, exact, count = module.score(rows).tolist()
    assert (tokens, width, count) == (counted.sum().item(), 0, 9)
    assert nats == pytest.approx(nll[counted].double().sum().item(), rel=1e-5)
    assert exact == exact_rows(logits, rows[:, 1:], counted).sum().item()


def test_padding_and_questions_have_no_gradient(tmp_path):
    """What stands behind an answer changes nothing of what is learned."""
    config = sorting(tmp_path)
    corpus = prepare(config.data, tmp_path, progress=False)
    rows = validation_windows(corpus, config.window, 9)
    longer = torch.cat((rows, torch.full((9, 5), corpus.separator)), dim=1)
    gradients = []
    for batch in (rows, longer):
        module = module_of(config, corpus)
        module.training_step(batch, 0).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.gpt.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_row_is_exact_where_every_answer_is():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 3, 4, generator=generator), torch.randint(0, 4, (50, 3), generator=generator)
    answers = torch.rand(50, 3, generator=generator) < 0.5
    by_hand = [
        all(logits[b, t].argmax() == targets[b, t] for t in range(3) if answers[b, t]) for b in range(50)
    ]  # fmt: skip
    assert exact_rows(logits, targets, answers).tolist() == by_hand
    assert 0 < sum(by_hand) < 50


class Reader:
    """A model that answers a question only if its first token is even, and else gets the last answer wrong."""

    def __init__(self, settings):
        self.settings = settings

    def eval(self):
        pass

    def __call__(self, tokens):
        end, separator = 12 + 1, 12 + 2
        after = torch.where((tokens == end).any(1), separator, end)  # the last target, which is not read
        row = torch.cat((tokens, after[:, None]), dim=1)
        logits = F.one_hot(row[:, 1:], separator + 1).float()
        counted = answered(self.settings, row)
        last = counted.shape[1] - 1 - counted.flip(1).int().argmax(1)
        wrong = tokens[:, 1] % 2 == 1
        logits[wrong, last[wrong]] = F.one_hot(torch.tensor(0), separator + 1).float()
        return logits


def test_the_test_split_is_counted_by_range_as_one_by_one(tmp_path):
    settings = task("unique_copy", lengths=[6, 9, 12], documents={"train": 1, "validation": 1, "test": 30})
    corpus = prepare(settings, tmp_path, progress=False)
    ranges = read_ranges(Reader(settings), corpus, "cpu", "float32")
    documents = corpus.split("test")
    assert [(row["low"], row["high"]) for row in ranges] == [(1, 6), (7, 9), (10, 12)]
    for place, row in enumerate(ranges):
        some = [documents[30 * place + i] for i in range(30)]
        assert row["lengths"] == [(len(document) - 3) // 2 for document in some]
        assert row["exact"] == [int(document[1] % 2 == 0) for document in some]


@pytest.mark.slow
def test_a_run_ends_once_all_answers_are_exact_and_resumes_to_the_same_end(tmp_path, monkeypatch):
    from models import progress

    config = sorting(tmp_path, "stop_at=1.0", "steps=9", "validate_every=3", "checkpoint_every=2")
    shares = iter((0.5, 1.0))
    monkeypatch.setattr(
        progress, "summarise", lambda *sums: {"nll": 1.0, "perplexity": 3.0, "exact": next(shares)}
    )  # fmt: skip
    result = train(config)
    assert result.metrics["step"] == 6 and result.metrics["validation/exact"] == 1
    assert result.checkpoint.name == "step-00000006.ckpt"
    for name in ("results.json", "status.json"):  # killed after its last checkpoint
        (result.folder / name).unlink()
    again = train(config)
    assert again.checkpoint == result.checkpoint and again.metrics["step"] == 6


def test_how_often_it_is_validated_is_what_a_run_that_may_end_early_is(tmp_path):
    def different(*overrides):
        often, seldom = (sorting(tmp_path, f"validate_every={every}", *overrides) for every in (2, 3))
        assert often.name == seldom.name
        return differences(often.model_dump(mode="json"), {}, seldom.model_dump(mode="json"), {})

    assert different("stop_at=1.0") == ["another validate_every (2 there, 3 here)"]
    assert different() == []


def test_a_step_of_answers_is_one_pass(tmp_path):
    """Passes have answers of different lengths, and their means would weigh alike."""
    with pytest.raises(BadInput, match=r"trainer\.accumulate x devices x nodes is 2, and must be 1"):
        train(sorting(tmp_path, "trainer.accumulate=2"))


@pytest.mark.slow
def test_prepared_folders_are_asked_for_answers(tmp_path):
    sorter = train(sorting(tmp_path, "steps=1"))
    task_folder = prepare(sorting(tmp_path).data, tmp_path, progress=False).folder
    text_folder = prepare(compose(tiny(tmp_path)).data, Path(CACHE), progress=False).folder
    words = [word for word in tiny(tmp_path, "name=p") if not word.startswith(("data.", "window="))] + ["data=prepared"]
    with pytest.raises(BadInput, match=r"stop_at=0\.9 needs answers"):
        train(compose([*words, f"data.folder={text_folder}", "stop_at=0.9", "window=14"]))
    words = [word for word in words if not word.startswith("model.")] + [f"checkpoint={sorter.checkpoint}"]
    words += ["extend=switch", "extend.over=yarn", "extend.factor=2"]
    with pytest.raises(BadInput, match="seen=mixed would cut answers"):
        train(compose([*words, f"data.folder={task_folder}", "seen=mixed", "window=28"]))


@pytest.mark.slow
def test_a_run_goes_to_its_end_without_stop_at(tmp_path):
    result = train(sorting(tmp_path, "steps=4", "validate_every=2"))
    assert result.metrics["step"] == 4 and 0 <= result.metrics["validation/exact"] < 1


def test_windows_and_offsets_reach_as_far_as_the_longest_range():
    for name in TASKS:
        settings = task_settings(name, LENGTHS)
        words = dict(word.split("=") for word in arm_overrides(name, "learned+offset"))
        window = int(words["window"])
        assert window == longest_document(settings, 0) - 1 and "data.lengths" not in words
        start = int(words["seen.longest"]) - window  # the last offset
        assert start >= longest_document(settings, 2) - 1 and words["position.rows"] == words["seen.longest"]
        assert arm_overrides(name, "rope") == [f"data.task={name}", "position=rope", f"window={window}"]
    assert "data.lengths=[6,9]" in arm_overrides("sort", "rope", (6, 9))


def test_the_scales_name_tasks_that_there_are_and_settings_that_train_has():
    for path in (ROOT / "conf/scale").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        for name, words in values.get("tasks", {}).items():
            assert name in TASKS
            compose(["data=tasks", *values["corpora"]["tasks"], *words, *arm_overrides(name, "none"), "logger=none"])


def request(folder, *overrides: str) -> Request:
    return validate(Request, compose_values("tasks", small(folder, *overrides)))


def small(folder, *overrides: str) -> list[str]:
    """Overrides of experiments.tasks that keep it to seconds, everything below `folder`."""
    words = ["scale=tiny", "tasks=[sort,flip_flop]", "schemes=[none,learned+offset]", "lengths=[6,9,12]", "seeds=2"]
    said = {override.split("=")[0] for override in overrides}
    words = [word for word in words if word.split("=")[0] not in said]
    places = [f"runs={folder}", f"cache={folder}/cache", "logger=none", "trainer=cpu", "trainer.progress=false"]
    return [*words, *places, *overrides]


@pytest.mark.slow
def test_the_plan_has_a_run_for_every_task_scheme_and_seed_and_a_price(tmp_path):
    plan = make_task_plan(request(tmp_path, "schemes=all", "tasks=[sort]", "seeds=1", "train=['steps=5']"))
    names = {run.position.name for run in plan.runs.values()}
    assert len(names) == len(plan.runs) and {"learned", "rope", "fox"} <= names
    assert {run.steps for run in plan.runs.values()} == {5}
    (learned,) = plan.arms["sort"]["learned+offset"]
    assert (learned.seen.name, learned.seen.longest, learned.position.rows) == ("offset", 14 + 27, 14 + 27)
    assert learned.name == "sort-learned-offset-steps5-lengths6_9_12-s1"
    text = describe_plan(plan, request(tmp_path, "schemes=all", "tasks=[sort]", "seeds=1"))
    assert "at most: a run ends once all validation answers are exact" in text and "It takes about" in text
    assert f"{len(names)} arms, {len(names)} runs, 0 done" in text


@pytest.mark.slow
def test_from_plan_to_page_and_read_back(tmp_path, capsys):
    words = small(tmp_path)
    for turn in (1, 2):
        run_command(compose_values("tasks", words), words)
        out = capsys.readouterr().out
        assert ("of the answers exact after 6 steps" in out) == (turn == 1)
        assert ("read back" in out) == (turn == 2) and ("All of it is there already" in out) == (turn == 2)
    (folder,) = (tmp_path / "tasks-tiny").glob("tasks-*")
    assert {path.name for path in folder.iterdir()} == {
        "table.txt", "results.json", "summary.json", "figure.png", "figure.svg",
    }  # fmt: skip
    summary, results = (json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "results"))
    assert len(summary["rows"]) == 2 * 2 * 3 and "answers" not in summary
    assert summary["steps"]["sort"] == {"none": [6, 6], "learned+offset": [6, 6]}
    for row in summary["rows"]:
        (answers,) = [one for one in results["answers"][row["task"]][row["scheme"]] if one["high"] == row["high"]]
        assert row["exact"] == np.mean(answers["exact"]) and np.shape(answers["exact"]) == (2, 6)
    assert "learned+offset" in (folder / "table.txt").read_text()


def test_learned_positions_need_an_offset(tmp_path):
    with pytest.raises(BadInput, match=r"take learned\+offset"):
        request(tmp_path, "schemes=[none,learned]")
    with pytest.raises(BadInput, match=r"schemes=ropee\+offset is not known; allowed: .*, all"):
        request(tmp_path, "schemes=[ropee+offset]")
    with pytest.raises(BadInput, match=r"schemes=all\+offset is not known"):
        request(tmp_path, "schemes=[all+offset]")
    every = request(tmp_path, "schemes=[all]").all_schemes
    assert request(tmp_path, "schemes=[all,rope+offset]").all_schemes == [*every, "rope+offset"]
    with pytest.raises(BadInput, match="train=data=chains is not the same for every run"):
        request(tmp_path, "train=['data=chains']")


def ranges_of(*shares: float, seeds: int = 2, count: int = 200) -> list[Accuracy]:
    """Accuracies of so many seeds alike, by range."""
    parts = []
    for (low, high), share in zip(((1, 50), (51, 100), (101, 150)), shares, strict=True):
        exact = np.tile((np.arange(count) < share * count).astype(int), (seeds, 1))
        parts.append(Accuracy(low, high, low + np.arange(count) % 50, exact))
    return parts


def test_shares_are_counted_with_intervals():
    readings = [
        {"ranges": [{"low": 1, "high": 50, "lengths": [3, 9, 10, 11], "exact": exact}]}
        for exact in ([1, 1, 0, 0], [1, 0, 1, 1])
    ]
    (accuracy,) = accuracies(readings)
    assert accuracy.by_seed == [0.5, 0.75] and accuracy.pooled == wilson(2.5, 4)
    assert accuracy.bins() == [(5.5, wilson(2, 3)), (15.5, wilson(0.5, 1))]  # 1 to 10, 11 to 20
    assert ranges_of(0.9, 0.9, 0.9, seeds=3)[0].pooled == wilson(180, 200)  # who fail at the same know no more
    assert accuracy.of([1]).pooled == wilson(3, 4) and fitted(accuracy) == []
    over = accuracy.over_seeds
    assert 0 <= over.low <= accuracy.pooled.low and accuracy.pooled.high <= over.high <= 1
    assert fitted(ranges_of(1, 0, 0)[0]) == [0, 1] and fitted(ranges_of(0.98, 0, 0)[0]) == []
    assert ranges_of(1, 1, 0, seeds=1)[2].over_seeds == wilson(0, 200)


def test_tables_and_sentences_say_who_reads_on_and_what_the_paper_had():
    measured = {"sort": {"learned+offset": ranges_of(1, 1, 0.95), "none": ranges_of(0.9, 0.5, 0.0)}}
    row = next(row for row in summary_rows(measured) if row["high"] == 150)
    assert row["published"] == PUBLISHED["sort"]["learned+offset"].exact[2] and row["by_seed"] == [0.95, 0.95]
    assert "99.4" in table(measured) and "95.0-95.0" in table(measured)
    assert sentences(measured) == (
        "sort: at 101 to 150 tokens more than 90% exact: learned+offset (95.0%). "
        "Not 99% exact in the range of training, by some seed: none."
    )
    assert published_share("sort", "none", 1, 100) == 0.9981
    assert published_share("sort", "none", 1, 99) is None and published_share("mqar", "none", 0, 50) is None


@pytest.mark.slow
def test_positions_beyond_the_window_are_read_as_trained(tmp_path):
    """A learned table reads longer questions from its start; without more rows it says where it ends."""
    from experiments.lab.measure.exact import measure_exact

    learned = ["position=learned", "steps=2", "seen=offset", "seen.longest=41", "name=learned"]
    result = train(sorting(tmp_path, *learned, "position.rows=41"))
    reading = measure_exact(result.checkpoint, str(tmp_path))
    assert [row["high"] for row in reading["ranges"]] == [6, 9, 12]
    with pytest.raises(BadInput, match="learned positions end at 14, and position"):
        train(sorting(tmp_path, *learned[:-1], "name=short"))


def test_a_checkpoint_of_no_task_has_no_exact_answers(monkeypatch):
    from experiments.lab.measure import exact

    subject = SimpleNamespace(corpus=SimpleNamespace(task=None, name="sotu"))
    monkeypatch.setattr(exact, "open_subject", lambda *_: subject)
    with pytest.raises(BadInput, match="data=sotu, which is no task"):
        exact.measure_exact("a.ckpt", ".cache")
