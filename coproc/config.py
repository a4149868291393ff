"""Configuration of a service: arguments, then secrets, then ``COPROC_...`` variables, then a file, then defaults.

Decides names, defaults and bounds of everything an operator can set, and says what is wrong with a value in one line.
It must not know who uses a setting. ``Addresses`` is the other direction: where a started service can be reached.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast, get_args

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from coproc.api.limits import Limits
from coproc.chain.settings import ChainSettings  # noqa: TC001 - pydantic reads it
from coproc.layers import InvalidConfiguration, find_origins, read_file, read_secrets, read_variables
from coproc.store.forms import EVERY_SECONDS, Compression
from coproc.store.objects import FROM_BYTES, KEEP_SECONDS, ObjectSettings
from coproc.store.retention import REORG_DEPTH, Retention

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE_SCHEMES: Final = ("postgresql://", "postgres://", "memory://")
PREFIX: Final = "COPROC_"
MASK: Final = "********"
SHORTEST_RETENTION: Final = 60.0
"""A caller uploads first and submits then: what it uploaded must be there that long."""
_ORIGIN: Final = re.compile(r"https?://[^/\s,]+")

Port = Annotated[int, Field(ge=0, le=65535)]
ExecutorName = Literal["auto", "cpu", "gpu", "emulated", "reference", "concrete"]
StrategyName = Literal["auto", "throughput", "latency"]
ShiftSemantics = Literal["modulo", "zero"]
RoleName = Literal["api", "worker", "results", "listener"]
ProofPolicyName = Literal["verify", "trust"]
RewriteName = Literal[
    "common_steps",
    "select_of_sum",
    "difference_of_sum",
    "column_sums",
    "boolean_trees",
    "known_inputs",
    "known_choices",
    "borrow_of_difference",
    "division_pairs",
    "shared_look_ups",
    "many_look_up_tables",
    "gates",
    "lazy_selects",
    "dead_look_ups",
]
REWRITES: Final[tuple[RewriteName, ...]] = get_args(RewriteName)
BatchWindow = Annotated[float, Field(ge=0, le=10)]
MaximumBatch = Annotated[int, Field(ge=1, le=10_000)]
PageAccess = Literal["local", "all", "off"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

ALL_ROLES: Final = frozenset[RoleName]({"api", "worker", "results", "listener"})


def default_data_directory() -> Path:
    """Choose where the embedded database lives.

    For root that is not its home: Postgres refuses to run as root, and the account it runs as cannot enter there.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/coproc")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "coproc"


