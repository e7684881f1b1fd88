"""The configuration: a TOML file, over it the environment. Every limit and deadline is here.

Environment variables are `GATEWAY_<SECTION>__<KEY>`. Variables without the two underscores are
left alone: Kubernetes puts GATEWAY_PORT and the like into every pod beside a service of that name.
"""

import ipaddress
import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.core.networks import DEFAULT_ALLOWED, Network
from gateway.core.operators import ADMIN, ANYONE, is_operator_name
from gateway.core.periods import RETENTION_MIN
from gateway.storage.database import DatabaseSettings
from gateway.storage.gate import GateSettings

ENVIRONMENT_PREFIX = "GATEWAY_"
FILE_VARIABLE = "GATEWAY_CONFIG"

# Connections that may wait at the listening socket until a worker accepts them.
BACKLOG = 4096

# A period that is longer than this makes the default longer.
RETENTION_DAYS = max(400, RETENTION_MIN.days + 1)


class ConfigError(Exception):
    """The configuration cannot be used; each line names a key and what is wrong with it."""


def _split_commas(value: object) -> object:
    """A list, or in the environment its members with commas between them."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _split_names(value: object) -> object:
    """A table, or in the environment its `name=value` members with commas between them."""
    if not isinstance(value, str):
        return value
    # A value may have "=" in it, as base64 does; a name may not.
    pairs = [part.partition("=")[::2] for part in value.split(",") if part.strip()]
    table = {name.strip(): text.strip() for name, text in pairs}
    if len(table) < len(pairs):
        raise ValueError("two tokens have the same name")
    return table


def _as_networks(given: Iterable[object]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(str(network)) for network in given)


class Section(BaseModel):
    """A table of the file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    """Where the gateway listens, and what its callers' connections may take."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256)
    public_url: AnyHttpUrl | None = None
    name: str = Field("a2a-budget-gateway", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_split_commas)] = ()
    drain_delay_s: float = Field(0.4, ge=0, le=3600)
    drain_timeout_s: float = Field(30, ge=0, le=3600)
    reload_drain_timeout_s: float = Field(3600, ge=0, le=86_400)
    header_timeout_s: float = Field(10, gt=0, le=3600)
    keepalive_timeout_s: float = Field(75, gt=0, le=86_400)
    connections_max: int = Field(10_000, ge=1, le=1_000_000)

    @cached_property
    def trusted_networks(self) -> tuple[Network, ...]:
        """Where our own proxies are, whose word of the caller counts."""
        return _as_networks(self.trusted_proxies)

    @property
    def public_host(self) -> str | None:
        """The name that people call the gateway by, where one is configured."""
        return self.public_url.host if self.public_url else None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Database(Section):
    """The database; without a DSN the gateway starts its own in `data_dir`."""

    dsn: SecretStr | None = None
    data_dir: Path | None = None
    connect_timeout_ms: int = Field(2000, ge=10, le=60_000)
    query_timeout_ms: int = Field(2000, ge=10, le=60_000)
    startup_timeout_s: float = Field(30, ge=0, le=3600)
    check_connections: int = Field(2, ge=1, le=100)
    heartbeat_connections: int = Field(4, ge=1, le=100)
    operator_connections: int = Field(2, ge=1, le=100)
    statement_cache_size: int = Field(100, ge=0, le=10_000)
    # 0 keeps every row for ever.
    ledger_retention_days: int = Field(RETENTION_DAYS, ge=0, le=36_500)

    @field_validator("ledger_retention_days")
    @classmethod
    def _require_windows(cls, days: int) -> int:
        if days and timedelta(days=days) <= RETENTION_MIN:
            raise ValueError(f"must be 0, for ever, or more than {RETENTION_MIN.days}")
        return days

    @property
    def ledger_retention(self) -> timedelta | None:
        """How long the ledger keeps its rows; None is for ever."""
        return timedelta(days=self.ledger_retention_days) or None


class BudgetCheck(Section):
    """The check before a call."""

    check_timeout_ms: int = Field(50, ge=1, le=60_000)
    on_outage: Literal["open", "known"] = "open"


class Auth(Section):
    """Who is an operator; without tokens everybody on this machine is."""

    admin_tokens: Annotated[tuple[SecretStr, ...], BeforeValidator(_split_commas)] = ()
    named_admin_tokens: Annotated[dict[str, SecretStr], BeforeValidator(_split_names)] = {}

    @property
    def operators(self) -> tuple[tuple[str, SecretStr], ...]:
        """Every admin token with the name of who holds it."""
        unnamed = ((ADMIN, token) for token in self.admin_tokens)
        return (*unnamed, *self.named_admin_tokens.items())

    @field_validator("named_admin_tokens", mode="after")
    @classmethod
    def _require_names(cls, tokens: dict[str, SecretStr]) -> dict[str, SecretStr]:
        # Names are not repeated here: where one is wrong, a token may stand in its place.
        if not all(is_operator_name(name) for name in tokens):
            raise ValueError(
                "each must be name = token, the name 1 to 64 of A-Z a-z 0-9 . _ @ - "
                f"and neither {ADMIN} nor {ANYONE}"
            )
        if len({name.lower() for name in tokens}) < len(tokens):
            raise ValueError("two names differ in nothing but upper and lower case")
        return tokens

    @model_validator(mode="after")
    def _require_characters(self) -> Self:
        for key, tokens in (
            ("admin_tokens", self.admin_tokens),
            ("named_admin_tokens", self.named_admin_tokens.values()),
        ):
            if not all(token.get_secret_value().strip() for token in tokens):
                raise ValueError(f"{key}: a token must not be empty")
        return self

    @model_validator(mode="after")
    def _require_one_holder_each(self) -> Self:
        holders = {(token.get_secret_value().strip(), name) for name, token in self.operators}
        if len({token for token, _ in holders}) < len(holders):
            raise ValueError("named_admin_tokens: a token has two names, or is in admin_tokens too")
        return self


class Agents(Section):
    """Where agents may live."""

    allowed_networks: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_split_commas)] = Field(
        DEFAULT_ALLOWED, validate_default=True
    )

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks as values."""
        return _as_networks(self.allowed_networks)


