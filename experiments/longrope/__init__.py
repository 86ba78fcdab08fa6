"""LongRoPE's factors: searched for longer texts, and recovered for short ones."""
