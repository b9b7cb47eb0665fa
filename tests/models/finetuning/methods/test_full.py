"""Fine-tuning of all layers at one rate."""

from models.encoders.specs import parse
from models.finetuning.methods.full import Full


def test_every_parameter_learns_at_one_rate_and_only_matrices_decay():
    encoder = Full().prepare(parse("conv4:8")[1].build(pretrained=False))

    groups = Full().groups(encoder, 5)

    assert {group.rate for group in groups} == {1.0}
    assert sum(len(group.parameters) for group in groups) == len(list(encoder.parameters()))
    assert all((p.ndim > 1) is group.decays for group in groups for p in group.parameters)
