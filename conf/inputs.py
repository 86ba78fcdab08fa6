"""Digests of the inputs of a run, which its settings only name: texts, tokenizer and initial weights."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conf.schema import Config


def digest_inputs(config: "Config") -> dict[str, str]:
    """A digest each of the texts, the tokenizer and, of a fine-tuning run, the weights it starts from.

    Files count by what is in them, a hub dataset and the embedded text by what identifies them: nothing is tokenised,
    and nothing fetched.
    """
    from data.corpus import describe_source
    from models.checkpoint_files import load_checkpoint
    from models.restore import weights_digest

    digests = {}
    for key, value in describe_source(config.data).items():
        digests[key] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    if config.checkpoint is not None:
        digests["checkpoint"] = weights_digest(load_checkpoint(Path(config.checkpoint)))
    return digests
