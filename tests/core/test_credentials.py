"""Which fields are the gateway's own credentials, and what is left of them for an agent."""

import pytest

from gateway.core.credentials import bearer_token, without_credentials, without_session_cookies

SESSION = "~1700000000~5c"


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ("a=1; b=2", "a=1; b=2"),
        (" a = 1 ;; b ;", " a = 1 ;; b ;"),  # without a session nothing is touched
        ("session=1; gatewaysession=2", "session=1; gatewaysession=2"),
        (f"gateway-session={SESSION}", None),
        (f"__Host-gateway-session={SESSION}", None),
        (f"gateway-session={SESSION};", None),
        (f" ;; gateway-session={SESSION} ; ", None),
        (f"a=1; gateway-session={SESSION}", "a=1"),
        (f"gateway-session={SESSION}; a=1", "a=1"),
        (f"a=1; gateway-session={SESSION}; b=2 ;c", "a=1; b=2 ;c"),
        (f"a=1;gateway-session={SESSION};b=2", "a=1;b=2"),
        (f"a=1; __Host-gateway-session={SESSION}; gateway-session={SESSION}; b=2", "a=1; b=2"),
        # As some reader of cookies takes it.
        (f'gateway-session = "{SESSION}"; a=1', "a=1"),
        (f"gateway-session\t={SESSION}; a=1", "a=1"),
        (f"x gateway-session={SESSION}; a=1", "a=1"),  # a space may end a pair
        (f"x=1, gateway-session={SESSION}; a=1", "a=1"),
        (f"$Version=1; gateway-session={SESSION}; $Path=/", "$Version=1; $Path=/"),
        (f'q="; gateway-session={SESSION}"; a=1', 'q="; a=1'),
        (f"GATEWAY-Session={SESSION}; a=1", "a=1"),
        (f"__HOST-gateway-session={SESSION}; a=1", "a=1"),
        (f"={SESSION} gateway-session; a=1", "a=1"),
        (f"gateway-session-2={SESSION}; a=1", "a=1"),  # a name that contains it goes with it
    ],
)
def test_session_is_cut_out_of_cookie_and_every_other_pair_stays(
    sent: str, left: str | None
) -> None:
    expected = [] if left is None else [("cOOKIE", left)]
    assert list(without_credentials([("cOOKIE", sent)], never)) == expected


def never(_token: str) -> bool:
    """Whether a token is an operator's, where there is none."""
    return False


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("Authorization", "Bearer secret", False),
        ("authorization", "bEARER secret", False),
        ("AUTHORIZATION", "Bearer   secret \t", False),
        ("Authorization", "Bearer other", True),
        ("Authorization", "Bearer Secret", True),
        ("Authorization", "Bearer secret2", True),
        # What the gateway does not read as a token is the agent's own.
        ("Authorization", "Bearer", True),
        ("Authorization", "Bearer ", True),
        ("Authorization", "", True),
        ("Authorization", "secret", True),
        ("Authorization", "Bearersecret", True),
        ("Authorization", "Bearer\tsecret", True),
        ("Authorization", "Token secret", True),
        ("Authorization", "Bearer secret, Bearer secret", True),
        ("Authorization", "Basic c2VjcmV0", True),
        ("Proxy-Authorization", "Bearer secret", True),
        ("X-Gateway-Token", "secret", False),
        ("x-gateway-token", " secret ", False),
        ("X-Gateway-Token", "other", True),
        ("X-Gateway-Token", "", True),
        ("X-API-Key", "secret", True),
    ],
)
def test_token_passes_unless_it_is_an_operators(name: str, value: str, passes: bool) -> None:
    left = without_credentials([(name, value)], lambda token: token == "secret")
    assert list(left) == ([(name, value)] if passes else [])


def test_each_of_several_fields_is_read_by_itself_and_the_order_is_kept() -> None:
    own, others = "Bearer secret", "Bearer others"
    fields = [
        ("Cookie", f"gateway-session={SESSION}"),
        ("X-First", "1"),
        ("Authorization", others),
        ("authorization", own),
        ("cookie", f"a=1; gateway-session={SESSION}"),
        ("Authorization", own),
        ("X-Gateway-Token", "secret"),
        ("Cookie", "b=2"),
    ]
    assert list(without_credentials(fields, lambda token: token == "secret")) == [
        ("X-First", "1"),
        ("Authorization", others),
        ("cookie", "a=1"),
        ("Cookie", "b=2"),
    ]


def test_fields_without_a_credential_are_not_copied() -> None:
    fields = [("Accept", "*/*"), ("Host", "gateway")]
    assert without_credentials(fields, never) is fields


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer x", "x"),
        ("bearer  x ", "x"),
        ("Bearer x y", "x y"),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Basic x", None),
        ("", None),
    ],
)
def test_bearer_token_is_what_follows_the_scheme(value: str, token: str | None) -> None:
    assert bearer_token(value) == token


@pytest.mark.parametrize(
    ("cookie", "passes"),
    [
        ("a=1", True),
        ("a=1; Path=/; HttpOnly", True),
        ("session=1", True),
        ("a=1; Path=/gateway-session", True),  # only the first part names a cookie
        ("", True),
        ("gateway-session=x", False),
        ("gateway-session=x; Path=/; HttpOnly", False),
        ("__Host-gateway-session=x; Secure; Path=/", False),
        # As some browser takes it.
        ("=gateway-session=x", False),  # sent as "gateway-session=x"
        ("= gateway-session=x; Path=/", False),
        (" gateway-session = x", False),
        ("\tgateway-session\t=x", False),
        ("__HOST-gateway-session=x", False),
        ("__Secure-gateway-session=x", False),
        ("GATEWAY-SESSION=x", False),
        ("gateway-session", False),
        ("gateway-session; Path=/", False),
        ("gateway-session=", False),
        ("gateway-session=x; Max-Age=0", False),  # signs an operator out
        ("gateway-session2=x", False),
        ("a=1, gateway-session=x; Path=/", False),
        ('"gateway-session"=x', False),
        ("a=gateway-session", False),
    ],
)
def test_agent_sets_any_cookie_but_the_session(cookie: str, passes: bool) -> None:
    fields = [("Set-Cookie", "b=2"), ("sET-cOOKIE", cookie), ("X-Set-Cookie", cookie)]
    left = [("Set-Cookie", "b=2"), *fields[1:]] if passes else [fields[0], fields[2]]
    assert list(without_session_cookies(fields)) == left
