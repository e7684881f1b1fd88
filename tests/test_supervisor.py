"""The supervisor, as far as it can be seen from inside."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.config import load_config
from gateway.storage.database import DatabaseSettings
from gateway.supervisor import snapshot_path

DSN = "postgresql://x@localhost/x"


def test_snapshot_of_a_user_without_a_home_is_kept_as_long_as_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    # Nobody has this number.
    for function in ("getuid", "geteuid"):
        monkeypatch.setattr(os, function, lambda: 54321)
    config = load_config(None, {"GATEWAY_DATABASE__DSN": DSN})
    with capture_logs() as lines:
        path = snapshot_path(config, DatabaseSettings(DSN), tmp_path)
    assert path.parent == tmp_path
    assert [line["event"] for line in lines] == ["snapshot_not_kept"]
