"""Texts, their tokens on disk, and training windows as a pure function of (seed, step).

`settings` says what can be asked for, `sources` (with `sotu` and `hub`) yields the texts, `tokenizer` turns them into
numbers, `tokenise` writes those through `token_files`, safely, `corpus` opens the result, `windows` cuts it into
batches, and `retrieval` mixes in keys to find.

Policy. Every document is stored as `separator, text tokens…`, one document after the other. Windows are contiguous
slices of a split and may cross documents; the separator marks the seam. No further begin-of-text token is added to a
window, in training or in evaluation. Isolating documents (attention mask and positions together) is left to the model,
which finds the seams by the separator tokens.
"""
