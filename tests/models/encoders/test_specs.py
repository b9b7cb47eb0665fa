"""How a setting names an encoder."""

import pytest

from models.encoders import EncoderUnavailable
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.efficientnet_lite import EfficientNetLite
from models.encoders.architectures.projected import Projected
from models.encoders.architectures.timm import Timm
from models.encoders.specs import parse, spec
from tests.models.encoders.small import SMALL


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("conv4", ("conv4", Conv4())),
        ("conv4:8", ("conv4", Conv4(width=8))),
        ("efficientnet_lite:2", ("efficientnet_lite", EfficientNetLite(variant=2))),
        ("timm:resnet18.a1_in1k", ("timm", Timm(model="resnet18.a1_in1k"))),
        ("timm:resnet18@/w", ("timm", Timm(model="resnet18", weights="/w"))),
        (" conv4 ", ("conv4", Conv4())),
        ("conv4:8,image_side=32", ("conv4", Conv4(width=8, image_side=32))),
        ("conv4,seed=3", ("conv4", Conv4(seed=3))),
        ("projected:timm:resnet18@/w", ("projected", Projected(base="timm:resnet18@/w"))),
    ],
)  # fmt: skip
def test_a_setting_names_an_architecture(setting, expected):
    assert parse(setting) == expected


@pytest.mark.parametrize("name", SMALL)
def test_a_setting_tells_all_of_an_architecture(name):
    over = Projected(base=spec(SMALL[name], name)) if name != "projected" else SMALL[name]

    assert parse(spec(SMALL[name], name)) == (name, SMALL[name])
    assert parse(spec(over, "projected")) == ("projected", over)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("resnet18", "there is no encoder 'resnet18'; known are conv4, efficientnet_lite, pool"),
        ("", "there is no encoder ''"),
        ("efficientnet_lite:9", "variant"),
        ("efficientnet_lite:small", "invalid literal"),
        ("timm:no_such_model", "timm has no model 'no_such_model'"),
        ("conv4@weights.safetensors", "weights"),
        ("conv4:8,side=32", "it has no option 'side', only width, image_side, seed"),
        ("conv4:8,image_side=big", "invalid literal"),
    ],
)
def test_a_setting_that_names_none_is_refused(setting, sentence):
    with pytest.raises(EncoderUnavailable, match=sentence):
        parse(setting)
