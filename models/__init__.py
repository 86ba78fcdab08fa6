"""The compact GPT, its positional schemes, and what Lightning needs to train it.

Letters in shape comments, in all of models/: B batch, T tokens, H heads, D head width, C model width,
K frequencies (pairs of channels), V vocabulary, F channels inside the network; in attention Q queries and N keys.
"""
