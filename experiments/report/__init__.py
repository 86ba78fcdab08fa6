"""Every claim with results as one page to look at, and as a table."""