def default_cache_directory() -> Path:
    """Choose where compiled kernels are kept: the user's folder for what may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "coproc"
    try:
        return Path.home() / ".cache" / "coproc"
    except RuntimeError:  # an account without a home
        return Path("/var/cache/coproc")


class Config(BaseSettings):
    """All settings of one service, frozen. Ports of 0 mean any free port.

    ``Config(grpc_port=0)`` overrides a file ``grpc_port`` of ``secrets_directory``, which overrides the variable
    ``COPROC_GRPC_PORT``, which overrides ``config_file``, which overrides the default. Limits are set as
    ``COPROC_LIMITS__MAX_CONNECTIONS``. A new setting is a field with a default and a line about it; ``repr=False``
    makes it a secret, which is never shown. Raises InvalidConfiguration.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    config_file: Path | None = None
    """Settings by name, in TOML (or JSON, by its name)."""
    secrets_directory: Path | None = None
    """One file for each secret setting, named like it."""
    flags_file: Path | None = None
    """Flags in JSON that workers follow while they run; see ``coproc.flags``."""
    roles: Annotated[frozenset[RoleName], NoDecode] = ALL_ROLES
    """What this process does: ``api`` (gRPC), ``worker`` (scheduler and executor), ``results`` (websocket),
    ``listener`` (an actor for each of ``chains``), separated by commas. Processes of all roles share one Postgres."""
    migrate_on_start: bool = True
    """Bring the database to this version's schema; False: wait until ``coproc migrate`` has done so."""
    database_url: str | None = Field(default=None, repr=False)
    """``postgresql://...`` or ``memory://``; None runs an embedded Postgres in ``data_directory``."""
    object_store_url: str | None = Field(default=None, pattern=r"^https?://[^@/?#\s]+/[\w.-]+(/[\w.-]+)*/?$")
    """Where large values of a Postgres go, S3-compatible: ``https://host/bucket`` or ``https://host/bucket/prefix``."""
    object_store_region: str = Field(default="us-east-1", min_length=1)
    object_store_access_key: str | None = Field(default=None, repr=False)
    """With ``object_store_secret_key``; without them, those of variables ``AWS_...``, of the pod or the machine."""
    object_store_secret_key: str | None = Field(default=None, repr=False)
    object_store_from_bytes: int = Field(default=FROM_BYTES, ge=1)
    """Ciphertexts and parts of keys of this size and more go to the object store."""
    object_store_keep_seconds: float = Field(default=KEEP_SECONDS, ge=3600)
    """How long objects stay after nothing refers to them: longer than the oldest backup that may be restored."""
    data_directory: Path = Field(default_factory=default_data_directory)
    pool_size: int = Field(default=8, ge=2, le=1000)
    """The most database connections for statements (one more listens for wake-ups)."""

    host: str = Field(default="127.0.0.1", min_length=1)
    grpc_port: Port = 50051
    results_port: Port = 50052
    health_port: Port = 50053
    reuse_port: bool = False
    """Let the next process listen while this one drains (same machine only)."""
    addresses_file: Path | None = None
    """Written once everything is ready: where the service listens, as ``Addresses`` in JSON."""
    tokens_file: Path | None = None
    """Bearer tokens of callers, one a line; without the file everybody is served."""
    require_api_keys: bool = False
    """gRPC calls must carry an API key of a tenant (``coproc tenants``); ``tokens_file`` then is for subscribers."""
    results_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Web pages that may subscribe to results: ``https://host``, separated by commas; ``*`` means all."""
    tls_certificate: Path | None = None
    """PEM chain of the server, for gRPC and the results websocket. With ``tls_key`` or not at all."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM file of authorities: clients must show a certificate of theirs (mutual TLS)."""

    executor: ExecutorName = "auto"
    """``auto``: the GPU where there is one, else the cores of this machine."""
    threads: int = Field(default=0, ge=0, le=4096)
    """Worker threads of the executor; 0: one for every core that this process may use."""
    strategy: StrategyName = "auto"
    """``auto``: by how full the executor's threads are. Workers that must agree on ciphertext bytes set another one."""
    batch_window_seconds: BatchWindow = 0.005
    """How long work may wait for more work to share a batch with."""
    maximum_batch: MaximumBatch = 64
    """The most groups of computations merged into one job."""
    lease_seconds: float = Field(default=30.0, ge=1, le=3600)
    """How long claimed work stays with a worker that gives no sign of life."""
    attempts: int = Field(default=3, ge=1, le=100)
    """How often computing a group may fail for reasons that pass before its computations fail."""
    takeovers: int = Field(default=10, ge=1, le=1000)
    """How often a group is taken over from workers that ended, before it counts as what ends them and fails."""
    drain_seconds: float = Field(default=30.0, ge=0, le=3600)
    """How long work in flight may take to finish after the stop signal."""
    key_cache: int = Field(default=2, ge=1, le=1000)
    """Evaluation keys kept in memory; a real one takes 120 MB."""
    ciphertext_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Ciphertext blocks that a worker keeps in memory: one of 64 bits takes half a MB under real parameters."""
    retain_intermediates_seconds: float = Field(default=86_400, ge=0)
    """How long what nobody may read is kept once no work needs it; 0: for ever. Like the two below, at least 60."""
    retain_uploads_seconds: float = Field(default=0, ge=0)
    """How long uploads are kept after the newest work that reads them; 0: for ever."""
    retain_results_seconds: float = Field(default=0, ge=0)
    """How long results that callers may read are kept after the newest work that reads them; 0: for ever."""
    cache_directory: Path = Field(default_factory=default_cache_directory)
    """Kernels compiled for this machine are kept there; it may be read-only or deleted at any time."""
    compress_after_seconds: float = Field(default=86_400, ge=0)
    """How long ciphertexts must be idle before workers compress them, where the server key can; 0: never."""
    allow_insecure_parameters: bool = False
    """Accept keys without a published security level: for tests alone."""
    shift_semantics: ShiftSemantics = "modulo"
    """What a shift by at least the width gives: ``modulo`` as TFHE-rs up to 1.7, ``zero`` as from 1.8."""
    rewrites_off: frozenset[RewriteName] = frozenset()
    """Rewrite rules that plans leave out, as a JSON list; every worker of a network must leave out the same."""
    input_proofs: ProofPolicyName = "verify"
    """Of lists of encrypted inputs: ``verify`` refuses what needs a proof, as there is no verifier; ``trust`` ignores
    proofs, so that callers are trusted to know what they encrypt and for whom."""
    limits: Limits = Field(default_factory=Limits)
    chains: tuple[ChainSettings, ...] = ()
    """Chains whose contracts call, in JSON or as tables ``[[chains]]`` of the file."""

    operator_page: PageAccess = "local"
    """Who may open the page for people on the health port: ``local``, this machine; ``all``, whoever reaches the port;
    ``off``, nobody."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^@\s]+$")
    """Where traces go by OTLP over HTTP, ``http://collector:4318``; None: there are none."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of traces begun here that is kept; callers that send a ``traceparent`` decide for theirs."""

    log_format: LogFormat = "auto"
    """``auto``: for people on a terminal, JSON otherwise."""
    log_level: LogLevel = "info"

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - checked there
        except ValidationError as error:
            faults = "; ".join(
                _describe(fault["loc"], fault["msg"]) for fault in error.errors(include_url=False, include_input=False)
            )
            raise InvalidConfiguration(faults) from None  # the cause would show values
        except SettingsError as error:
            raise InvalidConfiguration(f"variables: {error}") from None

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Config:
        """Make a configuration from command-line options, in which None means not given."""
        return cls(**{name: value for name, value in options.items() if value is not None})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the layers, those first that win."""
        given = env_settings() | init_settings()
        file, secrets = _read_named(given.get("config_file"), given.get("secrets_directory"))
        return (
            init_settings,
            InitSettingsSource(settings_cls, secrets),
            env_settings,
            InitSettingsSource(settings_cls, file),
        )

    def describe(self, options: Mapping[str, object]) -> list[tuple[str, object, str]]:
        """List every setting with its value as JSON has it and the layer that gave it; secrets are masked.

        Args:
            options: those that the configuration was made from.
        """
        values: dict[str, object] = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, dict):
                values |= {f"{name}.{part}": inner for part, inner in cast("dict[str, object]", value).items()}
            elif isinstance(value, list):
                values[name] = value if name == "chains" else sorted(cast("list[str]", value))
            else:
                values[name] = value
        for name, field in type(self).model_fields.items():
            if not field.repr and values[name] is not None:
                values[name] = MASK
        file, secrets = _read_named(self.config_file, self.secrets_directory)
        given = {name: value for name, value in options.items() if value is not None}
        origins = find_origins(values, given, secrets, read_variables(PREFIX), file)
        return [(name, value, origins[name]) for name, value in values.items()]

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(DATABASE_SCHEMES):
            raise ValueError(f"must start with {' or '.join(DATABASE_SCHEMES)}")
        return url

    @field_validator("results_origins", "roles", mode="before")
    @classmethod
    def _split_commas(cls, parts: object) -> object:
        return tuple(part.strip() for part in parts.split(",") if part.strip()) if isinstance(parts, str) else parts

    @field_validator("roles")
    @classmethod
    def _check_roles(cls, roles: frozenset[RoleName]) -> frozenset[RoleName]:
        if not roles:
            raise ValueError("must name at least one role")
        return roles

    @field_validator("chains")
    @classmethod
    def _check_chains(cls, chains: tuple[ChainSettings, ...]) -> tuple[ChainSettings, ...]:
        if len({chain.chain_id for chain in chains}) != len(chains):
            raise ValueError("must name every chain once")
        return chains

    @field_validator("results_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} must be * or like https://host or https://host:port")
        return origins

    @field_validator("retain_intermediates_seconds", "retain_uploads_seconds", "retain_results_seconds")
    @classmethod
    def _check_retention(cls, seconds: float) -> float:
        if 0 < seconds < SHORTEST_RETENTION:
            raise ValueError(f"must be 0 (for ever) or at least {SHORTEST_RETENTION:.0f}")
        return seconds

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: Limits) -> Limits:
        for field in fields(limits):
            if getattr(limits, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive")
        return limits

    @model_validator(mode="after")
    def _check_together(self) -> Config:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.roles != ALL_ROLES and (self.database_url is None or self.database_url.startswith("memory:")):
            raise ValueError("roles can be left out only on a shared database: database_url must be postgresql://...")
        if (self.object_store_access_key is None) != (self.object_store_secret_key is None):
            raise ValueError("object_store_access_key and object_store_secret_key must be given together")
        if self.object_store_url is not None and (self.database_url or "").startswith("memory:"):
            raise ValueError("object_store_url needs a Postgres: what is in memory stays there")
        chosen = [port for port in (self.grpc_port, self.results_port, self.health_port) if port]
        if len(set(chosen)) != len(chosen):
            raise ValueError("grpc_port, results_port and health_port must differ")
        return self

    @property
    def object_store(self) -> ObjectSettings | None:
        """Where large values go; None: into the database."""
        if self.object_store_url is None:
            return None
        return ObjectSettings(
            self.object_store_url,
            self.object_store_region,
            self.object_store_access_key,
            self.object_store_secret_key,
            self.object_store_from_bytes,
            self.object_store_keep_seconds,
        )

    @property
    def compression(self) -> Compression | None:
        """When ciphertexts are compressed; None: never."""
        after = self.compress_after_seconds
        return Compression(after, every=min(EVERY_SECONDS, after)) if after else None

    @property
    def retention(self) -> Retention:
        """How long ciphertexts are kept."""
        return Retention(
            self.retain_intermediates_seconds or None,
            self.retain_uploads_seconds or None,
            self.retain_results_seconds or None,
            max([REORG_DEPTH, *(chain.reorg_depth for chain in self.chains)]),
        )

    def read_tokens(self) -> frozenset[str]:
        """Read the bearer tokens: lines of ``tokens_file``, without empty ones and those that start with ``#``.

        Raises:
            InvalidConfiguration: the file cannot be read or has no token (which would admit everybody).
        """
        if self.tokens_file is None:
            return frozenset()
        try:
            lines = [line.strip() for line in self.tokens_file.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfiguration(f"tokens_file: cannot be read: {_reason(error)}") from error
        tokens = frozenset(line for line in lines if line and not line.startswith("#"))
        if not tokens:
            raise InvalidConfiguration("tokens_file: must hold at least one token")
        return tokens

    def server_tls(self, *protocols: str) -> ssl.SSLContext | None:
        """Make the TLS context of a server, None without TLS.

        Args:
            protocols: what to offer by ALPN; gRPC needs ``h2``.

        Raises:
            InvalidConfiguration: the files cannot be read or do not fit each other.
        """
        if self.tls_certificate is None or self.tls_key is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.tls_certificate, self.tls_key)
            if self.tls_client_ca is not None:
                context.load_verify_locations(self.tls_client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfiguration(f"tls_certificate, tls_key: cannot be used: {_reason(error)}") from error
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def _read_named(file: object, secrets: object) -> tuple[dict[str, object], dict[str, object]]:
    """Read the file and the folder of secrets that were named."""
    settings = read_file(Path(str(file))) if file else {}
    return settings, read_secrets(Path(str(secrets))) if secrets else {}


def _describe(location: tuple[int | str, ...], message: str) -> str:
    """Say which setting breaks which rule; pydantic's wording, without its decoration."""
    rule = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    rule = rule[:1].lower() + rule[1:]
    if not location:
        return rule
    name = ".".join(str(part) for part in location)
    variable = PREFIX + "__".join(str(part) for part in location).upper()
    return f"{name} ({variable}): {rule}"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a service can be reached, for programs on the same machine."""

    grpc: str
    """``host:port``; empty where the process has no such role."""
    results: str
    """``ws://host:port/`` or ``wss://...``; empty where the process has no such role."""
    health: str
    """``http://host:port``."""

    @classmethod
    def of(cls, host: str, *, grpc: int | None, results: int | None, health: int, tls: bool = False) -> Addresses:
        """Make addresses of ports (None: not served); a host that means every interface becomes the loopback one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        host = f"[{host}]" if ":" in host else host
        websocket = f"{'wss' if tls else 'ws'}://{host}:{results}/"
        return cls(
            grpc="" if grpc is None else f"{host}:{grpc}",
            results="" if results is None else websocket,
            health=f"http://{host}:{health}",
        )

    @property
    def grpc_target(self) -> tuple[str, int]:
        """Host and port of gRPC."""
        host, _, port = self.grpc.rpartition(":")
        return host.strip("[]"), int(port)

    def write(self, path: Path) -> None:
        """Write JSON whole or not at all: a reader never sees half of it.

        Raises:
            FatalError: the file cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")
            partial.replace(path)
        except OSError as error:
            raise InvalidConfiguration(f"addresses_file: cannot be written: {_reason(error)}") from error

    @classmethod
    def read(cls, path: Path) -> Addresses:
        """Read what ``write`` wrote.

        Raises:
            InvalidConfiguration: there is no such file, or it holds something else.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(**{field.name: str(found[field.name]) for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidConfiguration(f"addresses_file: cannot be used: {error}") from error
