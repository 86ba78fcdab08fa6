"""How do real checkpoints come in, and runs go out? As folders that `transformers` and the lab both read.

    python -m experiments.pretrained pretrained=smollm2
    python -m experiments.pretrained from=<folder, hub id or .gguf> name=mine
    python -m experiments.pretrained checkpoint=runs/default/rope-nano-s1 to=<new folder>
    python -m experiments.pretrained checkpoint=runs/base/rope-nano-s1 to=experiments/bases/rope-nano form=lab

models/pretrained/README.md lists the architectures. What comes in is an ordinary run, runs/pretrained/<name>, of no
steps. Its text is that of data=, tokenised by the checkpoint's own tokenizer; whatever reads or fine-tunes a checkpoint
takes it. A folder appears whole or not at all. form=lab is for any scheme, and small enough to ship: models/shipped.py.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conf.base import BadInput, Count, PathText, Settings, first_line
from conf.compose import command_line, compose_values
from conf.files import folder_that_appears, read_json
from conf.overrides import given_keys
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config
    from models.pretrained.incoming import Imported

GROUP, PACKAGE = "pretrained", "package:"
PLACES = ("runs", "cache", "logger", "trainer")  # settings of the machine a run was trained on, and of nothing else
INCOMING = ("from", "otherwise", "name", "original_window", "tokenizer", "data")  # settings of what comes in
OUTGOING = ("checkpoint", "to", "form")  # and of what goes out
FILES = ["config.json", "tokenizer.json", "*.safetensors", "model.safetensors.index.json"]


def import_run(values: dict) -> tuple[Path, tuple[str, ...]]:
    """A checkpoint of the field → the folder of a run, and what should be said of it.

    Args:
        values: of conf/pretrained.yaml.

    Raises:
        BadInput: it cannot be had, is damaged or is not supported, or the name is taken.
    """
    from data.tokenizer import DOCUMENT, JsonTokenizer
    from models.pretrained.incoming import read_checkpoint

    name, source = values["name"], values["from"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise BadInput(f"name={name} must be letters, digits, '.', '_' and '-': the run is kept in runs/{GROUP}/<name>")
    target, request = Path(values["runs"]) / GROUP / name, _request(values)
    if target.exists():
        before = read_json(target / "origin.json") or {}
        different = [key for key in request if key in before and before[key] != request[key]]
        same = before.get("from") == source
        if same and not different:
            return target, ("it was there already",)
        why = f"was made of another {', '.join(different)}" if same else "came from elsewhere"
        raise BadInput(f"{target} is there already and {why}: give another name=, or remove it")
    tokenizer = None if values["tokenizer"] is None else Path(values["tokenizer"])
    imported = read_checkpoint(find(source, values["otherwise"]), values["original_window"], tokenizer)
    opened, rows = JsonTokenizer(imported.tokenizer), imported.model["vocabulary"]
    lacked = ", one of them the separator of documents, which it lacks" if opened.added_separator else ""
    if opened.vocabulary > rows:
        tokens = f"{opened.vocabulary} tokens{lacked}"
        raise BadInput(f"the tokenizer has {tokens}, and the weights have rows for {rows}: they do not fit")
    added = f"the tokenizer has no end of a text: token {opened.separator}, {DOCUMENT}, is added for it, untrained"
    remarks = (*imported.remarks, added) if opened.added_separator else imported.remarks
    with folder_that_appears(target) as folder:
        _write_run(imported, values, folder, target)
        origin = request | {"architecture": imported.architecture, "remarks": remarks}
        (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
    return target, remarks


def _request(values: dict) -> dict:
    """What a run is made of: where from, and settings and local files, which count by content."""
    from data.integrity import sha256

    source, tokenizer = Path(str(values["from"])).expanduser(), values["tokenizer"]
    own = [source] if source.is_file() else [path for pattern in FILES for path in sorted(source.glob(pattern))]
    files = {"files": own, "tokenizer": [] if tokenizer is None else [Path(tokenizer)]}
    digests = {key: [sha256(path) for path in paths if path.is_file()] for key, paths in files.items()}
    return {key: values[key] for key in ("from", "original_window", "data")} | digests


def _write_run(imported: "Imported", values: dict, folder: Path, target: Path) -> None:
    """Fill the folder as a finished run leaves it, so that it may be moved to the target."""
    from conf.inputs import digest_inputs
    from conf.run_folder import RunFolder
    from data.corpus import prepare
    from models.checkpoint_files import save_checkpoint
    from models.restore import make_record

    (folder / "tokenizer.json").write_text(imported.tokenizer, encoding="utf-8")
    config = _config(imported, values, folder)
    corpus = prepare(config.data, Path(config.cache), progress=config.trainer.progress)
    if corpus.vocabulary == imported.model["vocabulary"]:
        config = config.model_copy(update={"model": config.model.model_copy(update={"vocabulary": None})})
    data = config.data.model_copy(
        update={"tokenizer": config.data.tokenizer.model_copy(update={"path": str(target / "tokenizer.json")})}
    )
    inputs, config = digest_inputs(config), config.model_copy(update={"data": data})
    record = make_record(config, corpus) | {"origin": str(values["from"])}
    weights = {f"gpt.{name}": tensor for name, tensor in imported.weights.items()}
    run = RunFolder(folder)
    with run.opened(config.model_dump(mode="json"), [], inputs):
        path = run.checkpoints / "step-00000000.ckpt"
        save_checkpoint({"state_dict": weights, "lab": record, "global_step": 0}, path)
        checkpoint = str(path.relative_to(folder))
        run.finish({"name": config.name, "group": GROUP, "checkpoint": checkpoint, "metrics": {}})


def _config(imported: "Imported", values: dict, folder: Path) -> "Config":
    """The settings of a training run that the checkpoint could have been left by, as far as it says."""
    from conf.resolve import resolve

    if "tokenizer" not in values["data"]:
        raise BadInput(
            f"data={values['data']['name']} has no tokenizer of its own to replace: name text, as data=files"
        )
    tokenizer = {"kind": "file", "vocabulary": None, "path": str(folder / "tokenizer.json")}
    plain = compose_values("config", ["logger=none"])
    plain |= {key: values[key] for key in ("name", "runs", "cache")}
    plain |= {"group": GROUP, "steps": 1, "window": imported.window, "data": {**values["data"], "tokenizer": tokenizer}}
    plain |= {"model": {"name": values["name"], **imported.model}, "position": imported.position}
    plain |= {"layers": imported.layers}
    return resolve(plain | {"frequencies": imported.frequencies, "extend": imported.extend}, [])


def find(source, otherwise=None) -> Path:
    """The folder or file that from= names; a repository of the hub is fetched first.

    Args:
        otherwise: where else to look if it is not there.

    Raises:
        BadInput: it is in neither place.
    """
    if not isinstance(source, str) or not source:
        raise BadInput(f"from={source} must be a folder, a repository of the hub, or a .gguf file")
    if source.startswith(PACKAGE):
        package, _, file = source.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / file
        if otherwise is None:
            raise BadInput(f"from={source}: the package {package} is not installed")
        return find(otherwise)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix != ".gguf":
        return _fetch(source)
    raise BadInput(f"from={source}: there is no such folder or file, and it is no name of a repository of the hub")


def _fetch(repository: str) -> Path:
    """The folder of a repository of the hub, from the local cache where the hub is away."""
    from huggingface_hub import snapshot_download

    from data.hub import reachable

    online = reachable()
    try:
        return Path(snapshot_download(repository, allow_patterns=FILES, local_files_only=not online))
    except Exception as error:  # not found, gated, or gone while fetching: each has its own type
        if not online:
            raise BadInput(
                f"from={repository}: there is no such folder, the hub cannot be reached, and its local cache has no "
                "such repository"
            ) from None
        raise BadInput(f"from={repository} cannot be had from the hub ({first_line(error)})") from None


def export_run(checkpoint: Path, to: Path, cache: str) -> tuple[str, ...]:
    """A run → a folder that `transformers` loads without remote code; returns what should be said of it.

    Args:
        checkpoint: a checkpoint file, or the folder of a run for its last one; to: a folder that is not there yet.

    Raises:
        BadInput: no architecture of `transformers` can express the model, or the folder is there.
    """
    from conf.load import load_model
    from data.tokenizer import BYTES, DOCUMENT, STATES
    from experiments.lab.measure.held_out import own_tokenizer
    from models.checkpoint_files import find_checkpoint
    from models.pretrained.outgoing import export
    from models.pretrained.tokens import byte_tokenizer
    from models.pretrained.weights import save_safetensors

    if to.exists():
        raise BadInput(f"to={to} is there already: name a new folder")
    checkpoint = find_checkpoint(checkpoint)
    gpt, config, record = load_model(checkpoint)
    exported = export(gpt, record["separator"])
    text = own_tokenizer(checkpoint, config, record, cache)
    remarks = []
    if config.data.isolate_documents:
        remarks.append("data.isolate_documents stays behind: transformers reads a window as one document")
    with folder_that_appears(to) as folder:
        (folder / "config.json").write_text(json.dumps(exported.config, indent=2) + "\n")
        save_safetensors(folder, exported.tensors)
        if text.startswith(STATES):
            remarks.append("without a tokenizer: its tokens are states of a chain")
            return tuple(remarks)
        text = byte_tokenizer(DOCUMENT) if text == BYTES else text
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        by_id = {token["id"]: token["content"] for token in json.loads(text)["added_tokens"]}
        ends = {key: by_id[record["separator"]] for key in ("bos_token", "eos_token") if record["separator"] in by_id}
        longest = exported.config.get("max_position_embeddings", config.original_window)
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **ends}
        about["clean_up_tokenization_spaces"] = False
        (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
    return tuple(remarks)


def ship_run(checkpoint: Path, to: Path, cache: str) -> None:
    """A run → the folder of a shipped model (models/shipped.py): weights in bfloat16, settings, origin, tokenizer.

    Raises:
        BadInput: its tokenizer is not to be had, or the folder is there.
    """
    from conf.schema import Config
    from conf.validation import validate
    from data.tokenizer import BYTES, STATES
    from experiments.lab.measure.held_out import own_tokenizer
    from models.checkpoint_files import find_checkpoint, home, load_checkpoint
    from models.restore import record_of, weights_digest
    from models.shipped import TOKENIZER, write_shipped

    if to.exists():
        raise BadInput(f"to={to} is there already: name a new folder")
    path = find_checkpoint(checkpoint)
    loaded = load_checkpoint(path)
    record = record_of(loaded, path)
    config = validate(Config, record["config"])
    text: str | None = own_tokenizer(path, config, record, cache)
    settings = config.model_dump(mode="json") | {"runs": "runs", "cache": ".cache"}
    if text == BYTES or text.startswith(STATES):
        text = None
    elif "tokenizer" in settings["data"]:
        settings["data"]["tokenizer"] = {"kind": "file", "vocabulary": None, "path": TOKENIZER}
    before = read_json(home(path) / "environment.json") or {}
    words = [word for word in before.get("overrides", ()) if word.split("=")[0].split(".")[0] not in PLACES]
    made = {"command": " ".join(["python train.py", *words]), "seed": config.seed, "step": record["step"]}
    made |= {"tokens": record["step"] * config.batch * config.window, "weights": weights_digest(loaded)}
    made |= {key: before.get(key) for key in ("commit", "changed", "versions")}
    lab = {key: value for key, value in record.items() if key != "step"} | {"config": settings}
    with folder_that_appears(to) as folder:
        write_shipped(folder, {**loaded, "lab": lab}, made, text)


class Places(Settings):
    """The settings of conf/pretrained.yaml that are neither a name nor a text."""

    checkpoint: PathText | None
    to: PathText | None
    tokenizer: PathText | None
    original_window: Count | None
    form: Literal["transformers", "lab"]
    runs: PathText
    cache: PathText


def checked(values: dict) -> dict:
    """The values of conf/pretrained.yaml with paths expanded.

    Raises:
        BadInput: one is of a wrong type.
    """
    return values | validate(Places, {key: values[key] for key in Places.model_fields}).model_dump()


def run_command(values: dict, overrides: list[str]) -> None:
    """Import a checkpoint, or export or ship a run."""
    values = checked(values)
    if (values["from"] is None) == (values["checkpoint"] is None):
        raise BadInput("either from= and name= (a checkpoint comes in), or checkpoint= and to= (a run goes out)")
    if values["from"] is None and values["to"] is None:
        raise BadInput("to= must name the folder that checkpoint= goes out to")
    way, others = ("checkpoint", INCOMING) if values["from"] is None else ("from", OUTGOING)
    for key in sorted(given_keys(overrides)):
        if key.split(".")[0] in others and values.get(key, key) is not None:
            raise BadInput(f"{key} cannot be set with {way}={values[way]}: it is for the other way")
    if values["from"] is not None:
        folder, remarks = import_run(values)
    elif values["form"] == "lab":
        folder, remarks = Path(values["to"]), ()
        ship_run(Path(values["checkpoint"]), folder, values["cache"])
    else:
        folder = Path(values["to"])
        remarks = export_run(Path(values["checkpoint"]), folder, values["cache"])
    print("\n".join([str(folder), *remarks]))


if __name__ == "__main__":
    command_line("pretrained", run_command)
