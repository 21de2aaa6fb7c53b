"""What is read equals what was meant, or the text is refused: for every writer that people use."""

import csv
import io
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.delimited import TextError, read_records

Rows = Sequence[Sequence[str]]
Writer = Callable[[Rows], str]


def _with_csv(**options: object) -> Writer:
    def write(rows: Rows) -> str:
        text = io.StringIO()
        csv.writer(text, **options).writerows(rows)  # type: ignore[arg-type]
        return text.getvalue()

    return write


def _with_pandas(**options: object) -> Writer:
    def write(rows: Rows) -> str:
        import pandas

        frame = pandas.DataFrame(list(rows[1:]), columns=list(rows[0]))
        return str(frame.to_csv(index=False, **options))  # type: ignore[arg-type]

    return write


def _with_mysql(rows: Rows) -> str:
    """SELECT ... INTO OUTFILE with its defaults."""

    def escaped(value: str) -> str:
        return "".join(f"\\{letter}" if letter in "\\\t\n" else letter for letter in value)

    return "".join("\t".join(map(escaped, row)) + "\n" for row in rows)


def _with_spark(rows: Rows) -> str:
    """DataFrameWriter.csv with its defaults: a quote inside quotes stands behind a backslash."""

    def field(value: str) -> str:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"' if any(letter in value for letter in '",\n') else value

    return "".join(",".join(map(field, row)) + "\n" for row in rows)


def _bare(rows: Rows) -> str:
    """Tabs and line breaks, and nothing else: what scripts print."""
    return "".join("\t".join(row) + "\n" for row in rows)


WRITERS: dict[str, tuple[Writer, bool]] = {
    "csv": (_with_csv(), False),
    "csv, all quoted": (_with_csv(quoting=csv.QUOTE_ALL), False),
    "csv, semicolons": (_with_csv(delimiter=";", quoting=csv.QUOTE_NONNUMERIC), False),
    "csv, tabs": (_with_csv(dialect="excel-tab"), True),
    "csv, backslashes": (_with_csv(doublequote=False, escapechar="\\"), False),
    "pandas": (_with_pandas(), False),
    "pandas, tabs": (_with_pandas(sep="\t"), True),
    "pandas, escapechar": (_with_pandas(escapechar="\\", doublequote=False), False),
    "pandas, bare": (_with_pandas(quoting=csv.QUOTE_NONE, escapechar="\\", sep="\t"), True),
    "MySQL": (_with_mysql, True),
    "Spark": (_with_spark, False),
    "bare": (_bare, True),
}
HEADER = ("image", "caption_a", "caption_b")
# Words in which everything that writers treat apart occurs, also beside each other.
_pieces = st.sampled_from(
    [
        "a red cup",
        '"',
        '""',
        ",",
        ";",
        "'",
        "\\",
        "two",
        " ",
        '6"',
        '"A dog"',
        "C:\\new",
        "\n",
        "\t",
    ]
)
_text = st.lists(_pieces, min_size=1, max_size=5).map("".join).filter(str.strip)
_rows = st.lists(st.tuples(st.sampled_from(["1.jpg", "2.jpg"]), _text, _text), max_size=6)


@pytest.mark.parametrize("name", WRITERS)
@given(rows=_rows)
def test_what_is_read_was_meant_or_the_text_is_refused(
    name: str, rows: list[tuple[str, str, str]]
) -> None:
    write, tabs = WRITERS[name]
    if name == "bare":  # which has no way to write them
        rows = [tuple(x.translate({9: " ", 10: " "}) for x in row) for row in rows]  # type: ignore[misc]
    try:
        records = read_records(write([HEADER, *rows]), tabs=tabs)
    except TextError as fault:
        assert "line " in str(fault)
        return
    kept = [record.fields for record in records if len(record.fields) == len(HEADER)]
    read = [tuple(_plain(field) for field in fields) for fields in kept[1:]]
    meant = [tuple(_plain(field) for field in row) for row in rows]
    odd = len(records) - len(kept)
    assert set(read) <= set(meant)
    assert len(read) + odd >= len(meant)


def _plain(value: str | None) -> str:
    """A caption without the letters of which no reader can know whether they are quoting: text
    that is glued or split still shows.
    """
    return re.sub(r'[\\"\s]', "", value or "")


@pytest.mark.parametrize(
    ("text", "tabs", "meant"),
    [
        # quotes that begin captions in TSV: every line is a record
        ('a\tb\n"So red\tx\ny\tz\n"So blue\tw\n', True, ['"So red|x', "y|z", '"So blue|w']),
        ('a,b\n"two\nlines",1\n', False, ["two\nlines|1"]),
        ('a;b\n"x;y";1,5\n', False, ["x;y|1,5"]),
        ("sep=|\na|b\nx,y|z\n", False, ["x,y|z"]),
        ('#TYPE System.Object\r\n"a","b"\r\n"x","y"\r\n', False, ["x|y"]),
        ('a,b\n1,"x \\"q\\" y"\n', False, ['1|x "q" y']),
        ('a,b\n1,"x ""q"" y"\n', False, ['1|x "q" y']),
        ("a\tb\n1\tfoo\\\nbar\n2\t\\N\n", True, ["1|foo\nbar", "2|NULL"]),
        ('a, b\n1, "x, y"\n', False, ["1|x, y"]),
        ('a,b\n1,A 6" cup\n\n \n2,C:\\new\n', False, ['1|A 6" cup', "2|C:\\new"]),
        ("a,b\nA red cup, on a table.,x\n1,2\n", False, ["A red cup| on a table.|x", "1|2"]),
        ("a,b\n1\n,\n", False, ["1", "|"]),
        ("a\tb\u2028c\n1\t2\u20283\n", True, ["1|2\u20283"]),
    ],
)
def test_records_by_hand(text: str, tabs: bool, meant: list[str]) -> None:
    _, *records = read_records(text, tabs=tabs)
    fields = [["NULL" if field is None else field for field in r.fields] for r in records]
    assert ["|".join(values) for values in fields] == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,"never closed\n2,x\n', "line 2: the quote that opens field 2 is never closed"),
        ('a,b\n1,2\n"x" y,2\n', "line 3: the quote that opens field 1"),
        ('a,b,c\n1,"x,y\n2,z",w\n', "line 2: its quotes can be read in two ways"),
    ],
)
def test_a_text_that_needs_a_guess_is_refused_by_its_line(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        read_records(text, tabs="\t" in text)


def test_a_key_says_how_quotes_are_meant() -> None:
    text = 'a,b,c\n1,"x,y\n2,z",w\n'
    double, none = (
        [record.fields for record in read_records(text, tabs=False, quoting=quoting)]  # type: ignore[arg-type]
        for quoting in ("double", "none")
    )
    assert double[1:] == [["1", "x,y\n2,z", "w"]]
    assert none[1:] == [["1", '"x', "y"], ["2", 'z"', "w"]]
