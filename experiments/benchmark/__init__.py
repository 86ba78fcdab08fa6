"""How fast and how large: the lab beside the device's ceiling and its peers, measured in one process.

    python -m experiments.benchmark sections=[schemes] schemes_at=[micro/1024]

A section is a file here with `run`, which returns plain rows, and `table`, which prints them; it has its row in
SECTIONS in __main__.py.
"""
