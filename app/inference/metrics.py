"""What the inference threads count, for `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class InferenceMetrics:
    """What the inference threads count, for `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.images = Counter("handful_images", "Images by outcome", ["outcome"], registry=registry)
        self.rejected = Counter(
            "handful_rejected_images",
            "Images turned away; a body that was not read counts as one",
            registry=registry,
        )
        self.waiting = Gauge(
            "handful_queue_images", "Images being decoded or embedded", registry=registry
        )
        self.waiting_bytes = Gauge(
            "handful_queue_bytes", "Bytes of images being decoded or embedded", registry=registry
        )
        self.batch = Histogram(
            "handful_batch_images",
            "Images per forward pass",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.stage = Histogram(
            "handful_stage_seconds",
            "Time of a stage: admit and post by request, decode and queue by image, forward by "
            "batch, database by connection that is used",
            ["stage"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=registry,
        )
