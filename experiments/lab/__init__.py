"""What the questions share: plans and runs, launching, statistics, the canvas of figures."""
