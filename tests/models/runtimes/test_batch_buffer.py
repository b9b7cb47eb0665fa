"""Where the pixels of a batch are gathered."""

import torch

from models.runtimes.batch_buffer import BatchBuffer

CPU = torch.device("cpu")


def pixels(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 5, 5)
    return [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(count)]


def test_batches_of_all_sizes_are_gathered_one_after_the_other():
    buffer = BatchBuffer()

    for seed, count in enumerate((1, 4, 2, 7, 7)):
        images = pixels(count, seed)
        assert buffer.gather(images, CPU).equal(torch.stack(images))


def test_memory_is_kept_from_one_batch_to_the_next():
    buffer = BatchBuffer()
    places = [buffer.gather(pixels(count, 0), CPU).data_ptr() for count in (4, 4, 1, 3)]

    assert len(set(places)) == 1
