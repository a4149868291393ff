"""The command line, as people use it: keys, ciphertexts, programs, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from coproc.cli import COMMANDS, cli
from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.cli.service import Service


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "keys"
    assert run("keygen", "--out", folder, "--toy", "--tag", "mine").exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("text", "name", "shown"), [("77", "euint8", "77"), ("true", "ebool", "true"), ("0xff", "eint16", "255")]
)
def test_what_is_encrypted_decrypts(keys: Path, tmp_path: Path, text: str, name: str, shown: str) -> None:
    out = tmp_path / "value.ct"
    assert run("encrypt", text, "--type", name, "--key", keys / "client.key", "--out", out).exit_code == 0
    assert run("decrypt", out, "--key", keys / "client.key").output.strip() == shown


def test_keys_are_secret_and_never_overwritten(keys: Path) -> None:
    assert (keys / "client.key").stat().st_mode & 0o777 == 0o600
    again = run("keygen", "--out", keys, "--toy")
    assert again.exit_code == 1
    assert "never overwritten" in again.output


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [("256", "euint8", "does not fit"), ("x", "euint8", "no integer"), ("1", "euint7", "no encrypted type")],
)
def test_values_that_make_no_sense_are_named(keys: Path, tmp_path: Path, text: str, name: str, fault: str) -> None:
    result = run("encrypt", text, "--type", name, "--key", keys / "client.key", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert fault in " ".join(result.output.split())


def test_a_program_of_files_runs(keys: Path, tmp_path: Path, running_service: Service) -> None:
    for name, value in (("a", "40"), ("b", "30")):
        run("encrypt", value, "--type", "euint16", "--key", keys / "client.key", "--out", tmp_path / f"{name}.ct")
    program = tmp_path / "program.json"
    program.write_text(
        json.dumps(
            {
                "inputs": {
                    "a": {"type": "euint16", "file": "a.ct"},
                    "b": {"type": "euint16", "file": "b.ct"},
                    "c": {"type": "euint16", "value": 1000},
                },
                "computations": [
                    {"name": "product", "operation": "mul", "operands": ["a", "b"]},
                    {"name": "larger", "operation": "gt", "operands": ["product", "c"]},
                    {"name": "shown", "operation": "if_then_else", "operands": ["larger", "product", "c"]},
                    {"name": "wide", "operation": "cast", "operands": ["shown"], "type": "euint64"},
                ],
                "outputs": ["larger", "wide"],
            }
        )
    )
    server = f"127.0.0.1:{running_service.grpc_port}"
    result = run("submit", program, "--server-key", keys / "server.key", "--server", server, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert run("decrypt", tmp_path / "wide.ct", "--key", keys / "client.key").output.strip() == "1200"
    assert run("decrypt", tmp_path / "larger.ct", "--key", keys / "client.key").output.strip() == "true"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ('{"outputs": ["nobody"]}', "outputs[0]"),
        ('{"computations": [{"name": "a", "operation": "add", "operands": []}]}', "'a' is taken"),
        ('{"computations": [{"name": "x", "operation": "plus", "operands": []}]}', "'plus' is unknown"),
        ('{"computations": [{"name": "x", "operation": "add", "operands": ["z", 1]}]}', "'z' is not defined above"),
        ('{"computations": [{"name": "x", "operation": "cast", "operands": ["a"]}]}', "must name the type"),
        ('{"inputs": {"a": {"type": "euint9", "value": 1}}}', "no encrypted type"),
        ('{"extra": 1}', "extra"),
    ],
)
def test_programs_that_make_no_sense_are_named(
    keys: Path, tmp_path: Path, running_service: Service, change: str, fault: str
) -> None:
    program: dict[str, object] = {"inputs": {"a": {"type": "euint8", "value": 1}}, "computations": [], "outputs": ["a"]}
    path = tmp_path / "program.json"
    path.write_text(json.dumps(program | json.loads(change)))
    server = f"127.0.0.1:{running_service.grpc_port}"
    result = run("submit", path, "--server-key", keys / "server.key", "--server", server, "--out", tmp_path)
    assert isinstance(result.exception, InvalidInput)
    assert fault in str(result.exception)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_text(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_our_errors_are_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "coproc", "serve", "--database-url", "mysql://x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error [INVALID_CONFIGURATION]: database_url")
    assert ended.stderr.count("\n") == 1


def test_doctor_says_what_there_is() -> None:
    found = json.loads(run("doctor", "--json").output)
    assert found["cpu"]["status"] == "ok"
    assert found["database"]["status"] == "ok"
    assert "gpu" in found


def test_demo_tells_the_truth_as_json() -> None:
    result = run("demo", "--toy", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["is_right"]
    assert report["bootstraps"] == 112
    assert [row["decrypted"] for row in report["rows"]] == [row["expected"] for row in report["rows"]]
    assert report["rows"][0]["decrypted"] > 0


@pytest.mark.parametrize("form", ["--packed", "--unpacked"])
def test_values_under_the_public_key_are_uploaded_and_used(
    keys: Path, tmp_path: Path, running_service: Service, form: str
) -> None:
    listed = tmp_path / "inputs.list"
    values = ("euint8:40", "ebool:true", "eint16:-300")
    made = run("encrypt-list", *values, "--public-key", keys / "public.key", "--out", listed, form)
    assert made.exit_code == 0, made.output
    server = f"127.0.0.1:{running_service.grpc_port}"
    uploaded = run("upload", listed, "--server-key", keys / "server.key", "--server", server)
    assert uploaded.exit_code == 0, uploaded.output
    handles = [line.split()[0] for line in uploaded.output.splitlines()]
    assert [line.split()[1] for line in uploaded.output.splitlines()] == ["euint8", "ebool", "eint16"]
    program = {
        "inputs": {
            "a": {"type": "euint8", "handle": handles[0]},
            "b": {"type": "ebool", "handle": handles[1]},
            "c": {"type": "eint16", "handle": handles[2]},
        },
        "computations": [
            {"name": "more", "operation": "add", "operands": ["a", 2]},
            {"name": "chosen", "operation": "if_then_else", "operands": ["b", "more", "a"]},
            {"name": "less", "operation": "sub", "operands": ["c", 1]},
        ],
        "outputs": ["chosen", "less"],
    }
    path = tmp_path / "program.json"
    path.write_text(json.dumps(program), "utf-8")
    result = run("submit", path, "--server-key", keys / "server.key", "--server", server, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert run("decrypt", tmp_path / "chosen.ct", "--key", keys / "client.key").output.strip() == "42"
    assert run("decrypt", tmp_path / "less.ct", "--key", keys / "client.key").output.strip() == "-301"


def test_bindings_are_whole_or_absent(keys: Path, tmp_path: Path) -> None:
    listed = tmp_path / "inputs.list"
    assert run("encrypt-list", "ebool:false", "--public-key", keys / "public.key", "--out", listed).exit_code == 0
    result = run("upload", listed, "--server-key", keys / "server.key", "--chain-id", "1")
    assert result.exit_code == 2
    assert "must be given together" in " ".join(result.output.split())
    result = run("encrypt-list", "euint8", "--public-key", keys / "public.key", "--out", listed)
    assert result.exit_code == 2
    assert "must be TYPE:VALUE" in " ".join(result.output.split())
