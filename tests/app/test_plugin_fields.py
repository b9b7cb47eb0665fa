"""Fields that accept a plug-in by name, with its own options."""

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ValidationError, create_model

from app.plugin_fields import plugin_field, plugins_from
from models.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A plug-in whose options all have defaults."""

    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Picky:
    """A plug-in that wants to be told something."""

    name: str


class Plugins(Registry):
    """Plug-ins that lie in no folder."""

    def __init__(self, plugins):
        super().__init__("none")
        self._plugins = plugins

    def _discovered(self):
        return self._plugins


@pytest.fixture
def field():
    return plugin_field(Plugins({"plain": Plain, "picky": Picky}), tag="kind")


@pytest.fixture
def request_model(field) -> type[BaseModel]:
    return create_model("Request", plugin=(field, ...))


def test_a_plug_in_is_made_with_its_options(request_model):
    request = request_model(plugin={"kind": "plain", "options": {"weight": 2}})

    assert request.plugin.options == Plain(weight=2.0)
    assert request_model(plugin={"kind": "plain"}).plugin.options == Plain()


@pytest.mark.parametrize(
    "plugin",
    [
        {"kind": "none"},
        {"kind": "picky"},
        {"kind": "plain", "weight": 2},
        {"kind": "plain", "options": {"wait": 2}},
        {"kind": "plain", "options": {"weight": "nan"}},
    ],
)
def test_what_a_plug_in_does_not_have_is_refused(request_model, plugin):
    with pytest.raises(ValidationError):
        request_model(plugin=plugin)


def test_plug_ins_are_read_from_their_documents(field):
    plugins = plugins_from(field, [{"kind": "plain"}, {"kind": "picky", "options": {"name": "x"}}])

    assert [plugin.options for plugin in plugins] == [Plain(), Picky(name="x")]


def test_the_schema_names_every_plug_in_with_its_defaults(request_model):
    schema = request_model.model_json_schema()

    assert {"PlainChoice", "PickyChoice"} <= schema["$defs"].keys()
    assert schema["$defs"]["Plain"]["properties"]["weight"]["default"] == 1.0
    assert schema["$defs"]["PlainChoice"]["description"].startswith("A plug-in whose options")
