"""Every setting of the product, read from `PORTRAITS_*` variables or a `.env` file; secrets from files too.

One frozen class: what is configured is decided once, at start. Secrets are masked in `repr`, and no fault repeats them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobs.secret_files import NamedFiles, SecretsFolder

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Where things are and how much is allowed; every field is `PORTRAITS_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="PORTRAITS_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(Path(".portraits"), description="Folder of the embedded database, broker, objects and packs.")
    database_url: SecretStr = Field(
        SecretStr(""),
        description="SQLAlchemy URL: sqlite:///file.db or postgresql+psycopg://user@host/name. Empty: SQLite in home.",
    )
    database_tenant_role: str = Field(
        "",
        pattern=r"^([a-z_][a-z0-9_]{0,62})?$",
        description="PostgreSQL role under which what concerns one tenant alone is done, so that row-level security "
        "holds it to that tenant; `portraits db roles` makes it. Empty: none.",
    )
    broker_url: SecretStr = Field(
        SecretStr(""),
        description="Celery broker: sqla+sqlite:///file.db, redis://, amqp:// or filesystem:///folder; empty: in home.",
    )
    broker_ca_file: Path | None = Field(
        None,
        description="Certificates (PEM) that a rediss:// or amqps:// broker's must come from; empty: the system's.",
    )
    broker_cert_file: Path | None = Field(
        None, description="Certificate (PEM) by which this process is known to the broker; empty: none."
    )
    broker_key_file: Path | None = Field(None, description="The key (PEM) of that certificate.")
    queue: str = Field("portraits", pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="Name of the queue at the broker.")
    storage_url: str = Field(
        "", description="Object store: file:///folder or s3://bucket/prefix. Empty: a folder in home."
    )
    s3_endpoint_url: str = Field("", description="Endpoint of an S3-compatible server; empty: AWS.")
    s3_ca_file: Path | None = Field(
        None,
        description="Certificates (PEM) that the S3 server's must come from; empty: the system's, or AWS_CA_BUNDLE.",
    )
    s3_region: str = Field("us-east-1", description="Region used to sign requests.")
    photo_buckets: str = Field(
        "",
        description="Buckets that s3:// photos may come from, with commas between; empty: only the one of storage_url.",
    )
    url_expires_seconds: Annotated[int, Field(gt=0, le=86_400)] = Field(
        3600, description="Life of a presigned URL, in seconds; a day at most, as whoever has it sees the picture."
    )

    serve_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#@\\]+/?)?$",
        description="Address under which people reach `portraits serve`, such as https://portraits.example.com: for "
        "links from galleries and for uploads. Empty: the address that each request names.",
    )
    serve_secret: SecretStr = Field(
        SecretStr(""),
        description="What sessions and upload addresses of `portraits serve` are signed with, 32 characters at least; "
        "the same for every process behind one address. Empty: `serve.key` in home, made when it is missing.",
    )
    serve_direct: bool = Field(
        True,
        description="Whether clients reach an S3 store themselves: photos are then sent to it and pictures fetched "
        "from it under presigned URLs; otherwise both go through `portraits serve`.",
    )
    serve_metrics: bool = Field(
        False,
        description="Whether `portraits serve` answers /metrics: the fleet's numbers, which name no tenant and for "
        "which it asks no token: only where no stranger reaches it.",
    )
    serve_proxies: str = Field(
        "",
        description="Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas "
        "between; empty: none.",
    )
    session_seconds: Annotated[int, Field(ge=60, le=30 * 86_400)] = Field(
        43_200, description="How long a login to the pages of `portraits serve` lasts, in seconds."
    )
    upload_seconds: Annotated[int, Field(ge=60, le=30 * 86_400)] = Field(
        86_400, description="How long a photo that was sent waits for a job that names it, in seconds."
    )
    max_uploads: Positive = Field(
        20_000, description="Photos of one tenant that may be announced or sent and not be named by a job yet."
    )

    tenant: str = Field(
        "default", description="Tenant of a manifest that names none, and of commands without --tenant."
    )
    profile: str = Field("mini", description="Profile of a manifest that names none.")
    profiles_file: Path | None = Field(
        None, description="TOML file of profiles; empty: only the built-in ones, `mini` and `mini-untrained`."
    )

    retention_days: Annotated[int, Field(gt=0, le=36_500)] | None = Field(
        None,
        description="How many days after their last use people are kept, in tenants without a length of their own; "
        "empty: until somebody forgets them. See privacy.md.",
    )
    require_consent: bool = Field(
        False,
        description="Whether people with photos are enqueued only with `consent` and `purpose`, for every tenant.",
    )

    max_photos_per_identity: Positive = Field(20, description="Photos per person and job.")
    max_photo_bytes: Positive = Field(32 * 1024 * 1024, description="Size of one photo file, in bytes.")
    max_photo_pixels: Positive = Field(50_000_000, description="Pixels of one decoded photo.")
    max_renders_per_job: Positive = Field(5_000_000, description="Pictures one job may ask for.")
    max_identities_per_job: Positive = Field(200_000, description="People in one job.")
    max_manifest_bytes: Positive = Field(
        16 * 1024 * 1024, description="Size of a YAML or JSON manifest (CSV and JSON Lines stream), in bytes."
    )
    max_steps: Positive = Field(150, description="Denoising steps of one picture.")
    max_side: Positive = Field(2048, description="Longest side of a picture, in pixels.")
    max_output_side: Positive = Field(
        4096, description="Longest side that a manifest may ask of an output file, in pixels."
    )
    renders_per_unit: Positive = Field(
        64, description="Pictures in one unit: what one lease covers and one message names."
    )

    lease_seconds: Seconds = Field(120.0, description="Life of a claim without a heartbeat, in seconds.")
    stall_seconds: Seconds = Field(
        900.0,
        description="How long drawing, weights or a look at a picture may stand still, in seconds, before a worker's "
        "process is ended and its units go to others; shorter once steps were measured (20 times the longest, at "
        "least 60).",
    )
    shift_seconds: Seconds = Field(600.0, description="How long one Celery task goes on claiming, in seconds.")
    reap_seconds: Seconds = Field(
        20.0, description="How often expired leases are returned and messages sent again, in seconds."
    )
    resend_seconds: Seconds = Field(
        30.0, description="Age after which the message of a ready unit is sent again, in seconds."
    )
    max_attempts: Positive = Field(
        3, description="Claims of one unit before it fails as a lost worker or a transient fault."
    )
    max_lost_workers: Positive = Field(
        3, description="Workers that may be lost with one unit before it is quarantined; from the first on it is alone."
    )
    retry_seconds: Seconds = Field(
        5.0, description="First wait before a transient fault is tried again, in seconds; doubles each time."
    )
    priority_age_seconds: Positive = Field(60, description="Seconds of waiting that one step of priority is worth.")
    claim_units: Positive = Field(64, description="Units claimed in one statement.")

    clerk: Literal["auto", "off"] = Field(
        "auto",
        description="Whether workers and `portraits serve` start and mind a clerk, one for each home: the process that "
        "tells webhooks, makes galleries and sweeps. off: run `portraits clerk` yourself.",
    )
    webhook_allow_http: bool = Field(
        False, description="Whether webhooks may be told over http, where everybody on the way can read what is told."
    )
    webhook_networks: str = Field(
        "",
        pattern=r"^[0-9a-fA-F.:/, ]*$",
        description="Networks that webhooks may lie in although they are not public, such as 10.1.0.0/16,fd00::/8; "
        "empty: none.",
    )
    webhook_ports: str = Field(
        "80,443,8080,8443",
        pattern=r"^\d{1,5}( *, *\d{1,5})*$",
        description="Ports that webhooks may have, with commas between.",
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=120)] = Field(
        10.0, description="How long one try to tell a webhook may take, in seconds."
    )
    webhook_retry_seconds: Seconds = Field(
        5.0, description="First wait before a webhook is told again, in seconds; doubles each time, up to an hour."
    )
    webhook_days: Annotated[float, Field(gt=0, le=30)] = Field(
        3.0,
        description="How many days a webhook is tried before a message is given up, and an endpoint that has taken "
        "nothing for so long is disabled.",
    )

    device: str = Field("auto", description="Torch device: auto, cpu, cuda, cuda:0.")
    face_providers: str = Field(
        "",
        pattern=r"^[A-Za-z, ]*$",
        description="Where InsightFace packs run, best first: tensorrt,cuda,cpu. Empty: the best that is present; "
        "with PORTRAITS_VRAM_GB the CPU.",
    )
    vram_gb: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="GPU memory that a worker may take, in GB (GiB, as cards are named); empty: all of it, and nothing "
        "is done to take less. See memory.md.",
    )
    batch_size: Positive | None = Field(None, description="Pictures drawn at once; empty: what the profile says.")
    compile: Literal["auto", "off", "blocks", "whole"] = Field(
        "auto",
        description="What of the UNet is compiled. auto: on GPUs what `portraits calibrate` found fast, else its "
        "repeated blocks; on CPUs nothing.",
    )
    warm: str = Field(
        "auto",
        pattern=r"^(auto|none|[1-9]\d{1,3}x[1-9]\d{1,3}(, *[1-9]\d{1,3}x[1-9]\d{1,3}){0,15})$",
        description="Sizes compiled before a worker is ready, such as 1024x1024,832x1216; auto: the model's own square "
        "and that of the detail pass; none.",
    )
    upload_threads: Positive = Field(
        4, description="Threads that encode, upload and record while the next batch is drawn."
    )
    upload_queue: Positive = Field(32, description="Finished pictures that may wait for upload before drawing pauses.")
    storage_wait_seconds: Seconds = Field(
        60.0,
        description="How long finished pictures wait in memory for a store that is away before they are put aside on "
        "local disk, in seconds.",
    )
    spool: Path | None = Field(
        None,
        description="Private folder for finished pictures that could not be stored or recorded yet; empty: `spool` in "
        "home. See outages.md.",
    )
    spool_bytes: Positive = Field(
        4 * 1024**3, description="Size of that folder at which drawing stops until there is room again, in bytes."
    )
    spool_hold_seconds: Seconds = Field(
        3600.0,
        description="How long a unit is left to the worker that has put pictures of it aside before others may draw "
        "them again, in seconds.",
    )

    log_format: Literal["text", "json"] = Field(
        "text",
        description="How workers, the clerk and `portraits serve` log: lines for people, or one JSON object a line.",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0,
        description="Port on which a worker answers /metrics (Prometheus) and /healthz; with --gpus the first worker "
        "has it, each further one the next. 0: none. See telemetry.md.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address of that port; 0.0.0.0 in a container, where others must reach it."
    )
    traces_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where OpenTelemetry spans are sent (OTLP over HTTP), such as http://collector:4318; empty: where "
        "OTEL_EXPORTER_OTLP_ENDPOINT says, and no spans where it says nothing.",
    )
    task_events: bool = Field(False, description="Whether workers tell Celery's events of each shift, as Flower needs.")
    health_seconds: Seconds = Field(
        60.0,
        description="For how long a worker may have neither asked the broker nor gone on with its shift before "
        "`portraits health` calls it stuck, in seconds; within a shift it is at least a lease's life.",
    )

    sign: Literal["on", "off"] = Field(
        "on", description="Whether every picture carries a C2PA manifest that says it is AI-made. See marking.md."
    )
    sign_certificate: Path | None = Field(
        None,
        description="PEM file with the certificate to sign with, its issuers after it; empty: a self-made one in home, "
        "which nobody trusts.",
    )
    sign_key: Path | None = Field(
        None, description="PEM file (PKCS8, without a password) with the private key of that certificate."
    )
    sign_timestamp_url: str = Field(
        "",
        pattern=r"^(https?://[^\s@]{1,500})?$",
        description="Time stamp authority (RFC 3161) asked at each signature, so that it outlives its certificate; "
        "empty: none, and nothing goes over the network.",
    )
    marking_required: bool = Field(
        True,
        description="Whether a worker whose signer is broken takes no unit; false: pictures are then shipped unsigned, "
        "with a warning, and say so.",
    )
    embed_record: Literal["all", "none"] = Field(
        "all",
        description="Whether pictures hold prompt, seed, ids and times of their making (all), or nothing of it (none), "
        "as for pictures that are published.",
    )
    watermark: Literal["off", "on"] = Field(
        "off",
        description="Whether pictures of at least 256x256 pixels get an invisible watermark that says AI-made; needs "
        "the extra `watermark`, and about a second of a processor for each picture.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, `.env`, and the folder of secrets; see `jobs.secret_files`."""
        assert isinstance(env_settings, EnvSettingsSource) and isinstance(dotenv_settings, EnvSettingsSource)
        known = (env_settings.env_vars, dotenv_settings.env_vars)
        named = [NamedFiles(settings_cls, variables) for variables in known]
        folder = SecretsFolder(settings_cls, *known)
        return init_settings, named[0], env_settings, named[1], dotenv_settings, folder

    @model_validator(mode="after")
    def _embedded_defaults(self) -> Settings:
        home = self.home.expanduser().resolve()
        embedded = {
            "home": home,
            "database_url": SecretStr(f"sqlite:///{home / 'portraits.db'}"),
            "broker_url": SecretStr(f"sqla+sqlite:///{home / 'broker.db'}"),
            "storage_url": (home / "objects").as_uri(),
        }
        for name, value in embedded.items():
            current = getattr(self, name)
            empty = not (current.get_secret_value() if isinstance(current, SecretStr) else current)
            if empty or name == "home":
                object.__setattr__(self, name, value)
        return self


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
