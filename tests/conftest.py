"""Fixtures that every test may use."""

import structlog

from tests.fixtures.clock import pytest_collection_modifyitems
from tests.fixtures.database import (
    database_url,
    empty_database_url,
    migrated_template,
    postgres_url,
    store,
    store_place,
)
from tests.fixtures.keys import toy_client_key, toy_evaluation_key, toy_server_key
from tests.fixtures.objects import object_settings, objects, shared_objects
from tests.fixtures.service import running_service

__all__ = [
    "database_url",
    "empty_database_url",
    "migrated_template",
    "object_settings",
    "objects",
    "postgres_url",
    "pytest_collection_modifyitems",
    "running_service",
    "shared_objects",
    "store",
    "store_place",
    "toy_client_key",
    "toy_evaluation_key",
    "toy_server_key",
]

# What a crash logs is read by people when a test fails; with the values of all local variables, as structlog shows them
# by default, writing it takes seconds on a busy machine.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
