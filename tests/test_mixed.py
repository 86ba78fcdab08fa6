"""Mixed windows: chunks of the original window as first trained, whole windows with the extension, one loss."""

import json

import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from conf.load import load_model
from data.windows import Windows
from models.checkpoint_files import load_checkpoint
from models.language_model import LanguageModel
from models.positions.seen import Mixed
from tests.cases import VOCABULARY, WINDOW, Case, tokens
from tests.runs import finish, tiny, torchrun
from tests.test_training import compiled_graphs, equal, run, weights
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

FACTOR = 3
SWITCH = ("switch", {"over": {"name": "yarn"}, "factor": float(FACTOR)})
CASES = [Case("rope", read=SWITCH), Case("sinusoidal", read=SWITCH), Case("mixture", read=SWITCH)]
CASES += [Case(name, read=("switch", SWITCH[1] | {"over": "interpolate"})) for name in ("learned", "t5", "rope")]
BATCH = tokens(FACTOR * WINDOW + 1, batch=4)


def gradients(model, batch: torch.Tensor, share: float | None = None, index: int = 0, separator: int | None = None):
    """The loss of a training step and its gradients; share None: of a run that knows nothing of mixed windows."""
    model.separator = separator
    seen = None if share is None else Mixed(share=share)
    module = LanguageModel(model, None, 1, torch.ones(VOCABULARY), {}, seen)
    module.zero_grad()
    loss = module.training_step(batch, index)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(ours, theirs):
    assert torch.equal(ours[0], theirs[0]) and equal(ours[1], theirs[1])


def by_hand(rows: torch.Tensor) -> torch.Tensor:
    """Windows (n, s·L + 1) → chunks (n·s, L + 1), in the order of the text."""
    return torch.stack([row[start : start + WINDOW + 1] for row in rows for start in range(0, FACTOR * WINDOW, WINDOW)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case}-{case.read[1]['over']}")
def test_no_share_is_long_training_and_all_of_it_is_training_as_at_first(case):
    assert_same(gradients(case.model(), BATCH, 0.0), gradients(case.model(), BATCH))
    name, knobs = case.read[1]["over"], {"factor": case.read[1]["factor"]}
    if isinstance(name, str):  # as the other extension alone would, whose temperature is one
        assert_same(gradients(case.model(), BATCH, 0.0), gradients(case.model(extend=name, **knobs), BATCH))
    assert_same(gradients(case.model(), BATCH, 1.0), gradients(case.model(extend="none"), by_hand(BATCH)))


@pytest.mark.parametrize("separator", [None, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case}-{case.read[1]['over']}")
def test_a_mixed_step_is_the_mean_over_all_targets(case, separator):
    loss, ours = gradients(case.model(), BATCH, 0.5, separator=separator)
    short, long = BATCH[1::2], BATCH[::2]  # of four, the second and the fourth are cut
    first = gradients(case.model(extend="none"), by_hand(short), separator=separator)
    name = case.read[1]["over"] if isinstance(case.read[1]["over"], str) else case.read[1]["over"]["name"]
    extended = case.model(extend=name, factor=float(FACTOR))
    if separator is not None:  # a window of short documents alone is no long text
        extended = case.model()
    second = gradients(extended, long, separator=separator)
    torch.testing.assert_close(loss, (first[0] + second[0]) / 2)
    for key, gradient in ours.items():
        torch.testing.assert_close(gradient, (first[1][key] + second[1][key]) / 2, rtol=1e-4, atol=1e-6)


def nll(model, windows: torch.Tensor) -> torch.Tensor:
    """Windows (B, T + 1) → the negative log-likelihood of every target, (B, T)."""
    return F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none")


def test_nothing_passes_from_one_chunk_to_the_next():
    case, changed = CASES[0], BATCH[1:2].clone()
    module = LanguageModel(case.model(), None, 1, torch.ones(VOCABULARY), {}, Mixed(share=1.0))
    chunks, rest = module.seen.cut(changed, 0, WINDOW)
    assert len(rest) == 0
    before = nll(module.gpt, chunks)
    changed[0, : WINDOW // 2] = (changed[0, : WINDOW // 2] + 1) % VOCABULARY
    after = nll(module.gpt, module.seen.cut(changed, 0, WINDOW)[0])
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])
    for chunk in range(FACTOR):  # and back: of a chunk's loss, no other chunk's inputs have a gradient
        stream = module.gpt.embedding.weight.detach()[chunks[:, :-1]].requires_grad_()
        hook = module.gpt.embedding.register_forward_hook(lambda *_, stream=stream: stream)
        nll(module.gpt, chunks)[chunk].sum().backward()
        hook.remove()
        reached = stream.grad.abs().sum(dim=(1, 2)) > 0
        assert reached.tolist() == [other == chunk for other in range(FACTOR)]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0])
