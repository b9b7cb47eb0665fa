"""Settings and what they refuse."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_alone_needs_no_key(host):
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "handful.example"])
def test_the_network_needs_a_key(host):
    with pytest.raises(ValidationError, match="would let anyone in: set HANDFUL_API_KEY"):
        Settings(host=host)
    with pytest.raises(
        ValidationError, match=r"has 6 characters.*at least 20 random ones"
    ) as caught:
        Settings(host=host, api_key="sesame")
    assert "sesame" not in str(caught.value)
    assert not Settings(host=host, api_key="sesame" * 4).is_loopback


def test_behind_a_proxy_on_this_machine_a_key_may_be_short():
    assert Settings(host="127.0.0.1", api_key="sesame").is_loopback


def test_the_key_does_not_show():
    assert "sesame" not in repr(Settings(api_key="sesame"))


def test_variables_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("HANDFUL_PORT", "9")
    monkeypatch.setenv("HANDFUL_ALLOWED_HOSTS", '["a", "b"]')

    settings = Settings()

    assert (settings.port, settings.allowed_hosts) == (9, ("a", "b"))


def test_by_default_everything_lies_in_the_data_folder(tmp_path):
    settings = Settings(data_dir=tmp_path)

    assert settings.database == f"sqlite:///{tmp_path}/handful.sqlite"
    assert settings.blobs == f"{tmp_path}/blobs"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_any_postgresql_url_uses_our_driver(scheme):
    settings = Settings(database_url=f"{scheme}://u@h/d")

    assert settings.database == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize(
    "wrong", [{"port": 70000}, {"max_batch": 0}, {"max_pixels": -1}, {"stall_seconds": 0}]
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_every_setting_says_what_it_is_for():
    assert all(field.description for field in Settings.model_fields.values())
