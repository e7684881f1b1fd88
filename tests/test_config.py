"""The configuration: file, environment, mistakes, and the example that documents it."""

import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load_config

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def test_example_holds_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    # A key without a default stands there as a comment.
    documented = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    expected = {
        section: set(type(getattr(Config(), section)).model_fields)
        for section in Config.model_fields
    }
    assert {section: set(table) for section, table in documented.items()} == expected
    assert load_config(EXAMPLE, {}) == Config()


def test_environment_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[server]\nport = 1\nworkers = 3\n")
    config = load_config(None, {"GATEWAY_CONFIG": str(file), "GATEWAY_SERVER__PORT": "2"})
    assert (config.server.port, config.server.workers) == (2, 3)


def test_list_in_the_environment_has_commas() -> None:
    config = load_config(None, {"GATEWAY_AUTH__ADMIN_TOKENS": "one, two"})
    assert [token.get_secret_value() for token in config.auth.admin_tokens] == ["one", "two"]


def test_named_tokens_stand_in_a_table_or_with_commas_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[auth.named_admin_tokens]\nalice = "one"\n"bob@example.org" = "two=="\n')
    variable = {"GATEWAY_AUTH__NAMED_ADMIN_TOKENS": " alice=one, bob@example.org = two==,"}
    for config in (load_config(file, {}), load_config(None, variable)):
        found = {name: token.get_secret_value() for name, token in config.auth.operators}
        assert found == {"alice": "one", "bob@example.org": "two=="}


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",  # no name
        "=hunter2",
        "alice=",  # no token
        "alice=hunter2,alice=other",  # one name twice
        "alice=hunter2,Alice=other",
        "alice=hunter2,bob=hunter2",  # one token twice
        "alice=plain",  # which is in admin_tokens, too
        "admin=hunter2",  # what the others are called
        "Anyone=hunter2",
        "hunter2 with blanks=alice",
        f"{'a' * 65}=hunter2",
        "\u00e9=hunter2",
    ],
)
def test_named_token_that_cannot_be_is_refused_and_not_shown(value: str) -> None:
    environment = {"GATEWAY_AUTH__NAMED_ADMIN_TOKENS": value, "GATEWAY_AUTH__ADMIN_TOKENS": "plain"}
    with pytest.raises(ConfigError, match=r"^auth(\.|: )named_admin_tokens: ") as error:
        load_config(None, environment)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"GATEWAY_SERVER__PROT": "1"}, "server.prot: unknown key"),
        ({"GATEWAY_SEVRER__PORT": "1"}, "sevrer: unknown key"),
        ({"GATEWAY_SERVER__PORT": "x"}, "server.port: Input should be a valid integer"),
        ({"GATEWAY_SERVER__PORT": "65536"}, "server.port: "),
        ({"GATEWAY_REGISTRY__ALLOWED_NETWORKS": "10/8,nonsense"}, "registry.allowed_networks.1: "),
        ({"GATEWAY_SERVER__HOST": "0.0.0.0"}, "auth.admin_tokens is not set"),
        ({"GATEWAY_SERVER__HOST": "::"}, "auth.admin_tokens is not set"),
        ({"GATEWAY_CONFIG": "/no/such/file"}, "/no/such/file: No such file"),
    ],
)
def test_mistake_is_named(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_config(None, environment)


def test_mistake_in_a_secret_does_not_show_it() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, {"GATEWAY_DATABASE__DSN": "hunter2", "GATEWAY_DATABASE__DNS": "hunter2"})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "variable",
    ["GATEWAY_PORT", "GATEWAY_SERVICE_HOST", "GATEWAY_PORT_8080_TCP_ADDR"],  # from Kubernetes
)
def test_variables_of_a_service_called_gateway_are_left_alone(variable: str) -> None:
    assert load_config(None, {variable: "tcp://10.0.0.1:8080"}) == Config()


def test_public_address_is_fine_with_admin_tokens() -> None:
    environment = {"GATEWAY_SERVER__HOST": "0.0.0.0", "GATEWAY_AUTH__ADMIN_TOKENS": "secret"}
    assert load_config(None, environment).server.host == "0.0.0.0"
    named = {"GATEWAY_SERVER__HOST": "0.0.0.0", "GATEWAY_AUTH__NAMED_ADMIN_TOKENS": "alice=secret"}
    assert load_config(None, named).server.host == "0.0.0.0"


def test_ledger_is_never_kept_for_less_than_a_window_needs() -> None:
    for days in ("1", "31", "-1"):
        with pytest.raises(ConfigError, match=r"database\.ledger_retention_days: "):
            load_config(None, {"GATEWAY_DATABASE__LEDGER_RETENTION_DAYS": days})
    kept = load_config(None, {"GATEWAY_DATABASE__LEDGER_RETENTION_DAYS": "32"})
    assert kept.database.ledger_retention == timedelta(days=32)
    forever = load_config(None, {"GATEWAY_DATABASE__LEDGER_RETENTION_DAYS": "0"})
    assert forever.database.ledger_retention is None