def test_the_same_windows_are_cut_however_a_step_is_divided_and_every_batch_has_its_share(share):
    seen, windows = Mixed(share=share), Windows(torch.arange(10_000).numpy(), 12, 6, seed=1)

    def cut(step: int, ranks: int, accumulate: int) -> list[int]:
        """The first tokens of the chunks that a step reads."""
        parts = Windows(torch.arange(10_000).numpy(), 12, 6 // accumulate, seed=1)
        result = []
        for index in range(step * accumulate, (step + 1) * accumulate):
            for rank in range(ranks):
                batch = parts.batch(index, rank, ranks)
                chunks, rest = seen.cut(batch, (index * ranks + rank) * len(batch), 4)
                assert len(chunks) % 3 == 0 and len(chunks) // 3 + len(rest) == len(batch)
                assert (chunks[:, -1] - chunks[:, 0] == 4).all() and chunks.shape[1] == 5
                result += chunks[:, 0].tolist()
        return result

    assert windows.batch(0).shape == (6, 13)
    for step in range(20):
        whole = cut(step, 1, 1)
        assert abs(len(whole) / 3 - 6 * share) < 1
        assert all(cut(step, *divided) == whole for divided in ((2, 1), (1, 3), (3, 2), (6, 1)))


def tuned_words(tmp_path, base, *more: str) -> list[str]:
    words = tiny(tmp_path, f"checkpoint={base.checkpoint}", "extend=switch", "extend.factor=2", *more)
    words = [word for word in words if not word.startswith(("model.", "data.", "window="))]
    return [*words, "window=64", "seen=mixed"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return run(tmp_path_factory.mktemp("base"), "name=base", "steps=2")


@pytest.mark.slow
def test_short_and_long_windows_are_compiled_once(tmp_path, base, monkeypatch):
    """However many of a batch are cut."""
    more = ["trainer.compile=true", "steps=8", "batch=5", "validate_every=2", "name=compiled"]
    words = tuned_words(tmp_path, base, *more)
    graphs = compiled_graphs(monkeypatch, lambda: train(compose(words), words))
    assert 1 <= graphs[0] <= graphs[2] == graphs[-1]


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_is_read_as_it_was_tuned(tmp_path, base):
    words = tuned_words(tmp_path, base, "name=a", "seen.share=0.3", "trainer.accumulate=2")
    whole = train(compose([*words, "group=whole"]), words)
    first = compose([*words, "group=parts"])
    folder = train(first, words).folder  # a run that lost its end goes on
    for path in folder.glob("checkpoints/step-*.ckpt"):
        if int(path.stem[5:]) > 2:
            path.unlink()
    for name in ("results.json", "status.json"):
        (folder / name).unlink()
    assert equal(weights(train(first, words)), weights(whole))
    together = train(compose([*words, "group=one", "trainer.accumulate=1"]), words)
    assert all(torch.allclose(weights(whole)[key], value, atol=2e-4) for key, value in weights(together).items())
    contiguous = [word for word in words if not word.startswith("seen")]
    plain = train(compose([*contiguous, "group=plain"]), words)
    assert not equal(weights(plain), weights(whole))

    model, config, _ = load_model(whole.checkpoint)
    assert config.extend.label == "yarn2-switch"
    short, long = (torch.arange(length)[None] % 257 for length in (32, 33))
    as_trained, extended = (load_model(whole.checkpoint, extend)[0] for extend in ({"name": "none"}, YARN))
    assert torch.equal(model(short), as_trained(short)) and torch.allclose(model(long), extended(long), atol=1e-5)
    assert not torch.allclose(model(long), as_trained(long), atol=1e-3)


YARN = {"name": "yarn", "factor": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(tmp_path, base, trainer):
    """One window for each process at a time, of which one is cut and the other is not."""
    words = tuned_words(tmp_path, base, "name=a", "batch=4", "steps=3", "checkpoint_every=3", "trainer.accumulate=2")
    one = weights(train(compose([*words, "group=one"]), words))
    ends = list(map(finish, torchrun(2, *words, "group=two", f"trainer={trainer}")))
    assert all(status == 0 for status, _, _ in ends), ends
    folder = tmp_path / "two" / "a"
    last = folder / json.loads((folder / "results.json").read_text())["checkpoint"]
    two = load_checkpoint(last)["state_dict"]
    assert all(torch.allclose(one[key], value, atol=2e-4) for key, value in two.items())


SENTENCES = {
    ("window=48",): "window=48 must be two or more of them",
    ("window=32",): "chunks of the original window of 32 tokens, so window=32",
    ("extend=none",): "needs an extension that reads texts by their length",
    ("extend=yarn",): "extend=yarn reads short and long ones alike",
    ("seen.share=1.5",): "seen.share=1.5",
    ("data.retrieval.fraction=0.5",): "seen=mixed would cut keys from questions",
}


@pytest.mark.parametrize("overrides", SENTENCES, ids=" ".join)
def test_what_cannot_be_is_one_sentence(tmp_path, base, overrides):
    words = tuned_words(tmp_path, base)
    if overrides[0].startswith("extend"):
        words = [word for word in words if not word.startswith("extend")]
    if overrides[0].startswith("data"):
        words += ["data.tokenizer.kind=bytes", "data.tokenizer.vocabulary=null"]
    with pytest.raises(BadInput) as refusal:
        compose([*words, *overrides])
    assert SENTENCES[overrides] in str(refusal.value) and "\n" not in str(refusal.value)
    compose([word for word in tuned_words(tmp_path, base, "extend.over=interpolate")])


def test_extensions_that_switch_by_themselves_need_no_switch(tmp_path, base):
    for words in (["extend=dynamic_ntk"], ["extend=longrope", f"extend.short={[1] * 8}"]):
        saved = [word for word in tuned_words(tmp_path, base) if not word.startswith("extend")]
        assert compose([*saved, *words]).extend.name == words[0].removeprefix("extend=")
