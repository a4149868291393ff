"""What errors remember, and how they read in a log and beside a failed computation."""

from __future__ import annotations

from coproc.errors import FatalError, InvalidInput, IrrecoverableError, RecoverableError, log_fields
from coproc.store.base import Failure
from coproc.store.rules import ATTEMPTS_EXHAUSTED, MAX_REASON, failure_of


def failed_read() -> RecoverableError:
    error = RecoverableError("cannot read", handle="ab", attempt=2)
    error.__cause__ = ConnectionResetError("peer went away")
    return error


def test_log_fields_tell_the_whole_story() -> None:
    error = failed_read()
    error.within(attempt=7, key_id="cd", operation=None)
    assert log_fields(error) == {
        "error": "cannot read",
        "rule": "UNAVAILABLE",
        "category": "recoverable",
        "handle": "ab",
        "attempt": 2,
        "key_id": "cd",
        "causes": ["ConnectionResetError: peer went away"],
    }
    assert log_fields(KeyError("x")) == {"error": "'x'", "rule": "KeyError"}


def test_every_category_is_named() -> None:
    kinds = (RecoverableError("x"), IrrecoverableError("x"), InvalidInput("f", "x"), FatalError("x"))
    assert [kind.category.value for kind in kinds] == ["recoverable", "irrecoverable", "irrecoverable", "fatal"]


def test_what_is_stored_names_rule_operation_and_attempts() -> None:
    assert failure_of(failed_read(), attempts=3) == Failure(
        ATTEMPTS_EXHAUSTED, "tried 3 times; the last time: UNAVAILABLE: cannot read"
    )
    assert failure_of(IrrecoverableError("no\0good", operation="DIV"), attempts=3) == Failure("FAILED", "DIV: nogood")
    assert len(failure_of(IrrecoverableError("x" * 9999)).message) == MAX_REASON + len("...")
