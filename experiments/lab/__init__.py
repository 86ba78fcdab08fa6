"""The code that questions share: plans and runs, launching, statistics, tables and figures."""
