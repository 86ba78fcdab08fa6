"""Papers held to their word: claims with rules written before their runs, and the verdicts."""
