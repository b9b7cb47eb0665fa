"""Every setting of the service, read once from the environment."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1 << 20
KEY_LENGTH = 20  # least characters of a key that others may guess at


@dataclass(frozen=True)
class UploadLimits:
    """How much one request may bring."""

    file_bytes: int
    files: int
    archive_files: int
    archive_bytes: int


class Settings(BaseSettings):
    """Each field is an environment variable with the prefix `HANDFUL_`."""

    model_config = SettingsConfigDict(
        env_prefix="HANDFUL_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    data_dir: Path = Field(
        Path("handful-data"), description="Folder of the default database and of the image files."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL; SQLite in the data folder when empty, or `postgresql://`."
    )
    blob_url: str = Field(
        "", description="Folder or fsspec URL of images and weights; in the data folder when empty."
    )
    encoder: str = Field(
        "efficientnet_lite:0",
        description="Encoder of new projects: `efficientnet_lite:0`, `timm:NAME`, "
        "`timm:NAME@weights.safetensors`, `conv4`; further options as `conv4:32,image_side=64`.",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1` or `mps`.")
    runtime: str = Field(
        "auto",
        description="What computes encoders: `pytorch`, `openvino` or `onnxruntime` on a CPU, "
        "`cuda_graphs`; `auto` tries them and takes the fastest whose embeddings agree.",
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; others than loopback need an API key."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    drain_seconds: float = Field(
        1.0,
        ge=0,
        le=600,
        description="How long `/readyz` says 503 after SIGTERM before the port is closed.",
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        description="Clients send it as `Authorization: Bearer KEY`; empty: open. At least 20 "
        "characters where others than this machine can reach the service.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1", "[::1]"),
        description="Host names that requests may carry while no API key is set (JSON list).",
    )
    label_studio_url: str = Field(
        "", description="Address of the Label Studio whose images are read, as seen from here."
    )
    label_studio_token: SecretStr = Field(
        SecretStr(""), description="A personal access token of that Label Studio, or a legacy one."
    )
    webhooks_to_private_addresses: bool = Field(
        False, description="Whether webhooks may lead to services that are not on the Internet."
    )
    max_body_bytes: int = Field(1024 * MIB, ge=1, description="Largest request body.")
    max_file_bytes: int = Field(20 * MIB, ge=1, description="Largest image file.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, in pixels.")
    max_files: int = Field(1000, ge=1, description="Most files in one multipart request.")
    max_archive_files: int = Field(100_000, ge=1, description="Most members of one zip or tar.")
    max_archive_bytes: int = Field(
        16 * 1024 * MIB, ge=1, description="Most bytes that one zip or tar may unpack to."
    )
    max_batch: int = Field(16, ge=1, description="Images per forward pass.")
    max_queue_images: int = Field(
        512, ge=1, description="Images being decoded or embedded before more are turned away."
    )
    max_queue_bytes: int = Field(
        512 * MIB, ge=1, description="Bytes of image files that wait before more are turned away."
    )
    max_decode_bytes: int = Field(
        256 * MIB,
        ge=1,
        description="Memory for the pixels of images that are decoded at once, as their headers "
        "tell; a larger image is decoded alone.",
    )
    max_delay_seconds: float = Field(
        10.0,
        gt=0,
        description="Images that would wait longer are turned away, but those of uploads in bulk.",
    )
    decode_threads: int = Field(
        0, ge=0, le=256, description="Threads that decode images; 0: one per processor core."
    )
    request_threads: int = Field(
        64, ge=1, le=1024, description="Requests that are worked on at the same time."
    )
    encoders_in_memory: int = Field(2, ge=1, description="Encoder versions kept loaded.")
    vector_cache_bytes: int = Field(
        4 * 1024 * MIB,
        ge=0,
        description="Embedding matrices of projects that are held open, in memory or mapped.",
    )
    workers: int = Field(
        1, ge=0, le=64, description="Workers that `handful serve` starts beside it, for jobs."
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="A job whose worker is silent for longer is given to another."
    )
    job_attempts: int = Field(
        5,
        ge=1,
        description="How often a job whose worker was lost is taken up, the first included.",
    )
    job_backoff_seconds: float = Field(
        2.0,
        ge=0,
        le=600,
        description="Before the second attempt at a job; twice as long before each further one.",
    )
    job_max_seconds: float = Field(
        0.0,
        ge=0,
        description="An attempt at a job that takes longer ends it as failed; 0: no limit.",
    )
    checkpoint_seconds: float = Field(
        15.0, ge=0, description="Time between two checkpoints of a job."
    )
    training_threads: int = Field(
        0, ge=0, le=256, description="Threads that a job computes with; 0: all cores but one."
    )
    training_cache_bytes: int = Field(
        2 * 1024 * MIB, ge=0, description="Memory of a job for decoded images."
    )
    stall_seconds: float = Field(
        120.0, gt=0, description="A thread busy with one task for longer fails `/livez`."
    )
    min_free_bytes: int = Field(
        256 * MIB, ge=0, description="Less free disk space than this fails `/readyz`."
    )
    idempotency_hours: float = Field(
        24.0, gt=0, description="How long the answer to an `Idempotency-Key` is remembered."
    )
    delivery_days: float = Field(
        30.0, gt=0, description="How long messages to webhooks are listed that came to an end."
    )
    job_event_days: float = Field(
        90.0,
        gt=0,
        description="How long messages and pictures of a job stay after its end, and the "
        "checkpoint of one that failed.",
    )
    reservation_days: float = Field(
        30.0, gt=0, description="How long it is known which images were handed out in vain."
    )
    sweep_hours: float = Field(
        24.0,
        ge=0,
        description="Between two looks for files of deleted images, the second of which removes "
        "them; at least 1, or 0: only `handful sweep` does.",
    )
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")

    @model_validator(mode="after")
    def _refuse_an_open_door(self) -> Self:
        key = self.api_key.get_secret_value()
        if not self.is_loopback and not key:
            raise ValueError(
                f"listening on {self.host} would let anyone in: set HANDFUL_API_KEY to a long "
                "random secret, or keep HANDFUL_HOST=127.0.0.1"
            )
        if not self.is_loopback and len(key) < KEY_LENGTH:
            raise ValueError(
                f"HANDFUL_API_KEY has {len(key)} characters, and others could guess it: set it to "
                f"at least {KEY_LENGTH} random ones, as `python3 -c 'import secrets; "
                "print(secrets.token_urlsafe(32))'` makes them, or keep HANDFUL_HOST=127.0.0.1"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database(self) -> str:
        """The database URL, with the driver that this project uses."""
        url = self.database_url or f"sqlite:///{self.data_dir.resolve() / 'handful.sqlite'}"
        for scheme in ("postgresql://", "postgres://"):
            if url.startswith(scheme):
                return "postgresql+psycopg://" + url.removeprefix(scheme)
        return url

    @property
    def blobs(self) -> str:
        """Where images and weights are kept."""
        return self.blob_url or str(self.data_dir.resolve() / "blobs")

    @property
    def vector_files(self) -> Path:
        """Where embeddings are kept beside the database, for a quick start."""
        return self.data_dir.resolve() / "cache" / "vectors"

    @property
    def upload_limits(self) -> UploadLimits:
        """How much one request may bring."""
        return UploadLimits(
            self.max_file_bytes, self.max_files, self.max_archive_files, self.max_archive_bytes
        )
