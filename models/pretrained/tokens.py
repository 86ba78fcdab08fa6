"""The tokenizer of a model of bytes, as a tokenizer.json."""

import json


def byte_characters() -> list[str]:
    """The printable character that stands for each byte, in order, where a vocabulary is byte-level (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)]


def byte_tokenizer(separator: str) -> str:
    """A tokenizer.json whose tokens 0 … 255 are the bytes, without a merge, and 256 the separator."""
    pieces = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = {"id": 256, "content": separator, "single_word": False, "lstrip": False, "rstrip": False}
    model = {"type": "BPE", "vocab": {character: byte for byte, character in enumerate(byte_characters())}}
    model |= {"merges": [], "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    whole = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}
    whole |= {"added_tokens": [special | {"normalized": False, "special": True}], "pre_tokenizer": pieces}
    return json.dumps(whole | {"decoder": pieces, "model": model})
