"""The compact GPT, its positional schemes, and what Lightning needs to train it."""
