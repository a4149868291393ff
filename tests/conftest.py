"""Fixtures that every test may use."""

from tests.fixtures.clock import pytest_collection_modifyitems
from tests.fixtures.database import (
    database_url,
    empty_database_url,
    migrated_template,
    postgres_url,
    store,
    store_url,
)
from tests.fixtures.keys import toy_client_key, toy_evaluation_key, toy_server_key
from tests.fixtures.service import running_service

__all__ = [
    "database_url",
    "empty_database_url",
    "migrated_template",
    "postgres_url",
    "pytest_collection_modifyitems",
    "running_service",
    "store",
    "store_url",
    "toy_client_key",
    "toy_evaluation_key",
    "toy_server_key",
]
