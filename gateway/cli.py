"""The command line: `gateway serve | demo | migrate | check-config | verify-ledger | prune`."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import structlog

from gateway import __version__
from gateway.config import Config, ConfigError, load_config
from gateway.core.errors import GatewayError, StorageUnavailable
from gateway.database import StartError, open_database
from gateway.lifeline import WorkerEnd
from gateway.logs import configure_logs
from gateway.storage.audit import verify_ledger
from gateway.storage.database import DatabaseSettings, WrongStatement
from gateway.storage.embedded import EmbeddedPostgresError
from gateway.storage.migrations import MigrationError, migrate, pending_migrations
from gateway.storage.upkeep import prune_ledger
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.supervisor import supervise

log = structlog.get_logger()

# What a person can act on: shown as one line, without a stack trace.
_EXPECTED = (
    ConfigError,
    StartError,
    EmbeddedPostgresError,
    MigrationError,
    WrongStatement,
    asyncpg.PostgresError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except _EXPECTED as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="A budget gateway for A2A agents.")
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "serve", _serve, "run the gateway")
    _add(commands, "demo", _demo, "watch the gateway stop a runaway agent")
    command = _add(commands, "migrate", _migrate, "bring the database to this version's schema")
    command.add_argument("--check", action="store_true", help="only tell; exit 1 if it is behind")
    command = _add(commands, "check-config", _check_config, "read the configuration and exit")
    command.add_argument("file", nargs="?", type=Path, help="the file to check")
    _add(commands, "verify-ledger", _verify_ledger, "compare every budget with the ledger's rows")
    _add(commands, "prune", _prune, "delete the ledger's rows that are kept no longer")
    command = _add(commands, "worker", _worker)
    command.add_argument("--listener", type=int, required=True)
    command.add_argument("--lifeline", type=int, required=True)
    command.add_argument("--id-type")
    command.add_argument("--snapshot", type=Path)
    command.add_argument("--database-away", action="store_true")
    command.add_argument("--log-format", choices=("console", "json"))
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: object,
    help_: str | None = None,
) -> argparse.ArgumentParser:
    # A command without help is for the gateway itself and is not listed.
    if help_ is None:
        command = commands.add_parser(name)
    else:
        command = commands.add_parser(name, help=help_, description=help_)
    command.add_argument("--config", type=Path, metavar="FILE", help="a TOML file")
    command.set_defaults(run=run)
    return command


def _config(options: argparse.Namespace) -> Config:
    config = load_config(options.config, os.environ)
    configure_logs(config.log.level, config.log.format)
    return config


def _serve(options: argparse.Namespace) -> int:
    config = _config(options)
    asyncio.run(supervise(config, str(options.config) if options.config else None))
    return 0


def _worker(options: argparse.Namespace) -> int:
    lifeline = WorkerEnd(options.lifeline)
    try:
        _run_worker(options, lifeline)
    except Exception as error:
        if not structlog.is_configured():
            configure_logs("info", options.log_format)
        _log_failure("worker_failed" if lifeline.has_begun else "worker_start_failed", error)
        return 1
    return 0


def _run_worker(options: argparse.Namespace, lifeline: WorkerEnd) -> None:
    config = _config(options)
    # Imported here: prometheus_client decides at its import whether there are several workers.
    import uvloop

    from gateway.worker import work

    listener = socket.socket(fileno=options.listener)
    keys = WorkspaceKeys(options.id_type)
    known = options.snapshot, options.database_away
    uvloop.run(work(config, keys, listener, lifeline, *known))


def _log_failure(event: str, error: Exception) -> None:
    """Log why a worker ends as one line; only what nobody expects has a stack trace in it."""
    is_expected = isinstance(error, (*_EXPECTED, GatewayError))
    log.error(
        event,
        cause=type(error).__name__,
        reason="; ".join(str(error).splitlines()),
        exc_info=None if is_expected else error,
    )


def _demo(options: argparse.Namespace) -> int:
    try:
        from gateway.demo import run_demo
    except ImportError as error:
        print(
            f"gateway: the demo needs the extra demo ({error.name} is missing): "
            "pip install 'a2a-budget-gateway[demo]'",
            file=sys.stderr,
        )
        return 1
    return int(run_demo(load_config(options.config, os.environ)))


def _migrate(options: argparse.Namespace) -> int:
    return asyncio.run(_migrate_database(_config(options), options.check))


async def _migrate_database(config: Config, is_check: bool) -> int:
    async with open_database(config) as settings:
        if is_check:
            pending = await pending_migrations(settings)
            _print_migrations("missing", pending)
            return 1 if pending else 0
        _print_migrations("applied", await migrate(settings))
        return 0


def _print_migrations(word: str, migrations: Sequence[object]) -> None:
    for migration in migrations:
        print(f"{word}: {migration}")
    if not migrations:
        print("the schema is up to date")


def _check_config(options: argparse.Namespace) -> int:
    load_config(options.file or options.config, os.environ)
    print("the configuration is good")
    return 0


def _verify_ledger(options: argparse.Namespace) -> int:
    return asyncio.run(_verify(_config(options)))


async def _verify(config: Config) -> int:
    async with open_database(config) as settings:
        return await _print_differences(settings)


async def _print_differences(settings: DatabaseSettings) -> int:
    checked, differing = 0, set()
    async for count, differences in verify_ledger(settings):
        checked += count
        for difference in differences:
            differing.add(difference.workspace_id)
            print(f"{difference.workspace_id}: {difference.reason}")
    print(f"{checked} workspaces compared, {len(differing)} differ")
    return 1 if differing else 0


def _prune(options: argparse.Namespace) -> int:
    return asyncio.run(_prune_ledger(_config(options)))


async def _prune_ledger(config: Config) -> int:
    retention = config.database.ledger_retention
    if retention is None:
        print("database.ledger_retention_days is 0: every row is kept")
        return 0
    async with open_database(config) as settings:
        try:
            print(f"{await prune_ledger(settings, retention)} rows deleted")
        except StorageUnavailable as error:
            print(f"gateway: not pruned to the end ({error.cause})", file=sys.stderr)
            return 1
    return 0
