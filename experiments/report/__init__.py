"""The results of all claims as one HTML page and as a Markdown table."""
