"""More historical bugs, in the schemes beside RoPE: each is injected, and the laws that exist to see it must fail."""

import math

import pytest
import torch
import torch.nn.functional as F

import models.attention
from models.positions.base import Differences, Layer
from models.positions.bias import FIRE, T5, ALiBi, Kerple, distances
from models.positions.contextual import CoPE
from models.positions.embed import Binary, Learned
from models.positions.fourier import FoPE
from models.positions.gated import FoX, GrapeAP
from models.positions.mixture import Mixture
from models.positions.pairs import rotate_pairs
from models.positions.polar import PoPE
from models.positions.rotate import LearnedRoPE, PRoPE, XPos
from tests.cases import Case
from tests.laws import LAWS

pytestmark = pytest.mark.usefixtures("one_thread")


class FlippedALiBi(ALiBi):
    """Adds slope · distance: the further the louder."""

    def scores(self, queries, keys):
        return -super().scores(queries, keys)


class DividedALiBi(ALiBi):
    """Adds the bias before the division by √D."""

    def bias(self, q, k, prepared, first=0):
        return super().bias(q, k, prepared, first) * q.shape[-1] ** -0.5


class GeometricForAnyHeads(ALiBi):
    """Counts slopes from zero: the first head forgets nothing."""

    def scores(self, queries, keys):
        return super().scores(queries, keys) * 2 ** (8 / self.geometry.heads)


class HalfPrecisionALiBi(ALiBi):
    """Builds its bias in the default dtype."""

    def scores(self, queries, keys):
        return super().scores(queries, keys).to(torch.get_default_dtype())


class BucketsOfTheFuture(T5):
    """Takes key minus query for query minus key: the whole past falls into bucket zero."""

    def scores(self, queries, keys):
        return super().scores(-queries, -keys)


class EveryBlockStartsAgain(ALiBi):
    """Counts the queries of a block from its first one."""

    def scores(self, queries, keys):
        return super().scores(queries - queries[..., :1], keys)


