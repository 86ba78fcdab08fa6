"""Figures: what the literature draws by hand, drawn from the code of the lab, and the results of its studies."""
