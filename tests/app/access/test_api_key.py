"""The one key of a service."""

from app.access.api_key import ApiKey
from app.settings import Settings


def test_only_the_key_itself_matches():
    key = ApiKey("sesame")

    assert key.matches(b"sesame")
    assert not any(map(key.matches, (b"", b"sesam", b"sesame ", b"SESAME")))


def test_a_service_without_a_key_is_open():
    assert not ApiKey.of(Settings(api_key=""))
    assert ApiKey.of(Settings(api_key="sesame"))


def test_a_key_is_not_shown():
    assert "sesame" not in repr(ApiKey("sesame"))
