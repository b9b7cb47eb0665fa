"""Adaptation by learned steps, chosen beside the ways that train."""

from functools import partial
from typing import Any

import pytest
import torch

from models.encoders import Encoder
from models.encoders.specs import parse
from models.finetuning import FinetuningMethod, GradientMethod, embed_all
from models.finetuning.methods.adapt import Adapt
from models.finetuning.methods.full import Full
from models.finetuning.model_selection import Selection
from models.heads.kinds.cosine import Cosine
from models.metalearning.adaptation import adapt
from models.metalearning.learners.maml import MAML, OtherWays
from models.training.checkpoint import pack, unpack
from models.training.recipe import Recipe
from tests.models.finetuning.test_finetuning import stripes

TARGETS = torch.arange(24) % 2
IMAGES = stripes(24, 1)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return parse("conv4:8")[1].build(pretrained=False).eval()


def select(*methods: FinetuningMethod, maml: MAML | None = None) -> Selection:
    network = encoder()
    learner: Any = (maml or MAML(rate=1.0, steps=10)).build(network, fresh=False)
    recipe = Recipe(epochs=3, rate=3e-3, batch_size=8)
    adapter = partial(adapt, learner.eval())
    return Selection(
        network, IMAGES, TARGETS, methods or [Adapt()], recipe, Cosine(), folds=2, adapter=adapter
    )


def test_it_trains_by_no_recipe():
    assert isinstance(Adapt(), FinetuningMethod)
    assert not isinstance(Adapt(), GradientMethod)
    assert isinstance(Full(), GradientMethod)


def test_each_fold_takes_its_steps_and_all_images_take_the_last():
    selection = select(maml=MAML(rate=0.05, steps=3))

    steps = [(p.method, p.run, p.fold, p.epoch.number, p.epoch.images) for p in selection]

    folds = [("adapt", n, n, step, 12) for n in (1, 2) for step in (1, 2, 3)]
    assert steps[:6] == folds
    assert steps[6:] in ([], [("adapt", 3, None, step, 24) for step in (1, 2, 3)])


def test_it_is_better_than_before_and_its_network_serves():
    selection = select()
    list(selection)

    result = selection.result()

    before = (selection.predict(selection.embeddings) == TARGETS).float().mean()
    assert result.share > 0
    assert (result.predicted == TARGETS).float().mean() > before
    assert not torch.allclose(embed_all(result.encoder, IMAGES), selection.embeddings)


def test_it_is_chosen_among_others():
    selection = select(Full(), Adapt())

    names = [progress.method for progress in selection]

    assert names[:12] == ["full"] * 6 + ["adapt"] * 6
    assert {type(c.method) for c in selection.result().candidates} == {Full, Adapt}


@pytest.mark.parametrize("interrupted", [2, 15, 25])
def test_a_selection_goes_on_as_if_it_had_not_been_interrupted(interrupted):
    maml = MAML(rate=1.0, steps=10)
    whole, cut, resumed = (select(maml=maml) for _ in range(3))
    losses = [progress.epoch.loss for progress in whole]
    for _ in range(interrupted):
        next(cut)

    resumed.load(unpack(pack(cut.state())))

    assert [progress.epoch.loss for progress in resumed] == losses[interrupted:]
    expected, state = whole.result().encoder.state_dict(), resumed.result().encoder.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in state.items())


def test_an_encoder_that_learned_no_such_steps_is_refused():
    with pytest.raises(ValueError, match="has learned no steps"):
        Selection(encoder(), IMAGES, TARGETS, [Full(), Adapt()], Recipe(), Cosine(), folds=2)
    with pytest.raises(OtherWays, match="has 5 rows"):
        select(maml=MAML(start="fixed", ways=5))
