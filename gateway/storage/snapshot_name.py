"""The name of the file with the addresses of one database; several databases may share a folder."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl

import orjson

from gateway.storage.hosts import DSN_PARTS

# How one speaks to a database, and not which one it is: a new password makes no other database.
_CREDENTIALS = ("user", "password", "passfile", "sslpassword")


def snapshot_name(dsn: str, environment: Mapping[str, str]) -> str:
    """The name by what the DSN names, and by what the driver takes from the environment for it."""
    identity = orjson.dumps(_identity(dsn.strip(), environment))
    return f"addresses-{hashlib.sha256(identity).hexdigest()[:16]}.jsonl"


def _identity(dsn: str, environment: Mapping[str, str]) -> list[object]:
    found = DSN_PARTS.fullmatch(dsn)
    if found is None:
        return [dsn]
    _, authority, path, query, _ = found.groups(default="")
    login, _, hosts = authority.rpartition("@")
    fields = dict(parse_qsl(query))
    names = {
        variable: environment.get(variable)
        for variable in _left_out(hosts, path.strip("/"), fields)
    }
    if names.get("PGDATABASE", "") is None:
        # Without any name of a database it is the user's.
        names["user"] = fields.get("user") or login.partition(":")[0] or environment.get("PGUSER")
    kept = sorted(each for each in fields.items() if each[0] not in _CREDENTIALS)
    return [hosts, path, kept, sorted(names.items())]


def _left_out(hosts: str, database: str, fields: Mapping[str, str]) -> Iterator[str]:
    """The variables that the driver reads because the DSN does not say."""
    if not hosts and "host" not in fields:
        yield "PGHOST"
    if "port" not in fields and not _have_ports(hosts.split(",")):
        yield "PGPORT"
    if not database and not fields.keys() & {"dbname", "database"}:
        yield "PGDATABASE"


def _have_ports(hosts: Iterable[str]) -> bool:
    return all(re.search(r":\d+$", host) for host in hosts)
