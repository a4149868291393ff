"""The root of the supervision tree: what runs, in which order it starts and stops, and what the process returns.

Decides the tree::

    root (one for one)
      health       first up, last down: a drain is seen as one
      watchdog     temporary: its failure harms nobody
      observer     likewise; what the operator's page shows
      flags        role worker, with a file of flags
      core (rest for one: each needs those above it)
        postgres   unless a URL was given
        store      pool and migrations
        services (one for one; those of the process's roles)
          results (role results), executor, scheduler and packer (role worker), listener and sweeper (api),
          an actor for every chain (role listener)

and the drain: the listener and the scheduler stop taking work at the same moment and share ``drain_seconds``; then the
executor, results, store, database and health end, in this order. Must not know what any of them does.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc import __version__
from coproc.api.caller import Authenticator
from coproc.api.inputs import ProofPolicy
from coproc.api.service import CoprocessorService, ServiceSettings
from coproc.config import Addresses
from coproc.errors import FatalError, IrrecoverableError, RecoverableError
from coproc.flags import Flags
from coproc.health.view import Identity
from coproc.program.planning import PLAN_VERSION
from coproc.scheduling.model import Policy, jobs_at_once
from coproc.store.open import open_store
from coproc.tracing import exporting
from nurseries.certificates import follow_certificates
from nurseries.chain import ChainActor
from nurseries.executor import JobCall
from nurseries.executors import Executors, make_executor
from nurseries.flags import FlagsActor, scheduler_settings
from nurseries.gpu_executor import devices_of
from nurseries.health import run_health
from nurseries.jobs import Jobs
from nurseries.keys import open_keys
from nurseries.listener import ListenerSettings, run_listener
from nurseries.mailbox import Mailbox
from nurseries.observer import Observer
from nurseries.packer import Packer
from nurseries.postgres import run_postgres
from nurseries.reports import QueueReader, make_report
from nurseries.results import ResultsSettings, run_results
from nurseries.scheduler import Scheduler
from nurseries.supervisor import Child, ChildStatus, Restart, Strategy, Supervisor
from nurseries.sweeper import Sweeper
from nurseries.told import ToldOnce
from nurseries.watchdog import Watchdog

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from coproc.chain.settings import ChainSettings
    from coproc.circuits.strategy import Strategy as CircuitStrategy
    from coproc.config import Config, ExecutorName
    from coproc.health.report import HealthReport
    from coproc.keyring import KeyCache
    from coproc.program.lowering import LoweringSettings
    from coproc.program.planning import Lanes
    from coproc.store.overview import ViewedStore
    from nurseries.executor import RunsJobs

TFHE_VERSIONS: Final = ("1.5", "1.6", "1.7")
JOBS_AT_ONCE: Final = 2
"""On a device; on cores see ``jobs_at_once``."""
GUEST_JOBS: Final = 1
"""Further jobs for tenants of whom nothing is computing."""
CLOSE_SECONDS: Final = 10.0
"""What an actor may take beyond the drain to close its sockets."""
CHECK_SECONDS: Final = 2.0
"""How often the database is asked for a sign of life."""
CLOSING_SECONDS: Final = 50.0
"""What all actors together may take beyond the drain; the chart's grace period is a little longer."""
START_SECONDS: Final = 330.0
"""How long one actor may take to come up; a database may have to recover."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Service:
    """One running service: its actors, and what they hand to those that start after them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ports: dict[str, int] = {}
        """Bound ports by actor; a restarted actor binds the one it had."""
        self.draining = False
        self.started = False
        self.store: ViewedStore | None = None
        self.chains: dict[int, ChainActor] = {}
        self.keys: KeyCache | None = None
        self.executors: Executors | None = None
        self.scheduler: Scheduler | None = None
        self.sweeper: Sweeper | None = None
        self.packer: Packer | None = None
        self.watchdog = Watchdog()
        self.queue = QueueReader(lambda: self.store if "api" in config.roles else None)
        self.flags = FlagsActor(config.flags_file, Flags.of(config), self._follow)
        identity = Identity(__version__, PLAN_VERSION, tuple(sorted(config.roles)))
        self.observer = Observer(self.report, lambda: self.store, identity)
        self.jobs = Mailbox[JobCall]("jobs", JOBS_AT_ONCE)
        self._database_url = config.database_url
        self._stopping: dict[str, trio.Event] = {}
        self._tls_contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        drain = config.drain_seconds
        results = Child("results", self._run_results, stop=partial(self._stop, "results"), stop_grace=CLOSE_SECONDS)
        executor = Child("executor", self._run_executor, start_timeout=START_SECONDS)
        scheduler = Child(
            "scheduler", self._run_scheduler, stop=self._drain_scheduler, stop_grace=drain + CLOSE_SECONDS
        )
        listener = Child(
            "listener", self._run_listener, stop=partial(self._stop, "listener"), stop_grace=drain + CLOSE_SECONDS
        )
        chains = [
            ("listener", Child(f"chain-{chain.chain_id}", partial(self._run_chain, chain))) for chain in config.chains
        ]
        in_order = [("results", results), ("worker", executor), ("worker", scheduler), ("api", listener), *chains]
        in_order.append(("worker", Child("packer", self._run_packer)))
        if config.retention.shortest is not None or config.object_store is not None:
            in_order.append(("api", Child("sweeper", self._run_sweeper)))
        self.services = Supervisor("services", [child for role, child in in_order if role in config.roles])
        services = Child(
            "services",
            self.services.run,
            stop=self._drain,
            stop_grace=2 * drain + 4 * CLOSE_SECONDS,
            start_timeout=START_SECONDS,
        )
        postgres = [] if config.database_url else [Child("postgres", self._run_postgres, start_timeout=START_SECONDS)]
        self.core = Supervisor(
            "core",
            [*postgres, Child("store", self._run_store, start_timeout=START_SECONDS), services],
            strategy=Strategy.REST_FOR_ONE,
        )
        core = Child(
            "core",
            self.core.run,
            stop=self.core.request_stop,
            stop_grace=2 * drain + 6 * CLOSE_SECONDS,
            start_timeout=3 * START_SECONDS,
        )
        observer = [Child("observer", self.observer.run, restart=Restart.TEMPORARY)]
        self.root = Supervisor(
            "root",
            [
                Child("health", self._run_health, stop=partial(self._stop, "health"), stop_grace=CLOSE_SECONDS),
                Child("watchdog", self.watchdog.run, restart=Restart.TEMPORARY),
                *(observer if config.operator_page != "off" else []),
                *([Child("flags", self.flags.run)] if config.flags_file and "worker" in config.roles else []),
                *([Child("certificates", self._run_certificates)] if config.tls_certificate is not None else []),
                core,
            ],
        )

    @property
    def executor(self) -> RunsJobs | None:
        """The one that takes jobs."""
        return None if self.executors is None else self.executors.current

    @property
    def _cores(self) -> int:
        """Those that executors may use."""
        return self.config.threads or len(os.sched_getaffinity(0))

    @property
    def actors(self) -> tuple[ChildStatus, ...]:
        """Every actor of the tree, in start order."""
        return (*self.root.status, *self.core.status, *self.services.status)

    @property
    def is_ready(self) -> bool:
        """Whether callers should come here: everything runs and nothing drains."""
        return self.started and not self.draining and all(status.healthy for status in self.actors)

    @property
    def addresses(self) -> Addresses:
        """Where the service listens, once it does."""
        return Addresses.of(
            self.config.host,
            grpc=self.ports.get("listener"),
            results=self.ports.get("results"),
            health=self.ports["health"],
            tls=self.config.tls_certificate is not None,
        )

    def report(self) -> HealthReport:
        """Say how the service is, for probes and metrics."""
        return make_report(self)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the operator chose that lowers what callers may rely on."""
        trusted = ("input proofs are trusted, not verified",) if self.config.input_proofs == "trust" else ()
        return (*trusted, *self.flags.notices)

    def request_stop(self) -> None:
        """Begin the drain."""
        self.draining = True
        self.root.request_stop()

    # ------------------------------------------------------------------------------------------ stopping

    def _stop(self, actor: str) -> None:
        if actor in self._stopping:
            self._stopping[actor].set()

    def _drain_scheduler(self) -> None:
        if self.scheduler is not None:
            self.scheduler.request_drain()

    def _drain(self) -> None:
        """Stop the services; the scheduler drains while the listener does."""
        self.services.request_stop()
        self._drain_scheduler()

    def _fresh_stop(self, actor: str) -> trio.Event:
        self._stopping[actor] = trio.Event()
        return self._stopping[actor]

    # ------------------------------------------------------------------------------------------ actors

    async def _run_health(self, *, task_status: trio.TaskStatus[object]) -> None:
        from coproc.health.app import make_app  # noqa: PLC0415 - Quart takes a while to import

        config = self.config
        page = None if config.operator_page == "off" else self.observer.page(config.operator_page)
        await self._listening(
            "health",
            task_status,
            partial(
                run_health,
                make_app(self.report, self.queue.read, page),
                config.host,
                self.ports.get("health", config.health_port),
                stopping=self._fresh_stop("health"),
                reuse_port=config.reuse_port,
            ),
        )

    async def _run_postgres(self, *, task_status: trio.TaskStatus[object]) -> None:
        async with trio.open_nursery() as nursery:
            self._database_url = await nursery.start(run_postgres, self.config.data_directory)
            task_status.started()

    async def _run_store(self, *, task_status: trio.TaskStatus[object]) -> None:
        if self._database_url is None:
            raise FatalError("there is no database to open")
        async with open_store(
            self._database_url,
            pool_size=self.config.pool_size,
            migrating=self.config.migrate_on_start,
            objects=self.config.object_store,
        ) as store:
            self.store = store
            self.keys = open_keys(store, self.config.key_cache)
            task_status.started()
            while True:
                await trio.sleep(CHECK_SECONDS)
                try:
                    await store.check()
                except RecoverableError:
                    pass  # the guard before what is away remembers it
                except IrrecoverableError as error:
                    log.warning("the database refuses a sign of life", error=error.message)

    async def _run_results(self, *, task_status: trio.TaskStatus[object]) -> None:
        config = self.config
        store, _ = self._needs()
        settings = ResultsSettings(
            host=config.host,
            port=self.ports.get("results", config.results_port),
            reuse_port=config.reuse_port,
            ssl_context=self._tls(),
            tokens=self._subscriber_tokens(),
            origins=frozenset(config.results_origins),
        )
        run = partial(run_results, store, settings, stopping=self._fresh_stop("results"))
        await self._listening("results", task_status, run)

    async def _run_executor(self, *, task_status: trio.TaskStatus[object]) -> None:
        if self.executors is None:
            self.executors = Executors(self._make_executor, self.flags.flags.executor)
        await self.executors.run(task_status=task_status)

    def _make_executor(self, name: ExecutorName) -> RunsJobs:
        config = self.config
        _, keys = self._needs()
        return make_executor(
            name,
            keys,
            self.jobs,
            threads=config.threads or None,
            jobs=jobs_at_once(self._cores) + GUEST_JOBS,
            device_jobs=JOBS_AT_ONCE + GUEST_JOBS,
            prepared_keys=config.key_cache,
            cache=config.cache_directory,
        )

    async def _run_scheduler(self, *, task_status: trio.TaskStatus[object]) -> None:
        store, keys = self._needs()
        policy, strategy, settings = self._scheduler_settings(self.flags.flags)
        worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.scheduler = Scheduler(
            store,
            Jobs(store, keys, self.jobs, worker=worker, cache_bytes=self.config.ciphertext_cache_bytes),
            policy=policy,
            strategy=strategy,
            settings=settings,
            drain_seconds=self.config.drain_seconds,
        )
        await self.scheduler.run(task_status=task_status)

    def _scheduler_settings(self, flags: Flags) -> tuple[Policy, CircuitStrategy | Lanes, LoweringSettings]:
        config = self.config
        lease, attempts, takeovers = config.lease_seconds, config.attempts, config.takeovers
        jobs = JOBS_AT_ONCE if devices_of(self.executor) else jobs_at_once(self._cores)
        base = Policy(jobs=jobs, guest_jobs=GUEST_JOBS, lease_seconds=lease, attempts=attempts, takeovers=takeovers)
        lanes = self.executor.parallel if self.executor is not None else None
        return scheduler_settings(flags, base, lanes or self._cores)

    async def _follow(self, flags: Flags) -> None:
        """Go over to other flags; what can fail comes first."""
        if self.executors is not None:
            await self.executors.change(flags.executor)
        if self.scheduler is not None:
            self.scheduler.adopt(*self._scheduler_settings(flags))

    async def _run_listener(self, *, task_status: trio.TaskStatus[object]) -> None:
        config = self.config
        for notice in self.notices:
            log.warning(notice, setting="input_proofs", value=config.input_proofs)
        store, keys = self._needs()
        name = self.executor.name if self.executor is not None else None
        service = CoprocessorService(
            store,
            keys,
            ServiceSettings(
                software_version=__version__,
                tfhe_versions=TFHE_VERSIONS,
                plan_version=PLAN_VERSION,
                executors=(name,) if name else (),
                results_port=self.ports.get("results", 0),
                allow_insecure_parameters=config.allow_insecure_parameters,
                input_proofs=ProofPolicy(config.input_proofs),
                limits=config.limits,
                chains=frozenset(chain.chain_id for chain in config.chains),
            ),
        )
        settings = ListenerSettings(
            host=config.host,
            port=self.ports.get("listener", config.grpc_port),
            drain_seconds=config.drain_seconds,
            reuse_port=config.reuse_port,
            ssl_context=self._tls("h2"),
            tokens=frozenset() if config.require_api_keys else config.read_tokens(),
            authenticator=Authenticator(store.find_tenant) if config.require_api_keys else None,
        )
        run = partial(run_listener, service, settings, stopping=self._fresh_stop("listener"))
        await self._listening("listener", task_status, run)

    async def _run_packer(self, *, task_status: trio.TaskStatus[object]) -> None:
        self.packer = Packer(*self._needs(), self.jobs, self.config.compression)
        await self.packer.run(task_status=task_status)

    async def _run_sweeper(self, *, task_status: trio.TaskStatus[object]) -> None:
        self.sweeper = Sweeper(self._needs()[0], self.config.retention)
        await self.sweeper.run(task_status=task_status)

    async def _run_chain(self, settings: ChainSettings, *, task_status: trio.TaskStatus[object]) -> None:
        store, _ = self._needs()
        actor = self.chains[settings.chain_id] = ChainActor(store, settings)
        await actor.run(task_status=task_status)

    async def _listening(
        self, actor: str, task_status: trio.TaskStatus[object], run: Callable[..., Awaitable[object]]
    ) -> None:
        """Run an actor that reports its port, and remember the port."""
        async with trio.open_nursery() as nursery:
            self.ports[actor] = await nursery.start(run)
            task_status.started()

    def _subscriber_tokens(self) -> frozenset[str]:
        """Tokens of the websocket; it knows no API keys, so that without a file of tokens nobody may subscribe."""
        tokens = self.config.read_tokens()
        return frozenset({secrets.token_urlsafe(32)}) if self.config.require_api_keys and not tokens else tokens

    def _tls(self, *protocols: str) -> ssl.SSLContext | None:
        """Make a TLS context that follows its files."""
        context = self.config.server_tls(*protocols)
        if context is not None:
            self._tls_contexts[protocols] = context
        return context

    async def _run_certificates(self, *, task_status: trio.TaskStatus[object]) -> None:
        config = self.config
        if config.tls_certificate is None or config.tls_key is None:
            raise FatalError("there are no certificates to follow")
        await follow_certificates(
            config.tls_certificate, config.tls_key, self._tls_contexts.values, task_status=task_status
        )

    def _needs(self) -> tuple[ViewedStore, KeyCache]:
        if self.store is None or self.keys is None:
            raise RecoverableError("the store is not open")
        return self.store, self.keys


async def serve(config: Config, *, task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED) -> int:
    """Run a service until SIGTERM or SIGINT has drained it; ``task_status`` is told where it listens.

    Returns:
        The exit status: 0 after a drain, 128 plus a signal's number if a second one, or too long a drain, cut it short.

    Raises:
        FatalError: the service could not start, or could not go on.
    """
    async with exporting(config.otlp_endpoint, config.trace_ratio):
        return await _serve(config, task_status)


async def _serve(config: Config, task_status: trio.TaskStatus[Addresses]) -> int:
    service = Service(config)
    cut_short: list[int] = []
    end_by: list[float] = []
    failure: FatalError | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            async with trio.open_nursery() as nursery:
                ended = trio.Event()

                async def listen() -> None:
                    async for number in signals:
                        if service.draining:
                            log.warning("second signal: stopping at once", signal=signal.Signals(number).name)
                            cut_short.append(number)
                            nursery.cancel_scope.cancel(reason="a second signal")
                            return
                        log.info("draining", signal=signal.Signals(number).name, seconds=config.drain_seconds)
                        service.request_stop()
                        end_by.append(trio.current_time() + config.drain_seconds + CLOSING_SECONDS)
                        nursery.cancel_scope.deadline = end_by[0]

                nursery.start_soon(listen)
                await nursery.start(_run_root, service, ended)
                if not service.draining:
                    service.started = True
                    if config.addresses_file is not None:
                        service.addresses.write(config.addresses_file)
                    log.info("ready", roles=sorted(config.roles), **asdict(service.addresses))
                    task_status.started(service.addresses)
                await ended.wait()
                nursery.cancel_scope.cancel(reason="the service has ended")
        except* FatalError as group:
            failure = _first(group)
        finally:
            if config.addresses_file is not None:
                config.addresses_file.unlink(missing_ok=True)
    if failure is not None:
        log.critical("the service stops", rule=failure.rule, error=failure.message)
        raise failure
    if end_by and end_by[0] <= trio.current_time():
        log.warning("the drain took too long and was cut short", seconds=config.drain_seconds + CLOSING_SECONDS)
        cut_short.append(signal.SIGTERM)
    log.info("stopped", cut_short=bool(cut_short))
    return 128 + cut_short[0] if cut_short else 0


async def _run_root(service: Service, ended: trio.Event, *, task_status: trio.TaskStatus[object]) -> None:
    """Run the tree; a stop that comes while it starts counts as started, too, so that nobody waits for it."""
    once = ToldOnce(task_status)
    try:
        await service.root.run(task_status=once)
    finally:
        ended.set()
    once.started()


def _first(group: BaseExceptionGroup[FatalError]) -> FatalError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
