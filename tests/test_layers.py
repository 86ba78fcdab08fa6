"""Plans by layer: what is read in which layer, windows on the fast path, and models that were trained before."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from conf.load import load_model
from models import attention
from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, Plan, base, build_position
from models.positions.frequencies import Geometric
from models.positions.layers import Layered
from tests.cases import CONF, HEADS, LAYERS, VOCABULARY, WIDTH, WINDOW, Case, tokens, vectors
from tests.lawbook import same
from tests.runs import tiny
from tests.test_training import equal, weights
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
CHOICES = sorted(path.stem for path in (CONF / "layers").glob("*.yaml"))


def build(plan: dict, position: dict | None = None, layers: int = LAYERS, extend: dict | None = None):
    position, extend = position or {"name": "rope"}, extend or {"name": "none"}
    scheme = SCHEMES[position["name"]].Knobs.model_validate(position)
    reading = EXTENSIONS[extend["name"]].Knobs.model_validate(extend)
    shape = Shape(name="tiny", layers=layers, heads=HEADS, width=WIDTH)
    return build_position(scheme, Geometric(), reading, shape.geometry(WINDOW), Plan.model_validate(plan))


@pytest.mark.parametrize(
    ("pattern", "layers", "expected"),
    [
        ("LLLG", 6, "LLLGLL"),
        ("G", 3, "GGG"),
        ("LG", 1, "L"),
        ("GL*G", 5, "GLLLG"),
        ("GL*G", 2, "GG"),
        ("L*G", 4, "LLLG"),
    ],
)
def test_a_pattern_repeats_or_fills_with_its_starred_letter(pattern, layers, expected):
    kinds = {letter: {} for letter in pattern if letter != "*"}
    assert "".join(Plan(pattern=pattern, kinds=kinds).order(layers)) == expected


@pytest.mark.parametrize(("window", "length"), [(1, 40), (7, 40), (8, 8), (9, 33), (16, 32), (40, 41), (64, 33)])
@pytest.mark.parametrize("rows", [1, 16])
def test_a_window_is_the_dense_mask(window, length, rows):
    """Of outputs and of gradients, in blocks of every size; q and k may be wider than v."""
    q, k, v = vectors(3, 2, HEADS, length, 6).unbind(0)
    inputs = [x.requires_grad_() for x in (torch.cat((q, q), dim=-1), torch.cat((k, k.flip(-1)), dim=-1), v)]
    back = torch.arange(length)[:, None] - torch.arange(length)
    heat = torch.linspace(0.5, 2, length, dtype=torch.float64)[:, None].expand(2, length, 1)
    scores = (inputs[0] / heat[:, None]) @ inputs[1].mT * 6**-0.5
    expected = scores.masked_fill((back < 0) | (back >= window), float("-inf")).softmax(-1) @ inputs[2]
    with patch.object(base, "ROWS_IN_WINDOW", rows):
        layer_view = build({"pattern": "L", "kinds": {"L": {"window": window}}}, {"name": "none"}).layer(0)
        ours = attention.causal_attention(*inputs, layer_view, prepare_layer(layer_view), heat, None, None)
    same(ours, expected, 1e-12)
    seed = vectors(*expected.shape)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        same(one, other, 1e-12)


def prepare_layer(layer_view):
    return (None,) * LAYERS


@pytest.mark.parametrize("name", ["rope", "pope", "alibi", "fire", "cope", "fox", "grape_ap"])
@pytest.mark.parametrize("separator", [None, 3])
def test_a_window_of_any_scheme_is_the_dense_mask(name, separator, monkeypatch):
    """Also a few queries at a time, with documents apart, in training and read only."""
    length, text, near = 3 * WINDOW, tokens(3 * WINDOW, batch=2), 5
    model = Case(name, plan=Plan(pattern="LG", kinds={"L": {"window": near}, "G": {}})).model().double()
    whole, model.separator = Case(name).model().double(), separator
    whole.separator = separator
    whole.load_state_dict(
        {key.replace("position.own.", "position."): value for key, value in model.state_dict().items()}
    )
    whole.blocks[0].attention.register_forward_pre_hook(lambda module, given: masked(given, near, length))
    expected = torch.autograd.grad(whole(text, targets=text)[0], whole.embedding.weight)[0]
    monkeypatch.setattr(base, "ROWS_IN_WINDOW", 4)
    for rows in (128, 7):
        monkeypatch.setattr(base, "ROWS_IN_TRAINING", rows)
        same(torch.autograd.grad(model(text, targets=text)[0], model.embedding.weight)[0], expected, 1e-9)
    with torch.no_grad():
        for scores in (2**22, 7 * length):
            monkeypatch.setattr(base, "SCORES_AT_ONCE", scores)
            same(model(text), whole(text), 1e-9)


def masked(given: tuple, window: int, length: int) -> tuple:
    """The arguments of attention with a window in the mask."""
    *rest, mask = given
    seen = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    return *rest, seen if mask is None else mask & seen


def test_a_window_makes_nothing_of_the_size_of_all_pairs():
    """No tensor on the fast path grows with T²: at twice the length, the largest has twice the numbers."""
    largest, real = [], F.scaled_dot_product_attention
    for length in (1024, 2048):
        seen: list[int] = []

        def spy(q, k, v, attn_mask=None, seen=seen, **matching):
            given = [q, k, v] if attn_mask is None else [q, k, v, attn_mask]
            seen += [x.numel() for x in given]
            return real(q, k, v, attn_mask=attn_mask, **matching)

        layer_view = build({"pattern": "L", "kinds": {"L": {"window": 32}}}, {"name": "none"}).layer(0)
        with patch.object(attention.F, "scaled_dot_product_attention", spy):
            q = vectors(1, HEADS, length, 8, dtype=torch.float32)
            attention.causal_attention(q, q, q, layer_view, prepare_layer(layer_view), 1.0, None, None)
        largest.append(max(seen))
    assert largest[1] < 2.5 * largest[0]


def test_kinds_that_differ_in_their_window_alone_share_what_they_learn():
    shared = build({"pattern": "LG", "kinds": {"L": {"window": 8}, "G": {}}}, {"name": "t5"})
    assert [name for name, _ in shared.named_parameters()] == ["own.table"]
    apart = build({"pattern": "LG", "kinds": {"L": {"window": 8, "extend": "none"}, "G": {}}}, {"name": "t5"})
    assert [name for name, _ in apart.named_parameters()] == ["L.table", "own.table"]


def test_an_extension_reaches_the_layers_that_leave_it_open():
    plan = {"pattern": "LG", "kinds": {"L": {"extend": "none"}, "G": {}}}
    position, positions = build(plan, extend={"name": "interpolate", "factor": 4.0}), torch.arange(8.0)
    local, whole = position.prepare(position.extension.positions(positions))
    plain = Case("rope").position().prepare(positions)
    assert torch.equal(local[0], plain[0])
    assert torch.equal(whole[0], Case("rope").position().prepare(positions / 4)[0])
    sharp = build(plan, extend={"name": "yarn", "factor": 4.0})
    length = torch.tensor([[64.0]])
    assert sharp.layer(0).temperature_at(length) == 1 and sharp.layer(1).temperature_at(length) < 1


def test_rows_are_sharpened_in_every_layer_whatever_else_it_can_take():
    """Layers without positions have no frequencies for YaRN to change, and scores all the same."""
    plan = {"pattern": "NR", "kinds": {"N": {"position": "none"}, "R": {}}}
    for extend in ("none", "yarn"):
        knobs = {"name": extend, "rows": "su", **({"factor": 4.0} if extend == "yarn" else {})}
        position = build(plan, extend=knobs)
        for layer in (0, 1):
            sharpness = position.layer(layer).sharpness_at(torch.arange(4.0 * WINDOW), layer)
            assert sharpness is not None and sharpness.max() > 1, (extend, layer)


def test_a_mixture_is_a_plan():
    """With the names that its parameters always had."""
    mixture = Case("mixture", {"first": "t5", "second": "cope", "every": 2}).model()
    assert isinstance(mixture.position, Layered)
    assert [name for name, _ in mixture.position.named_parameters()] == ["first.table", "second.table"]
    plan = Plan(pattern="FS", kinds={"F": {"position": "t5"}, "S": {"position": "cope"}})
    planned, names = (
        Case("rope", plan=plan).model(),
        {"position.F.": "position.first.", "position.S.": "position.second."},
    )
    weights = mixture.state_dict()
    for ours, theirs in names.items():
        weights = {key.replace(theirs, ours): value for key, value in weights.items()}
    planned.load_state_dict(weights)
    assert torch.equal(planned(tokens(20)), mixture(tokens(20)))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_the_group_makes_a_model(choice):
    config = compose([f"layers={choice}"])
    assert config.layers.name == choice and config.name.endswith(f"-{choice}-s1")
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    if choice == "alike":
        assert "layers" not in config.model_dump()  # runs from before there were plans compare equal


@pytest.mark.slow
def test_what_a_scheme_learned_is_read_by_another_plan(tmp_path):
    done = train(compose(tiny(tmp_path, "position=t5", "name=a", "steps=2")))
    keys = [word for word in tiny(tmp_path) if not word.startswith(("model.", "data.", "window=", "steps="))]
    local = train(compose([*keys, f"checkpoint={done.checkpoint}", "layers=sliding", "steps=1", "name=b"]))
    assert load_model(local.checkpoint)[0].state_dict().keys() > {"position.own.table"}
    whole = train(compose([*keys, f"checkpoint={local.checkpoint}", "layers=alike", "steps=1", "name=c"]))
    assert load_model(whole.checkpoint)[0].state_dict().keys() > {"position.table"}


@pytest.mark.slow
def test_a_planned_model_trains_comes_back_and_is_fine_tuned(tmp_path):
    words = tiny(tmp_path, "layers=gemma3", "layers.pattern=LG", "layers.kinds.L.window=8")
    done = train(compose([*words, "name=a"]))
    model, config, _ = load_model(done.checkpoint, {"name": "interpolate", "factor": 2.0})
    assert model.position.layer(0).sliding_window == 8 and model.position.layer(1).sliding_window is None
    keys = [word for word in words if not word.startswith(("model.", "data.", "window=", "layers"))]
    tuned = compose([*keys, f"checkpoint={done.checkpoint}", "name=b"])
    assert tuned.layers == config.layers
    wider = compose([*keys, f"checkpoint={done.checkpoint}", "layers.kinds.L.window=16", "name=c"])
    assert wider.layers.kinds["L"].window == 16 and wider.layers.kinds["G"] == config.layers.kinds["G"]
    alike = train(compose([*keys, f"checkpoint={done.checkpoint}", "layers=alike", "steps=1", "name=d"]))
    assert not equal(weights(alike), weights(done)) and load_model(alike.checkpoint)[1].layers.alike


SENTENCES = {
    ("layers.pattern=LLX",): "pattern=LLX: X is none of kinds, L, G",
    ("layers.pattern=L",): "kinds.G stands nowhere in pattern=L",
    ("layers.pattern='L*L*G'",): "which a star may follow",
    ("layers.pattern='LLL*GGG'",): "needs at least 5 layers, not 2",
    ("layers.kinds.L.window=0",): "layers.kinds.L.window=0",
    ("layers.kinds.L.position=sinusoidal",): "sinusoidal is no scheme that acts in single layers; allowed: none",
    ("layers.kinds.G.extend=yarn",): "layers.kinds.G.extend: yarn cannot take factor",
    ("+layers.kinds.L.sight=3",): "layers.kinds.L.sight=3 is not a setting; allowed beside it: window",
    ("position=sinusoidal",): "position=sinusoidal is added to the embeddings once",
    ("position=alibi",): "frequencies=geometric cannot apply: position=alibi has no frequencies",
    ("frequencies=linear",): "frequencies=linear cannot apply: no layer of position=rope takes it",
    ("layers=swan", "extend=self_extend", "extend.factor=2"): "extend=self_extend changes plain rotation, and no layer",
    ("layers=gemini",): "layers=gemini is not known; allowed: alike",
    ("layers=local_global", "extend=yarn", "extend.factor=2"): "extend=yarn changes frequencies, and no layer",  # LL
}


@pytest.mark.parametrize("overrides", SENTENCES, ids=" ".join)
def test_what_cannot_be_is_one_sentence(tmp_path, overrides):
    first = [] if overrides[0].startswith("layers=") else ["layers=gemma3"]
    with pytest.raises(BadInput) as refusal:
        compose(tiny(tmp_path, *first, *overrides))
    assert SENTENCES[overrides] in str(refusal.value) and "\n" not in str(refusal.value)


def test_layers_beyond_those_of_a_mixture_still_have_their_weights():
    """In a model of fewer layers than `every`, the second scheme has no layer, and its parameters are there."""
    position = Case("mixture", {"first": "rope", "second": "t5", "every": 4}).position()
    model = GPT(Shape(name="tiny", layers=LAYERS, heads=HEADS, width=WIDTH), VOCABULARY, position, seed=0)
    assert "position.second.table" in model.state_dict()
