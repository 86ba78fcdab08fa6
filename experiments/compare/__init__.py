"""Compare any runs: settings that differ, final metrics and curves."""
