"""Tables of results as text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

NUMBER = re.compile(r"[-+<>≤≥]?\s?[\d.]|\[|nan$|inf$")  # how the text of a number begins, or of an interval


def format_table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """Format rows of cells in columns two spaces apart, those with numbers flush right; None is a dash.

    A row shorter than the head ends in a message, such as why a measurement failed, which takes the rest of the line.
    """
    lines = [["-" if cell is None else str(cell) for cell in row] for row in (head, *rows)]
    cells = [line if len(line) == len(head) else line[:-1] for line in lines]
    columns = [[row[place] for row in cells if place < len(row)] for place in range(len(head))]
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(map(NUMBER.match, column[1:])) or set(column[1:]) == {"-"} for column in columns]

    def align(line: list[str], cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=False)
        ]
        return "  ".join(padded + line[len(cells) :]).rstrip()

    return "\n".join(map(align, lines, cells))


def format_rows(rows: Iterable[Mapping], columns: Mapping[str, str | Callable[[Mapping], str]]) -> str:
    """Format plain rows as a table.

    Args:
        columns: for each title how its cell is made of a row, as "{perplexity:.2f}" or a function. Where the row lacks
            the value the cell is a dash; if the row has a failure, it ends in this.
    """
    lines = []
    for row in rows:
        line: list[str | None] = []
        for cell in columns.values():
            try:
                line.append(cell.format(**row) if isinstance(cell, str) else cell(row))
            except KeyError:
                line.append(row.get("failure"))
                if row.get("failure"):
                    break
        lines.append(line)
    return format_table(list(columns), lines)
