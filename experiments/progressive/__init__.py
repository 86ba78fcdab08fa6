"""LongRoPE's progressive extension: search, fine-tune, search again from there, as far as the last window."""
