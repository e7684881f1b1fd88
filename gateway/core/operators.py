"""What operators are called, where it is kept who did something."""

import re

# Who holds one of the tokens that have no name of their own, and who needs none.
ADMIN = "admin"
ANYONE = "anyone"

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)


def is_operator_name(text: str) -> bool:
    """Whether a token may be called `text`; not what means all operators, or everybody."""
    return _NAME.fullmatch(text) is not None and text.lower() not in (ADMIN, ANYONE)
