"""Settings: who wins, what is refused and in which words; addresses survive a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from coproc.cli.config import config as config_command
from coproc.config import Addresses, Config, InvalidConfiguration, default_data_directory
from coproc.errors import FatalError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Config.model_fields:
        monkeypatch.delenv(f"COPROC_{name.upper()}", raising=False)


def test_arguments_win_over_variables_and_variables_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_GRPC_PORT", "7001")
    monkeypatch.setenv("COPROC_HEALTH_PORT", "7003")
    config = Config(grpc_port=7000)
    assert (config.grpc_port, config.results_port, config.health_port) == (7000, 50052, 7003)
    assert Config.from_options({"grpc_port": None, "health_port": 0}).grpc_port == 7001


def test_a_limit_can_be_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_LIMITS__MAX_CONNECTIONS", "7")
    limits = Config().limits
    assert (limits.max_connections, limits.max_calls) == (7, 512)


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_RESULTS_ORIGINS", "https://a.example, http://localhost:8000,")
    assert Config().results_origins == ("https://a.example", "http://localhost:8000")
    assert Config(results_origins=("*",)).results_origins == ("*",)


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_DATABASE_URL", "")
    assert Config().database_url is None


def test_nothing_can_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().grpc_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grpc_port": 70000}, r"grpc_port \(COPROC_GRPC_PORT\): .*less than or equal to 65535"),
        ({"grpc_port": "many"}, r"grpc_port \(COPROC_GRPC_PORT\): .*integer"),
        ({"executor": "abacus"}, r"executor .*'auto', 'cpu', 'gpu', 'emulated', 'reference' or 'concrete'"),
        ({"database_url": "mysql://secret"}, r"database_url .*must start with postgresql://"),
        ({"lease_seconds": 0}, "lease_seconds .*greater than or equal to 1"),
        ({"tls_key": "key.pem"}, "tls_certificate and tls_key must be given together"),
        ({"grpc_port": 5, "results_port": 5}, "must differ"),
        ({"results_origins": "https://a,b.example"}, "results_origins .*'b.example' must be"),
        ({"limits": {"max_calls": 0}}, "limits .*max_calls must be positive"),
        ({"object_store_url": "s3://bucket"}, r"object_store_url \(COPROC_OBJECT_STORE_URL\): .*pattern"),
        ({"object_store_url": "https://key:secret@host/bucket"}, "object_store_url .*pattern"),
        ({"object_store_access_key": "secret"}, "_access_key and object_store_.*_key must be given together"),
        ({"object_store_url": "http://host/bucket", "database_url": "memory://"}, "object_store_url needs a Postgres"),
        ({"object_store_keep_seconds": 60}, "object_store_keep_seconds .*greater than or equal to 3600"),
        ({"colour": "blue"}, r"colour \(COPROC_COLOUR\): "),
    ],
)
def test_a_refusal_names_the_setting_and_the_rule(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message) as caught:
        Config(**values)
    assert isinstance(caught.value, FatalError)
    assert "secret" not in str(caught.value).replace("secret_key", "")


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidConfiguration, match=r"grpc_port.*; .*threads"):
        Config(grpc_port=-1, threads=-1)


def test_a_broken_variable_is_refused_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_LIMITS", "{")
    with pytest.raises(InvalidConfiguration, match="limits"):
        Config()


def test_the_password_of_the_database_is_not_shown() -> None:
    assert "hush" not in repr(Config(database_url="postgresql://user:hush@host/db"))


def test_an_object_store_is_described_by_a_few_settings() -> None:
    assert Config().object_store is None
    config = Config(
        object_store_url="https://s3.example:9000/bucket/some/prefix",
        object_store_access_key="name",
        object_store_secret_key="hush",  # noqa: S106
    )
    assert config.object_store is not None
    assert (config.object_store.region, config.object_store.from_bytes) == ("us-east-1", 65536)
    for text in (repr(config), repr(config.object_store), str(config.describe({}))):
        assert "hush" not in text
        assert "s3.example" in text


def test_the_data_directory_follows_the_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_data_directory() == tmp_path / "coproc"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert tmp_path not in default_data_directory().parents


def test_tokens_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    assert Config().read_tokens() == frozenset()
    with pytest.raises(InvalidConfiguration, match="tokens_file: cannot be read"):
        Config(tokens_file=file).read_tokens()
    file.write_text("# staff\none\n\n  two \n")
    assert Config(tokens_file=file).read_tokens() == {"one", "two"}
    file.write_text("# nobody yet\n")
    with pytest.raises(InvalidConfiguration, match="at least one token"):
        Config(tokens_file=file).read_tokens()


def test_unusable_certificates_are_refused(tmp_path: Path) -> None:
    assert Config().server_tls("h2") is None
    file = tmp_path / "pem"
    with pytest.raises(InvalidConfiguration, match="cannot be used: No such file"):
        Config(tls_certificate=file, tls_key=file).server_tls("h2")
    file.write_text("no pem")
    with pytest.raises(InvalidConfiguration, match="tls_certificate, tls_key: cannot be used"):
        Config(tls_certificate=file, tls_key=file).server_tls("h2")


def test_addresses_survive_a_file(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    addresses = Addresses.of("0.0.0.0", grpc=1, results=2, health=3)  # noqa: S104 - not bound
    assert addresses == Addresses("127.0.0.1:1", "ws://127.0.0.1:2/", "http://127.0.0.1:3")
    addresses.write(file)
    assert Addresses.read(file) == addresses
    assert [path.name for path in tmp_path.iterdir()] == ["addresses.json"]


def test_addresses_of_six_colons() -> None:
    addresses = Addresses.of("::", grpc=1, results=2, health=3, tls=True)
    assert addresses.results == "wss://[::1]:2/"
    assert addresses.grpc_target == ("::1", 1)


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"grpc": "x"})])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "addresses.json"
    file.write_text(content)
    with pytest.raises(InvalidConfiguration, match="addresses_file"):
        Addresses.read(file)


def test_addresses_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="addresses_file: cannot be written"):
        Addresses.of("::1", grpc=1, results=2, health=3).write(tmp_path / "nowhere" / "file")


def test_layers_win_over_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, secrets = tmp_path / "settings.toml", tmp_path / "secrets"
    secrets.mkdir()
    file.write_text("threads = 1\nattempts = 2\ngrpc_port = 1\nhealth_port = 7\n[limits]\nmax_calls = 9\n")
    (secrets / "database_url").write_text("postgresql://user:hush@host/db\n")
    (secrets / "grpc_port").write_text("3")
    (secrets / "..data").write_text("of the orchestrator")
    monkeypatch.setenv("COPROC_CONFIG_FILE", str(file))
    for name, value in {"ATTEMPTS": "4", "GRPC_PORT": "2", "LIMITS__MAX_CONNECTIONS": "5"}.items():
        monkeypatch.setenv(f"COPROC_{name}", value)
    options = {"secrets_directory": secrets, "health_port": 8, "host": None}
    config = Config.from_options(options)
    assert (config.threads, config.attempts, config.grpc_port, config.health_port) == (1, 4, 3, 8)
    assert (config.limits.max_calls, config.limits.max_connections) == (9, 5)
    shown = {name: (value, origin) for name, value, origin in config.describe(options)}
    assert shown["threads"] == (1, "file")
    assert shown["attempts"] == (4, "environment")
    assert shown["grpc_port"] == (3, "secret")
    assert shown["health_port"] == (8, "command line")
    assert shown["host"] == ("127.0.0.1", "default")
    assert shown["limits.max_calls"] == (9, "file")
    assert shown["limits.max_connections"] == (5, "environment")
    assert shown["database_url"] == ("********", "secret")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "x = ", "config_file: "),
        ("a.json", "[]", "config_file: must be a table"),
        ("a.toml", "colour = 1", "colour"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidConfiguration, match=message):
        Config(config_file=tmp_path / name)
    with pytest.raises(InvalidConfiguration, match="secrets_directory: cannot be read"):
        Config(secrets_directory=tmp_path / "nowhere")


def test_the_command_line_shows_and_checks(tmp_path: Path) -> None:
    run = CliRunner()
    shown = run.invoke(config_command, ["show", "--json", "--grpc-port", "9", "--database-url", "memory://hush"])
    assert json.loads(shown.output)["grpc_port"] == {"value": 9, "origin": "command line"}
    assert "hush" not in shown.output
    assert "(default)" in run.invoke(config_command, ["show"]).output
    assert run.invoke(config_command, ["check"]).exit_code == 0
    wrong = run.invoke(config_command, ["check", "--tokens-file", str(tmp_path / "none")])
    assert isinstance(wrong.exception, InvalidConfiguration)


def test_ages_of_retention_are_long_enough_or_endless() -> None:
    retention = Config(retain_intermediates_seconds=0, retain_uploads_seconds=60).retention
    assert (retention.intermediates, retention.uploads, retention.results) == (None, 60, None)
    assert Config().retention.shortest == 86_400
    with pytest.raises(InvalidConfiguration, match=r"retain_results_seconds .*must be 0"):
        Config(retain_results_seconds=59)


def test_the_command_line_knows_flags(tmp_path: Path) -> None:
    run, flags = CliRunner(), tmp_path / "flags.json"
    flags.write_text('{"maximum_batch": 5, "rewrites": {"gates": false, "column_sums": true}, "strategy": "auto"}')
    options = ["--json", "--flags-file", str(flags)]
    shown = json.loads(run.invoke(config_command, ["show", *options]).output)
    assert shown["maximum_batch"] == {"value": 5, "origin": "flags"}
    assert shown["rewrites_off"] == {"value": ["gates"], "origin": "flags"}
    assert shown["strategy"] == {"value": "auto", "origin": "default"}, "says the same"
    assert run.invoke(config_command, ["check", *options[1:]]).exit_code == 0
    flags.write_text('{"maximum_batch": 5, "rewrite": {}}')
    for command in (["show", *options], ["check", *options[1:]]):
        assert isinstance(run.invoke(config_command, command).exception, InvalidConfiguration)
