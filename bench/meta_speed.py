"""How fast `maml` and `lstm_learner` learn, beside loops as repositories of papers have them.

Those take task by task, and leave all derivatives to PyTorch; their norms take the statistics of
whichever images come together, which is less to do. Ours have those of the support alone for the
queries too. Episodes of 5 ways, one shot and 5 queries, 28 pixels, Conv4 of 32 channels, one
thread; four tasks a step of `maml`, of one inner step and second order, one of `lstm_learner`.
All take turns. The goals are the ratios of 40 to 27 tasks/s, and of 0.45 to 0.3 s an episode.
"""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.inference.process import keep_freed_memory
from bench.harness import Options, Result, option, run
from models.encoders import trainable_copy
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import Episodic, MetaMethod
from models.metalearning.learners.lstm_learner import MOST_STEPS, LSTMLearner
from models.metalearning.learners.maml import MAML

WAYS, SHOTS, QUERIES, SIDE, WIDTH, TASKS = 5, 1, 5, 28, 32, 4
SUPPORT = WAYS * SHOTS
GOALS = {"maml": 40 / 27, "lstm_learner": 0.45 / 0.3}  # times as fast as a plain loop
TARGETS = torch.arange(WAYS).repeat_interleave(QUERIES)

Step = Callable[[Tensor], None]  # of the outer loop, on the images of tasks


def measure(options: Options) -> Result:
    """Let each pair take turns."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as jobs do
    torch.manual_seed(0)
    pairs = {
        "maml": (_plain_maml(), _ours(MAML(steps=1)), TASKS),
        "lstm_learner": (_plain_lstm(), _ours(LSTMLearner()), 1),
    }
    gc.collect()
    gc.freeze()
    rows = {}
    for name, (plain, ours, tasks) in pairs.items():
        seconds = _take_turns([plain, ours], options.rounds, tasks)
        rows[name] = {
            "plain_seconds": round(seconds[0], 4),
            "seconds": round(seconds[1], 4),
            "ratio": round(seconds[0] / seconds[1], 2),
            "goal": round(GOALS[name], 2),
        }
    maml, lstm = rows["maml"], rows["lstm_learner"]
    headline = (
        f"maml {1 / maml['seconds']:.1f} tasks/s, {maml['ratio']:.2f} x a plain loop (goal "
        f"{maml['goal']:.2f}); lstm_learner {lstm['seconds']:.2f} s an episode, "
        f"{lstm['ratio']:.2f} x (goal {lstm['goal']:.2f})"
    )
    met = all(row["ratio"] >= row["goal"] for row in rows.values())
    return Result({"cpu seconds of an episode": rows}, headline, met)


def _take_turns(steps: list[Step], rounds: int, tasks: int) -> list[float]:
    """CPU seconds of a task, the median of all rounds, after two that do not count."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 2):
        images = torch.rand(tasks, SUPPORT + len(TARGETS), 3, SIDE, SIDE)
        for step, spent in zip(steps, seconds, strict=True):
            started = time.process_time()
            step(images)
            spent.append((time.process_time() - started) / tasks)
    return [statistics.median(spent[2:]) for spent in seconds]


def _ours(method: MetaMethod) -> Step:
    encoder = Conv4(width=WIDTH, image_side=SIDE).build()
    objective = method.build(trainable_copy(encoder, fresh=True), fresh=True).train()
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        losses = [_loss(objective, task) for task in images]
        torch.autograd.backward(torch.stack(losses).mean())
        optimizer.step()

    return step


def _loss(objective: Episodic, images: Tensor) -> Tensor:
    maps = objective.prepare(images)
    support = maps[:SUPPORT].reshape(WAYS, SHOTS, *maps.shape[1:])
    return F.cross_entropy(objective.logits(support, maps[SUPPORT:]), TARGETS)


def _plain_maml() -> Step:
    weights = _initial()
    optimizer = torch.optim.Adam(weights, 1e-3)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        total = torch.zeros(())
        for task in images:
            loss = F.cross_entropy(_forward(task[:SUPPORT], weights), torch.arange(WAYS))
            slopes = torch.autograd.grad(loss, weights, create_graph=True)
            fast = [value - 0.4 * slope for value, slope in zip(weights, slopes, strict=True)]
            total = total + F.cross_entropy(_forward(task[SUPPORT:], fast), TARGETS)
        torch.autograd.backward(total / len(images))
        optimizer.step()

    return step


def _plain_lstm() -> Step:
    """The meta-learner by PyTorch's own cell, coordinates in rows."""
    start = _initial()
    cell = nn.LSTMCell(4, 20)
    gates, biases = torch.rand(2, 22) / 50 - 0.01, torch.tensor([4.5, -4.5])
    learned = [*start, *cell.parameters(), gates.requires_grad_(), biases.requires_grad_()]
    optimizer = torch.optim.Adam(learned, 1e-3)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        (task,) = images
        theta = torch.cat([value.flatten() for value in start])
        hidden, inner = torch.zeros(2, len(theta), 20)
        past = torch.zeros(2, len(theta))
        for _ in range(MOST_STEPS):
            learner = theta.detach().requires_grad_()
            loss = F.cross_entropy(_forward(task[:SUPPORT], _split(learner)), torch.arange(WAYS))
            (slope,) = torch.autograd.grad(loss, learner)
            inputs = [_scaled(slope), _scaled(loss.detach().expand_as(slope))]
            hidden, inner = cell(torch.cat(inputs, dim=1), (hidden, inner))
            past = torch.stack(
                [
                    torch.cat([hidden, theta[:, None], own[:, None]], dim=1) @ weights + bias
                    for own, weights, bias in zip(past, gates, biases, strict=True)
                ]
            )
            keep, rate = past.sigmoid()
            theta = keep * theta - rate * slope
        loss = F.cross_entropy(_forward(task[SUPPORT:], _split(theta)), TARGETS)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learned, 0.25)
        optimizer.step()

    return step


def _scaled(values: Tensor) -> Tensor:
    large = values.abs() >= torch.e**-10
    logarithms = torch.where(large, values.abs().log() / 10, -1.0)
    return torch.stack([logarithms, torch.where(large, values.sign(), torch.e**10 * values)], dim=1)


def _initial() -> list[Tensor]:
    """Of Conv4 and a last layer: weight, scale and shift of each block."""
    values: list[Tensor] = []
    for channels in (3, WIDTH, WIDTH, WIDTH):
        convolution = nn.Conv2d(channels, WIDTH, 3, bias=False)
        values += [convolution.weight, torch.ones(WIDTH), torch.zeros(WIDTH)]
    layer = nn.Linear(WIDTH, WAYS)
    return [value.detach().requires_grad_() for value in (*values, layer.weight, layer.bias)]


SHAPES = [value.shape for value in _initial()]


def _split(theta: Tensor) -> list[Tensor]:
    parts = torch.split(theta, [shape.numel() for shape in SHAPES])
    return [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def _forward(maps: Tensor, values: list[Tensor]) -> Tensor:
    *blocks, rows, offsets = values
    for weight, scale, shift in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        maps = F.conv2d(maps, weight, padding=1)
        maps = F.batch_norm(maps, None, None, scale, shift, training=True)
        maps = F.max_pool2d(F.relu(maps), 2)
    return F.linear(maps.flatten(1), rows, offsets)


if __name__ == "__main__":
    run(measure, option("--rounds", 20, quick=5))
