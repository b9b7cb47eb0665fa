"""A browser that has shown the API key: a signed cookie, so that no script holds the key.

Nothing is kept here: the cookie says until when it holds, and is signed with the key, so that a new
key ends every session.
"""

import hashlib
import hmac
import re

COOKIE = "handful_session"
LIFETIME_S = 30 * 24 * 3600
SHAPE = re.compile(r"[0-9]{1,20}\.[0-9a-f]{64}")


def issue(key: str, moment: float) -> str:
    """The value of a new cookie; `moment` in seconds since 1970."""
    until = str(int(moment + LIFETIME_S))
    return f"{until}.{_signature(key, until)}"


def from_cookies(header: str) -> str:
    """The value of ours in a `Cookie` header; empty where there is none that could be ours."""
    pairs = (cookie.strip().partition("=") for cookie in header.split(";"))
    value = next((value for name, _, value in pairs if name == COOKIE), "")
    return value if SHAPE.fullmatch(value) else ""


def is_valid(key: str, value: str, moment: float) -> bool:
    """Whether a cookie was issued here, with this key, and still holds."""
    until, _, signature = value.partition(".")
    signed = hmac.compare_digest(signature.encode(), _signature(key, until).encode())
    return signed and until.isdigit() and moment < int(until)


def _signature(key: str, until: str) -> str:
    text = f"handful session until {until}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
