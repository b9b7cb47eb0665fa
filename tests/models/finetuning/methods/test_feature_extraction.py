"""Feature extraction."""

from models.encoders.projection import Projection
from models.encoders.specs import parse
from models.finetuning.methods.feature_extraction import FeatureExtraction


def test_only_a_projection_learns_and_it_is_added_once():
    method = FeatureExtraction()

    once = method.prepare(parse("conv4:8")[1].build(pretrained=False))
    twice = method.prepare(once)

    assert isinstance(once.stages[-1], Projection)
    assert len(twice.stages) == len(once.stages)
    (group,) = method.groups(twice, 5)
    assert group.parameters == [twice.stages[-1].difference]