class TwoWayBuckets(T5):
    """Keeps half of the buckets for the future, as an encoder does."""

    def scores(self, queries, keys):
        far = distances(queries, keys).squeeze(-3).clamp(max=self.knobs.buckets // 2 - 1)
        return F.embedding(far.long() // 2, self.table.to(keys.dtype)).movedim(-1, -3)


class FIREWithoutItsNormaliser(FIRE):
    """Divides by ψ(i), which is nothing for the first token, and tells short texts apart too finely."""

    def scores(self, queries, keys):
        with torch.no_grad():
            saved = self.multiplier.clone()
            self.multiplier.zero_()
            scores = super().scores(queries, keys)
            self.multiplier.copy_(saved)
        return scores


class FIREByLength(FIRE):
    """Divides by ψ of the text's length, so that the past moves as text follows."""

    def scores(self, queries, keys):
        return super().scores(queries.max(-1, keepdim=True).values.expand_as(queries), keys)


class KerpleWithoutItsLog(Kerple):
    def scores(self, queries, keys):
        return -distances(queries, keys) * (self.a * self.p).to(keys.dtype)[:, None, None]


class LeftToRightCoPE(CoPE):
    """Counts gates from the start of the text instead of back from the query."""

    def bias(self, q, k, prepared, first=0):
        return super().bias(q, k.flip(-2), prepared, first).flip(-1)


class SharedTableCoPE(CoPE):
    """Reads the first layer's table in every layer."""

    def layer(self, index):
        return Layer(self, 0)


class XPosWithoutTheInverse(XPos):
    """Scales keys as it scales queries, so that scores know absolute positions."""

    def rotate(self, q, k, prepared):
        return rotate_pairs(q, *prepared[:2]), rotate_pairs(k, *prepared[:2])


class OnesForStillPairs(FoPE):
    """Gives a stopped pair cosine 1 and sine 1, which doubles its scores: the authors' code."""

    def prepare(self, positions):
        cos, sin = super().prepare(positions)
        sin = sin.clone()
        sin[..., len(self.turning) :] = 1
        return cos, sin


class FreshNoise(FoPE):
    """Draws its coefficients anew at every pass."""

    def prepare(self, positions):
        cos, sin = super().prepare(positions)
        return cos + 0.1 * torch.randn_like(cos), sin


class StopsTheFastest(PRoPE):
    """Stops the fastest frequencies and keeps the slowest."""

    def frequencies(self, device):
        table = self.spectrum.table(self.rotated, device)
        return table * (torch.arange(len(table)) >= len(table) - int(self.knobs.p * len(table)))


class ShortenedExponent(PRoPE):
    """Spreads the exponents over the turning channels only, as partial rotary does."""

    def frequencies(self, device):
        saved = 2 * int(self.knobs.p * self.rotated / 2)
        return F.pad(self.spectrum.table(saved, device), (0, (self.rotated - saved) // 2))


class DetachedFrequencies(LearnedRoPE):
    """Caches its table without a gradient."""

    def frequencies(self, device):
        return super().frequencies(device).detach()


class RealPartsOnly(PoPE):
    """Keeps cosines and forgets sines."""

    def rotate(self, q, k, prepared):
        return tuple(
            torch.cat((half, torch.zeros_like(half)), -1)
            for half, _ in (x.chunk(2, -1) for x in super().rotate(q, k, prepared))
        )


class Rounded(Learned):
    """Reads the nearest row between two, instead of the line that joins them."""

    def prepare(self, positions):
        return super().prepare(positions.round())


class BitsAsZeros(Binary):
    """Adds the bits as 0 and 1."""

    def prepare(self, positions):
        return (super().prepare(positions) + 1) / 2


class ForgetsTheKeyItself(FoX):
    """Counts the gate of the key too, so that a token fades for itself."""

    def read_input(self, x, prepared):
        sums = super().read_input(x, prepared)
        return (sums, F.pad(sums, (1, -1)))

    def bias(self, q, k, prepared, first=0):
        return Differences(super().bias(q, k, prepared[0], first).queries, super().bias(q, k, prepared[1], first).keys)


class GatesOfTheFirstLayer(FoX):
    """Opens the gates of every layer with the weights of the first."""

    def prepare(self, positions):
        return super().prepare(positions)[:1] * self.geometry.layers


class EdgesThatDoNotTurn(GrapeAP):
    """Leaves the positions out of the edges."""

    def prepare(self, positions):
        return super().prepare(0 * positions)


class OneSchemeOnly(Mixture):
    """Hands every layer its first scheme."""

    def layer(self, index):
        return Layer(self.first, 0)


T5_AND_ROPE = {"first": "t5", "second": "rope", "every": 2}
MUTANTS = [
    (Case("alibi", scheme=FlippedALiBi), ["equals_its_twin", "attention_is_what_the_twin_says"]),
    (Case("alibi", scheme=DividedALiBi), ["equals_its_twin", "attention_is_what_the_twin_says"]),
    (Case("alibi", scheme=GeometricForAnyHeads), ["equals_its_twin"]),
    (Case("alibi", scheme=HalfPrecisionALiBi), ["float32_whatever_the_precision"]),
    (Case("alibi", scheme=EveryBlockStartsAgain), ["trains_in_chunks", "chunks_are_the_whole"]),
    (Case("t5", scheme=BucketsOfTheFuture), ["tells_order", "reads_positions", "equals_its_twin"]),
    (Case("t5", scheme=TwoWayBuckets), ["equals_its_twin"]),
    (Case("fire", scheme=FIREWithoutItsNormaliser), ["every_parameter_learns", "equals_its_twin"]),
    (Case("fire", scheme=FIREByLength), ["prefix_consistent", "equals_its_twin"]),
    (Case("kerple", scheme=KerpleWithoutItsLog), ["equals_its_twin"]),
    (Case("cope", scheme=LeftToRightCoPE), ["equals_its_twin"]),
    (Case("cope", scheme=SharedTableCoPE), ["equals_its_twin", "attention_is_what_the_twin_says"]),
    (Case("fox", scheme=ForgetsTheKeyItself), ["equals_its_twin", "attention_is_what_the_twin_says"]),
    (Case("fox", scheme=GatesOfTheFirstLayer), ["equals_its_twin", "attention_is_what_the_twin_says"]),
    (Case("grape_ap", scheme=EdgesThatDoNotTurn), ["reads_positions", "equals_its_twin"]),
    (Case("xpos", scheme=XPosWithoutTheInverse), ["scores_know_the_offset_alone", "equals_its_twin"]),
    (Case("fope", scheme=OnesForStillPairs), ["equals_its_twin"]),
    (Case("fope", scheme=FreshNoise), ["prefix_consistent", "float32_whatever_the_precision"]),
    (Case("p_rope", scheme=StopsTheFastest), ["equals_its_twin"]),
    (Case("p_rope", scheme=ShortenedExponent), ["equals_its_twin"]),
    (Case("learned_rope", scheme=DetachedFrequencies), ["every_parameter_learns"]),
    (Case("pope", scheme=RealPartsOnly), ["shift_invariant", "scores_know_the_offset_alone", "equals_its_twin"]),
    (Case("learned", scheme=Rounded), ["equals_its_twin"]),
    (Case("binary", scheme=BitsAsZeros), ["equals_its_twin"]),
    (Case("mixture", T5_AND_ROPE, OneSchemeOnly), ["equals_its_twin", "attention_is_what_the_twin_says"]),
]


@pytest.mark.parametrize(
    ("case", "law"),
    [pytest.param(case, law, id=f"{case.scheme.__name__}-{law}") for case, laws in MUTANTS for law in laws],
)
def test_law_sees_the_bug(case, law):
    with pytest.raises(AssertionError):
        LAWS[law](case)
    LAWS[law](Case(case.name, case.settings))  # and it is the bug that it sees


def test_an_exemption_that_is_not_needed_is_seen():
    """Learned positions that silently repeat their last row obey the law that the honest ones are exempt from."""

    class Repeats(Learned):
        def prepare(self, positions):
            return super().prepare(positions.clamp(max=self.geometry.window - 1))

    LAWS["past_the_window"](Case("learned", scheme=Repeats))


@pytest.mark.parametrize("wrong", [lambda scale: scale / math.sqrt(2), lambda scale: None], ids=["2D", "default"])
def test_the_attention_law_sees_scores_divided_by_the_width_of_pope(monkeypatch, wrong):
    """Its queries and keys are 2D wide, and their scores are still divided by √D."""
    real = F.scaled_dot_product_attention

    def attention(*given, scale, **names):
        return real(*given, scale=wrong(scale), **names)

    monkeypatch.setattr(models.attention.F, "scaled_dot_product_attention", attention)
    with pytest.raises(AssertionError):
        LAWS["attention_is_what_the_twin_says"](Case("pope"))


def test_the_chunk_law_sees_a_chunk_that_starts_at_the_wrong_row():
    class FromTheTop(ALiBi):
        def bias(self, q, k, prepared, first=0):
            rows, keys = q.shape[-2], k.shape[-2]
            return F.pad(super().bias(q, k[..., :rows, :], prepared), (0, keys - rows))

    with pytest.raises(AssertionError):
        LAWS["chunks_are_the_whole"](Case("alibi", scheme=FromTheTop))