class Proxy(Section):
    """Limits and deadlines of a call."""

    connect_timeout_s: float = Field(5, gt=0, le=3600)
    first_byte_timeout_s: float = Field(300, gt=0, le=86_400)
    idle_timeout_s: float = Field(300, gt=0, le=86_400)
    request_body_bytes_max: int = Field(10 * 1024 * 1024, ge=0)
    request_body_timeout_s: float = Field(60, gt=0, le=86_400)
    calls_max: int = Field(4096, ge=1)
    calls_per_workspace_max: int = Field(1024, ge=1)


class Log(Section):
    """How the gateway logs; without a format it is console on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] | None = None


class Config(Section):
    """The whole configuration."""

    server: Server = Server()
    database: Database = Database()
    budget: BudgetCheck = BudgetCheck()
    auth: Auth = Auth()
    registry: Agents = Agents()
    proxy: Proxy = Proxy()
    log: Log = Log()

    @model_validator(mode="after")
    def _require_tokens_in_public(self) -> Self:
        if not self.server.is_loopback and not self.auth.operators:
            raise ValueError(
                f"server.host {self.server.host} can be reached from other machines, and "
                "auth.admin_tokens is not set: everybody could change budgets. "
                "Set GATEWAY_AUTH__ADMIN_TOKENS, or listen on 127.0.0.1."
            )
        return self

    @property
    def database_settings(self) -> DatabaseSettings:
        """The database as storage wants it; the DSN is set by now."""
        dsn = self.database.dsn.get_secret_value() if self.database.dsn else ""
        connect_timeout_s = self.database.connect_timeout_ms / 1000
        return DatabaseSettings(dsn, connect_timeout_s, self.database.statement_cache_size)

    @property
    def gate_settings(self) -> GateSettings:
        """The gate's deadline as storage wants it."""
        return GateSettings(self.budget.check_timeout_ms / 1000, self.database.check_connections)


def load_config(path: Path | None, environment: Mapping[str, str]) -> Config:
    """The configuration from the file, if any, and the environment. Raises ConfigError."""
    if path is None and FILE_VARIABLE in environment:
        path = Path(environment[FILE_VARIABLE])
    sections = {} if path is None else _read_file(path)
    for section, key, value in _read_environment(environment):
        table = sections.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
    try:
        return Config.model_validate(sections)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(each) for each in error.errors())) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_environment(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for variable, value in sorted(environment.items()):
        section, separator, key = variable.removeprefix(ENVIRONMENT_PREFIX).partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and separator:
            found.append((section.lower(), key.lower(), value))
    return found


def _line(error: Any) -> str:
    """One mistake as `section.key: what is wrong`, without the value: it may be a secret."""
    where = ".".join(str(part) for part in error["loc"])
    what = "unknown key" if error["type"] == "extra_forbidden" else str(error["msg"])
    what = what.removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
