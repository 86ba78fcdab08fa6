"""What does a transformer see of positions? A page with knobs, computed by the formulas of models/positions."""
