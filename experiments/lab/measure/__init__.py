"""Measurements of one checkpoint: perplexity, losses by position, retrieval, and the files of readings."""
