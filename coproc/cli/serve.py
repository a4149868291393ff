"""``coproc serve``: run the service until SIGTERM.

Decides which settings have an option of their own; every setting can also be given as a ``COPROC_...`` variable.
"""

from __future__ import annotations

from pathlib import Path

import click

from coproc.config import Config
from coproc.telemetry import configure_logging

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--config-file", type=_FILE, help="Settings by name, in TOML or JSON.")
@click.option(
    "--secrets-directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="A file for each secret setting, named like it.",
)
@click.option("--flags-file", type=_FILE, help="Feature flags in JSON, which workers follow while they run.")
@click.option("--roles", help="What this process does: api, worker, results, listener, with commas.  [default: all]")
@click.option("--migrate-on-start/--no-migrate-on-start", default=None, help="Apply migrations, or wait for them.")
@click.option("--database-url", help="postgresql://...; without it an embedded Postgres runs in the data directory.")
@click.option("--data-directory", type=click.Path(path_type=Path, file_okay=False), help="For the embedded database.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--grpc-port", type=int, help="Compute API; 0 takes any free port.  [default: 50051]")
@click.option("--results-port", type=int, help="Websocket of results.  [default: 50052]")
@click.option("--health-port", type=int, help="Health over HTTP.  [default: 50053]")
@click.option("--executor", help="auto, cpu, gpu, emulated, reference or concrete.  [default: auto]")
@click.option("--threads", type=int, help="Worker threads of the executor; 0 takes all cores.  [default: 0]")
@click.option("--strategy", help="throughput (fewest bootstraps), latency (fewest rounds) or auto.  [default: auto]")
@click.option("--batch-window-seconds", type=float, help="How long work waits for company.  [default: 0.005]")
@click.option("--drain-seconds", type=float, help="How long work may take to finish after SIGTERM.  [default: 30]")
@click.option("--tokens-file", type=_FILE, help="Bearer tokens of callers, one a line; without it all are served.")
@click.option("--tls-certificate", type=_FILE, help="PEM chain; with --tls-key.")
@click.option("--tls-key", type=_FILE, help="PEM key; with --tls-certificate.")
@click.option("--addresses-file", type=_FILE, help="Written when everything is ready: the ports, as JSON.")
@click.option("--input-proofs", help="verify, or trust: ignore the proofs of encrypted inputs.  [default: verify]")
@click.option("--allow-insecure-parameters", is_flag=True, default=None, help="Accept toy keys: for tests alone.")
@click.option("--log-format", help="json, console or auto.  [default: auto]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
def serve(**options: str | float | bool | Path | None) -> None:
    """Run the service: gRPC API, scheduler, executor, results, health and, by default, a database.

    SIGTERM drains: nothing new is accepted, work in flight finishes, the exit status is 0. A second one stops at once.
    """
    import trio  # noqa: PLC0415 - heavy, and --help should be instant

    from nurseries.memory import keep_large_arrays_apart  # noqa: PLC0415
    from nurseries.root import serve as run  # noqa: PLC0415 - heavy

    config = Config.from_options(options)
    configure_logging(config.log_format, config.log_level)
    keep_large_arrays_apart()
    raise click.exceptions.Exit(trio.run(run, config))
