"""Real checkpoints in and out: folders of config.json, safetensors and tokenizer.json, as the field exchanges them.

rope.py turns rope settings into a spectrum and an extension, and back; architectures.py does the same for everything
else of a config.json; layouts.py says which of their tensors are which of ours; weights.py and gguf.py read files,
incoming.py and outgoing.py put it together. Nothing is unpickled and no code of a repository is run.
"""
