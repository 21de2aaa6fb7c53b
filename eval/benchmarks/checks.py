"""Checks that every benchmark makes: fields, ids, the number of questions, options; and a part."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from eval.question import Question
from pipeline.core.recipe import UserError

Record = dict[str, Any]
T = TypeVar("T")


def value_of(record: Record, names: str | Sequence[str], where: str, kind: type[T]) -> T:
    """A field of a record, under the first of `names` that it has.

    A whole number may be written as text and the other way round.

    Raises:
        UserError: It has none of them, or of another kind.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    value = next((record[name] for name in wanted if record.get(name) is not None), None)
    if value is None:
        raise UserError(
            f"{where} has no {' or '.join(wanted)}; it has"
            f" {', '.join(map(str, record)) or 'nothing'}"
        )
    try:
        is_plain = kind in (str, int) and isinstance(value, str | int | float)
        converted = kind(value) if is_plain else value  # type: ignore[call-arg]
    except ValueError:
        converted = value
    if not isinstance(converted, kind):
        raise UserError(f"{where}: expected {wanted[0]} as {kind.__name__}, got {value!r:.80}")
    return converted


def texts_of(record: Record, name: str, where: str) -> tuple[str, ...]:
    """A list of a record, as texts."""
    return tuple(map(str, value_of(record, name, where, list)))


def take_whole(
    records: Sequence[T], limit: int | None, group: Callable[[T], Hashable], questions_each: int = 1
) -> list[T]:
    """The first records of whole groups that give at most `limit` questions; at least one group."""
    if limit is None:
        return list(records)
    groups: dict[Hashable, list[T]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    kept: list[T] = []
    for members in groups.values():
        if kept and (len(kept) + len(members)) * questions_each > limit:
            break
        kept += members
    return kept


def take_evenly(
    records: Sequence[T], limit: int | None, stratum: Callable[[T], Hashable]
) -> list[T]:
    """At most `limit` records, from each stratum in turn, so that few define a score over all."""
    if limit is None:
        return list(records)
    seen: dict[Hashable, int] = {}
    ranked = []
    for index, record in enumerate(records):
        rank = seen.get(stratum(record), 0)
        seen[stratum(record)] = rank + 1
        ranked.append((rank, index, record))
    return [record for _, _, record in sorted(ranked, key=lambda entry: entry[:2])[:limit]]


def checked(
    name: str, questions: list[Question], *, limit: int | None, expected_size: int
) -> list[Question]:
    """The questions, if their ids differ and their number is the expected one.

    Raises:
        UserError: Otherwise.
    """
    seen: set[str] = set()
    for question in questions:
        if question.item_id in seen:
            raise UserError(
                f"{name}: the id {question.item_id!r} occurs twice; every question must occur once"
            )
        seen.add(question.item_id)
    if not questions:
        raise UserError(f"{name}: no questions found")
    if limit is None and len(questions) != expected_size:
        raise UserError(
            f"{name}: expected {expected_size:,} questions, found {len(questions):,}; fetch the"
            " benchmark again, or state expected_size (another version of it) or limit (a part"
            " of it)"
        )
    return questions


def checked_options(
    name: str, given: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """The options with defaults filled in.

    Raises:
        UserError: An option or a value that the benchmark does not know.
    """
    for key, value in given.items():
        if key not in allowed:
            raise UserError(f"{name}: no option {key!r}; it has {', '.join(allowed) or 'none'}")
        if value not in allowed[key]:
            raise UserError(f"{name}: {key}={value!r}; expected one of {', '.join(allowed[key])}")
    return {key: given.get(key, values[0]) for key, values in allowed.items()}
