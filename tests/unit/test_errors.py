"""Errors: what is logged of them."""

from chatapi.errors import traceback_without_messages


def first():
    raise ValueError("a caller's words")


def second():
    try:
        first()
    except ValueError as error:
        raise LookupError("a caller's words too") from error


def test_an_error_and_its_causes_are_told_by_type_and_place_without_what_they_say():
    try:
        second()
    except LookupError as error:
        told = traceback_without_messages(error)
    assert told.index("LookupError") < told.index("caused by ValueError")
    assert "in second" in told and "in first" in told
    assert not [line for line in told.splitlines() if "caller's words" in line and "raise" not in line]
