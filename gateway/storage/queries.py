"""The SQL files: one query, one file, named by what it answers."""

from functools import cache
from importlib.resources import files
from pathlib import Path


def sql_folder() -> Path:
    """Where the SQL is: inside the package in a wheel, beside it in a checkout."""
    package = Path(str(files("gateway")))
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return (sql_folder() / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def all_queries() -> dict[str, str]:
    """Every query by name."""
    return {path.stem: query(path.stem) for path in sorted(sql_folder().glob("queries/*.sql"))}
