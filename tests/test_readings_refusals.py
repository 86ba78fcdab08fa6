"""Whatever is mistaken in asking for a reading is one sentence: commands × kinds of mistake."""

from importlib import import_module

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from tests.runs import CACHE, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYWHERE = """
checkpoint=nowhere | checkpoint=3 | checkpoint=[a] | checkpoint=null | checkpoint=@/empty | checkpoint=@/text.txt
cache=[1] | cache=null | cache=/dev/null/x | runs=null | runs=3 | logger=banana | logger.name=x | logger.mode=x
batch_tokens=0 | batch_tokens=-1 | batch_tokens=abc | batch_tokens=1.5 | batch_tokens=inf | batch_tokens=null | banana=1
segments=0 | split=banana | split=null | split=[test]
extend=banana | extend=3 | extend=ntk extend.factor=inf | extend=ntk extend.factor=nan | extend=ntk extend.factor=0.5
extend=ntk extend.factor=abc | extend=ntk extend.factor=null | extend.factor=4 | extend=longrope extend.path=/nope
extend=longrope extend.long=[1,2] | extend=longrope extend.long=[1,1,1,1,1,1,1,abc] | extend=longrope extend.long=3
extend=longrope extend.path=@/inf.yaml | extend=longrope extend.path=@/str.yaml | extend=longrope extend.path=3
extend=longrope extend.path=@/nested.yaml | extend=longrope extend.n_hat=-1 | extend=switch extend.over=banana
extend=self_extend extend.factor=4 extend.near=99 | extend=dca extend.chunk=0 | extend=switch extend.over=none
data=banana | data=files | data=files data.test=/nope.txt | data=files data.test=[] | data=files data.test=@/empty
data=files data.test=3 | data=files data.test=@/text.txt | data=files data.train=@/text.txt | data=prepared
data=prepared data.folder=/nope | data=chains | data.test=x | data=files data.test=x.txt data.tokenizer.kind=bytes
"""
OWN = {
    "perplexity": """
contexts=abc | contexts=[abc] | contexts=[0] | contexts=[-1] | contexts=[] | contexts=[1.5] | contexts=[[1]]
contexts=inf | contexts=[1000000] | contexts=[true] | stride=0 | stride=-1 | stride=abc | contexts=[16] stride=100
protocol=x | protocol=null | reading=x | reading=null | reading=[whole]
""",
    "by_position": "context=3 | context=0 | context=abc | context=1e9 | context=[8] | context=1.5 | context=inf",
    "passkey": """
lengths=[1] | lengths=[] | lengths=abc | lengths=[9999999] | digits=1 | digits=19 | digits=abc | keys=0 | keys=27
template=x | template=passkey keys=2 | depths=0 | depths=abc | trials=0 | seed=-1 | seed=abc | reading=x
depths=1000 lengths=[64]
""",
    "longrope": """
factor=inf | factor=nan | factor=1 | factor=0 | factor=abc | factor=1e6 | n_hats=[] | n_hats=[-1] | n_hats=[abc]
temperature=0 | temperature=inf | population=0 | parents=1 | probability=0 | probability=2 | fitness=x | tokens=0
tokens=abc | recover=3 | recover=/nope | recover=@/text.txt | length=3 | recover=@/f.yaml n_hats=[0]
recover=@/f.yaml critical=true | recover=@/f.yaml length=99999 | recover=@/f.yaml factor=9 | recover=@/f.yaml factor=inf
recover=@/inf.yaml | recover=@/str.yaml | recover=@/nested.yaml | seed=-1 | generations=-1 | mutations=abc | critical=x
data=files data.test=@/text.txt
""",
}
CASES = [("perplexity", case) for case in EVERYWHERE.replace("\n", " | ").split(" | ") if case.strip()]
CASES += [
    (name, case) for name, cases in OWN.items() for case in cases.replace("\n", " | ").split(" | ") if case.strip()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    train(compose(tiny(folder, "name=base", "group=g", "steps=1")))
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello\n")
    for name, factors in {"f": "4", "inf": ".inf", "str": "abc"}.items():
        (folder / f"{name}.yaml").write_text(f"long: [1,1,1,1,1,1,1,1]\nfactor: {factors}\n")
    (folder / "nested.yaml").write_text("long: [[1],1,1,1,1,1,1,1]\nfactor: 4\n")
    return folder


@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_a_mistake_is_one_sentence(folder, name, case):
    words = case.replace("@", str(folder)).split()
    given = {word.split("=")[0] for word in words}
    rest = [f"checkpoint={folder}/g/base", f"cache={CACHE}", "logger=none", f"runs={folder}"]
    words = [*(word for word in rest if word.split("=")[0] not in given), *words]
    program = import_module(f"experiments.{name}" + ".__main__" * (name == "longrope"))
    with pytest.raises(BadInput) as refusal:
        program.run_command(compose_values(name, words), words)
    sentence = str(refusal.value)
    assert 10 < len(sentence) < 300 + len(str(folder)) * 2 and "\n" not in sentence
    assert not any(word in sentence for word in ("Traceback", "function-", "object at"))
