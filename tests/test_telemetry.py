"""Logs of both kinds come out as one line each, in the format asked for."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys, structlog
from coproc.telemetry import configure_logging
log = structlog.get_logger("before")
configure_logging(sys.argv[1], sys.argv[2])
log.info("hello", number=1)
log.debug("hidden")
logging.getLogger("foreign").warning("from the standard library")
secret = "pass" + "word"
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
"""


def run(log_format: str, level: str) -> tuple[str, list[str]]:
    command = [sys.executable, "-c", PROGRAM, log_format, level]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.splitlines()


def test_json_is_one_object_a_line_on_standard_error() -> None:
    output, lines = run("auto", "info")
    assert output == ""
    records = [json.loads(line) for line in lines]
    assert [record["event"] for record in records] == ["hello", "from the standard library", "broken"]
    assert records[0]["number"] == 1
    assert records[2]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert "password" not in lines[2]


def test_console_is_for_people_and_levels_are_kept() -> None:
    _, lines = run("console", "warning")
    text = "\n".join(lines)
    assert "hello" not in text
    assert "from the standard library" in text
    assert "ZeroDivisionError" in text
