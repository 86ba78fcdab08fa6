"""Tables of text: columns align, and a row that failed says why."""

from experiments.lab.tables import format_rows, format_table


def test_numbers_are_flush_right_and_words_left():
    text = format_table(["name", "loss", "by"], [["a", 1, "hand"], ["long", "10.5", None], ["b", None, ""]])
    assert text.splitlines() == ["name  loss  by", "a        1  hand", "long  10.5  -", "b        -"]
    assert format_table(["a", "b"], [["-x", "[1, 2]"]]).splitlines() == ["a        b", "-x  [1, 2]"]


def test_a_short_row_ends_in_a_message_that_widens_no_column():
    lines = format_table(["name", "loss", "time"], [["a", "why it failed, at length"], ["b", "1", "2"]]).splitlines()
    assert lines == ["name  loss  time", "a     why it failed, at length", "b        1     2"]


def test_a_missing_value_is_a_dash_and_a_failure_takes_the_rest():
    rows = [
        {"name": "a", "loss": {"median": 1.25}, "failure": None},
        {"name": "b", "loss": {"median": 1.5}, "over": 2, "failure": None},
        {"name": "c", "failure": "out of memory"},
    ]
    columns = {"name": "{name}", "loss": "{loss[median]:.1f}", "over": lambda row: f"{row['over']:.2f}"}
    lines = format_rows(rows, columns).splitlines()
    assert lines == ["name  loss  over", "a      1.2     -", "b      1.5  2.00", "c     out of memory"]
    assert format_rows([], columns) == "name  loss  over"
