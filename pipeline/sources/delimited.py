"""Records of CSV and TSV text, as whoever wrote it meant them.

Writers differ in how they keep a delimiter, a quote or a line break inside a field, and a file does
not say who wrote it. A lenient reader then glues or splits rows in silence. Here a text is read
strictly by each way of writing; the one counts by which most records have as many fields as the
header, and a text that has two meanings is refused.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

# How a field holds special characters: in quotes, where a quote stands twice (RFC 4180, Excel,
# pandas); behind backslashes, in quotes or not (MySQL, Spark, pandas with escapechar); not at all.
Quoting = Literal["auto", "double", "backslash", "none"]
_BARE = "bare backslash"  # behind backslashes, where a quote is a letter (MySQL's own tables)
_QUOTED, _ESCAPED = ("double", "backslash"), ("backslash", _BARE)
_DELIMITERS = ",;\t|"
_BREAK = r"\r\n|\n|\r"
# What programs write before the header: Excel its delimiter, Windows PowerShell a type.
_PREAMBLE = re.compile(r"(?:sep=(?P<delimiter>.)|#TYPE [^\r\n]*)(?:\r\n|\n|\r)")


class TextError(ValueError):
    """A text that cannot be read without a guess; the message names the line."""


class Record(NamedTuple):
    """The fields of a record, None where it states NULL, and its text, which begins at `line`."""

    fields: list[str | None]
    line: int
    text: str
    num_lines: int
    num_loose: int  # quotes stand in so many fields that have none around them


def read_records(text: str, *, tabs: bool, quoting: Quoting = "auto") -> list[Record]:
    """The records of a text, the header first; blank lines are none.

    Args:
        tabs: Whether tabs divide the fields; else it is what the header has most of: commas,
            semicolons, tabs or bars.
        quoting: "auto" finds out.

    Raises:
        TextError: No way of writing gives the text a meaning, or two give it different ones.
    """
    preamble = _PREAMBLE.match(text)
    body = text[preamble.end() :] if preamble else text
    skipped = 1 if preamble else 0
    delimiter = (preamble["delimiter"] if preamble else None) or _delimiter(body, tabs)
    escapes = re.search(rf'\\["\r\n{re.escape(delimiter)}]|\\N', body) is not None
    # In TSV a quote is often a letter, for nothing but a tab or a line break needs quotes there.
    ways = {"double": True, "backslash": escapes, "none": tabs, _BARE: tabs and escapes}
    asked = [way for way, likely in ways.items() if likely] if quoting == "auto" else [quoting]
    readings, faults = [], []
    for way in asked:
        try:
            readings.append((way, list(_records(body, delimiter, way, skipped))))
        except TextError as fault:
            faults.append(str(fault))
    if not readings:
        raise TextError(faults[0])
    way, records = min(
        readings, key=lambda reading: (_num_odd(reading[1]), sum(r.num_loose for r in reading[1]))
    )
    rivals = [
        other
        for _, other in readings
        if other is not records and _num_odd(other) == _num_odd(records)
    ]
    doubtful = _doubtful(records, rivals, delimiter, way in _QUOTED)
    if doubtful and quoting == "auto":
        raise TextError(
            f"line {doubtful.line}: its quotes can be read in two ways, as one record or as"
            " several; say which with quoting=double (quotes may hold line breaks) or quoting=none"
            " (a quote is a letter)"
        )
    return records


def _delimiter(body: str, tabs: bool) -> str:
    header = re.sub(r'"[^"\r\n]*"', "", body[: re.search(r"[\r\n]|\Z", body).start()])  # type: ignore[union-attr]
    return "\t" if tabs else max(_DELIMITERS, key=header.count)


def _num_odd(records: list[Record]) -> int:
    """Records with another number of fields than the first."""
    return sum(len(record.fields) != len(records[0].fields) for record in records)


def _doubtful(
    records: list[Record], rivals: list[list[Record]], delimiter: str, quoted: bool
) -> Record | None:
    """A record that another reading, or a part of it, makes as much sense of."""
    for rival in rivals:
        for record, other in itertools.zip_longest(records, rival):
            if record is None or other is None or _said(record) != _said(other):
                return record or records[-1]
    width = len(records[0].fields)
    for index, record in enumerate(records):
        lines = re.split(_BREAK, record.text) if quoted and record.num_lines > 1 else []
        if lines and all(line.count(delimiter) == width - 1 for line in lines):
            return record
        if quoted or not record.text.count('"') % 2:
            continue
        if _num_odd([records[0], *records[max(index - 1, 0) : index + 2]]):
            return record
    return None


def _said(record: Record) -> tuple[int, list[str]]:
    """Where a record stands and what it says, but for signs that hold others."""
    return record.line, [re.sub(r'[\\"]', "", field or "N") for field in record.fields]


def _records(body: str, delimiter: str, way: str, skipped: int) -> Iterator[Record]:
    field, at, line = _field(delimiter, way), 0, 1 + skipped
    while at < len(body):
        start, fields, num_loose = at, list[str | None](), 0
        while not fields or body[at : at + 1] == delimiter:
            match = field.match(body, at + bool(fields))
            assert match is not None  # it takes the empty text as well
            if match[1] is None and _torn(match[2], way):
                raise TextError(
                    f"line {line}: the quote that opens field {len(fields) + 1} is never closed,"
                    " or text follows the closing one; a quote inside quotes must stand twice, and"
                    " quoting=none takes quotes as letters"
                )
            fields.append(_value(match, delimiter, way))
            num_loose += way in _QUOTED and match[1] is None and '"' in match[2]
            at = match.end()
        text = body[start:at]
        num_lines = _num_breaks(text) + 1
        at += 2 if body.startswith("\r\n", at) else 1
        if text.strip():
            yield Record(fields, line, text, num_lines, num_loose)
        line += num_lines


def _torn(bare: str, way: str) -> bool:
    """Whether a field without quotes around it shows one that has lost its other half."""
    if way == "backslash":  # which every quote of a text would stand behind
        return '"' in re.sub(r"\\.", "", bare)
    return way in _QUOTED and bare.lstrip(" ").startswith('"')


def _num_breaks(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def _field(delimiter: str, way: str) -> re.Pattern[str]:
    """A field: group 1 is what quotes hold, group 2 a field without; each takes linear time."""
    ends = re.escape(delimiter)
    inside, bare = r'(?:[^"]|"")*+', rf"[^{ends}\r\n]*+"
    if way in _ESCAPED:
        inside = r'(?:[^"\\]|\\.|"")*+'
        # who has quotes puts line breaks into them, so a backslash at a line's end is a letter
        behind = r"[^\r\n]|(?=[\r\n]|\Z)" if way in _QUOTED else r"\r\n|.|\Z"
        bare = rf"(?:[^{ends}\r\n\\]|\\(?:{behind}))*+"
    quotes = rf' *+"({inside})" *+(?={ends}|\r|\n|\Z)' if way in _QUOTED else r"(?!)()"
    return re.compile(rf"{quotes}|({bare})", re.DOTALL)


def _value(match: re.Match[str], delimiter: str, way: str) -> str | None:
    value = match[2] if match[1] is None else match[1].replace('""', '"')
    if way not in _ESCAPED:
        return value
    if match[1] is None and value == "\\N":
        return None
    return re.sub(rf'\\(\r\n|["\\\r\n{re.escape(delimiter)}])', r"\1", value)
