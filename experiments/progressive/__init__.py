"""LongRoPE's progressive extension: search, fine-tune, and search again up to the last window."""
