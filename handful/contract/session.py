"""Browsers: the API key once, then a cookie."""

from pydantic import BaseModel, Field, SecretStr

from handful.contract.common import Schema


class SessionWrite(Schema):
    """Who wants in."""

    api_key: SecretStr = Field(max_length=1000)


class SessionRead(BaseModel):
    """Whether a browser may go on."""

    needed: bool = Field(description="Whether the service asks for an API key at all.")
    open: bool = Field(description="Whether this browser is let in.")
