"""Every setting, in one place: from flags of the command line, `ATTUNE_…` variables, or a TOML file, in this order.

Built once by whoever starts a process and passed down; nothing reads it at import.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]


class Settings(BaseSettings):
    """All of Attune's settings. The TOML file is named by `ATTUNE_CONFIG`; its keys are the names below."""

    model_config = SettingsConfigDict(env_prefix="ATTUNE_", extra="forbid", frozen=True)

    data_dir: Path = Path("attune-data")
    """Where everything lives that is not configured to live elsewhere."""
    database_url: str = ""
    """`postgresql://…` or `sqlite:///…`. Default: attune.db in the data folder."""
    broker_url: SecretStr = SecretStr("")
    """`redis://…` of a Redis or Valkey. `attune up` starts its own where this is empty."""
    storage_url: str = ""
    """`s3://bucket/prefix`, `gs://…`, `az://…` or a folder. Default: objects/ in the data folder.
    Credentials and endpoint come from the cloud's usual variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …)."""
    work_dir: Path | None = None
    """A worker's run folders and its cache of base models. Default: work/ in the data folder."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Of the API; 0 picks a free one."""
    organization: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "attune"
    """The third part of a fine-tuned model's id."""

    max_file_bytes: Bytes = 512 * 1024 * 1024
    """The largest file that `POST /v1/files` takes."""
    max_upload_bytes: Bytes = 8 * 1024**3
    """The largest file that `POST /v1/uploads` takes in parts."""
    max_part_bytes: Bytes = 64 * 1024 * 1024
    """The largest part of one."""
    upload_expires_s: Seconds = 3600
    """How long an upload may take from its beginning to its completion."""
    max_body_bytes: Bytes = 1024 * 1024
    """The largest JSON body."""
    requests_at_once: Annotated[int, Field(ge=1)] = 10
    """Requests of one project that an API process works on at the same time, of 36. Projects take turns."""
    requests_waiting: Annotated[int, Field(ge=1)] = 100
    """Further ones that one project may have waiting; one more is a 429."""
    retried_create_s: Annotated[float, Field(ge=0)] = 120
    """So long after a job was created, a client's retry of the same request gets that job instead of another one."""
    requests_per_second: Annotated[float, Field(gt=0)] = 100
    """Of one project, by each API process; three seconds' worth may come at once."""
    max_project_files: Annotated[int, Field(gt=0)] = 10_000
    """Files of one project."""
    max_project_bytes: Bytes = 256 * 1024**3
    """Bytes of one project's files and of the parts of its uploads."""
    max_project_answer_bytes: Bytes = 64 * 1024**2
    """Bytes of one project's Idempotency-Keys and of the answers that are kept for them, each for a day."""
    max_project_streams: Annotated[int, Field(ge=0)] = 250
    """Event streams of one project that one API process keeps open."""
    max_active_jobs: Annotated[int, Field(gt=0)] = 1000
    """Jobs of one project that have not ended."""

    merged_max_parameters: Annotated[int, Field(ge=0)] = 1_000_000_000
    """Parameters of the largest base model whose weights are published merged without being asked for."""
    max_connections: Annotated[int, Field(ge=16)] = 4096
    """Connections that one API process keeps open, as far as its limit on open files allows. Where it is reached, those
    that have sent no request make room."""
    max_streams: Annotated[int, Field(ge=0)] = 1000
    """Event streams that one API process keeps open."""
    stream_poll_s: Seconds = 0.5
    """How often it looks for new events, once for all streams."""
    stream_keep_alive_s: Seconds = 15
    """How long a stream says nothing."""

    webhook_private_hosts: str = ""
    """Names or addresses, with commas between them, that webhooks may be sent to although they are not public ones."""

    wandb_api_key: SecretStr = SecretStr("")
    """Of Weights & Biases. With it, jobs that name it among their integrations have their metrics sent there."""
    wandb_base_url: str = ""
    """Of an installation of one's own; empty: the public one."""
    wandb_mode: Literal["online", "offline"] = "online"
    """offline: no key is needed, and each run is a folder in `wandb_dir`, for `wandb sync` to send."""
    wandb_dir: Path | None = None
    """Default: wandb/ in the data folder."""
    mlflow_tracking_uri: SecretStr = SecretStr("")
    """Every job's metrics go to this MLflow server (`https://…`) or database (`sqlite:///…`). Credentials come from
    its usual variables (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_TOKEN`, …)."""
    mlflow_experiment: Annotated[str, Field(min_length=1)] = "attune"
    tensorboard_dir: Path | None = None
    """Every job's metrics become event files in a folder of this folder. Workers on several machines share it."""
    track_s: Seconds = 5
    """How often new metrics are sent to these."""

    hub_token: SecretStr = SecretStr("")
    """Of a Hugging Face hub. With it and the namespace, jobs may push what they publish there."""
    hub_namespace: str = ""
    """The user or organization whose repositories jobs may push to."""
    hub_endpoint: str = ""
    """Of a hub of one's own; empty: the public one."""

    convert_seconds: Seconds = 4 * 3600
    """How long `attune models add` may take to download and convert a base model."""
    convert_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory of the child that converts it; 0: the machine's."""

    prepare_slots: Annotated[int, Field(ge=1)] = 1
    """Files that one worker turns into arrays at the same time."""
    train_slots: Annotated[int, Field(ge=0)] = 0
    """Jobs that one worker trains at the same time; 0: one for each GPU, or one on a machine without."""
    warm_trainers: bool = True
    """Keep a trainer waiting with torch imported: jobs start seconds earlier, for some 400 MB of memory a slot."""
    prepare_memory_bytes: Bytes = 4 * 1024**3
    """Memory of the child that reads the users' rows."""
    prepare_cpu_seconds: Annotated[int, Field(gt=0)] = 1800
    """Processor time of that child."""
    scan_cpu_seconds: Annotated[int, Field(gt=0)] = 600
    """Processor time of the child that looks through an uploaded file, beside the slots for jobs."""

    sampler: bool = True
    """Whether `attune up` and `attune worker` start a sampler, which answers /v1/chat/completions. It loads nothing
    before it is asked."""
    sample_idle_s: Seconds = 600
    """A sampler that nobody asks for so long gives its memory back: the next request loads the model again."""
    sample_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 540
    """How long a request may take, its waiting included. OpenAI's clients give up after 600 s."""
    sample_max_tokens: Annotated[int, Field(ge=1)] = 4096
    """The longest answer that may be asked for."""
    sample_requests: Annotated[int, Field(ge=1)] = 16
    """Answers that one project may wait for at once; one more is a 429."""
    preview_processes: Annotated[int, Field(ge=1)] = 2
    """Previews, estimates and gradings that the API makes at the same time, each in a process of its own; one project
    gets one less, if that is any. Projects take turns."""
    preview_waiting: Annotated[int, Field(ge=1)] = 4
    """Further ones that one project may have waiting; one more is a 429."""
    preview_seconds: Seconds = 20
    """Processor time of such a process, and how long a request waits for its turn."""
    preview_memory_bytes: Bytes = 1024**3
    preview_file_bytes: Bytes = 256 * 1024**2
    """How much of a file is looked at: its beginning, from which an estimate concludes for the rest."""

    lease_s: Seconds = 60
    """How long a job stays a silent worker's."""
    heartbeat_s: Seconds = 10
    poll_s: Seconds = 2
    """How often a worker looks for a pause or a cancel of the job it trains."""
    sweep_s: Seconds = 15
    ring_again_s: Seconds = 30
    """How long a waiting job stays unrung."""
    hung_s: Seconds = 600
    """A trainer that reports nothing for this long (or for ten times its median step, if that is longer) is ended."""
    stop_grace_s: Seconds = 60
    """How long a trainer may take to save when its worker is asked to stop."""

    log_level: str = "info"

    @field_validator("storage_url")
    @classmethod
    def _a_folder_or_an_address(cls, url: str) -> str:
        if ":" in url and "://" not in url:
            raise ValueError("neither a folder nor an address such as s3://bucket/prefix")
        return url

    @field_validator("database_url")
    @classmethod
    def _a_database_we_know(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
            raise ValueError("give postgresql://user:password@host/name, or sqlite:///path")
        return url

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve()}/attune.db"

    @property
    def storage(self) -> str:
        return self.storage_url or str(self.data_dir.resolve() / "objects")

    @property
    def work(self) -> Path:
        return (self.work_dir or self.data_dir / "work").resolve()

    @property
    def wandb_folder(self) -> Path:
        return (self.wandb_dir or self.data_dir / "wandb").resolve()

    @property
    def pushes(self) -> bool:
        """Whether jobs may push to a hub."""
        return bool(self.hub_token.get_secret_value() and self.hub_namespace)

    @property
    def private_webhook_hosts(self) -> frozenset[str]:
        return frozenset(host.strip() for host in self.webhook_private_hosts.split(",") if host.strip())

    @property
    def credentials_file(self) -> Path:
        """The admin key's plain text, for programs on this machine only (mode 0600)."""
        return self.data_dir / "credentials.json"

    def environment(self) -> dict[str, str]:
        """These settings as variables, for a child process that builds its own `Settings`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            f"ATTUNE_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = (init_settings, env_settings)
        path = os.environ.get("ATTUNE_CONFIG")
        if path and not Path(path).is_file():
            raise ValueError(f"ATTUNE_CONFIG names {path}, and there is no such file")
        return (*given, TomlConfigSettingsSource(settings_cls, toml_file=path)) if path else given


def load_settings(**flags: Any) -> Settings:
    """Settings with the flags that were given (not None) on top."""
    return Settings(**{name: value for name, value in flags.items() if value is not None})
