"""All settings. They come from command-line options, `ATTUNE_…` variables or a TOML file, in this order of precedence.

The entry point of each process builds `Settings` once and passes it down. No module reads settings at import.
`docs/settings.md` is generated from this file (`make docs`).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Seconds = Annotated[float, Field(gt=0)]
Days = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(gt=0)]


def _check_server_url(url: str) -> str:
    if url and re.fullmatch(r"https?://[^@?#\s]+", url) is None:
        raise ValueError("give a URL such as https://api.openai.com/v1, without a user, a password or a query")
    return url.rstrip("/")


def _check_served_models(models: str) -> str:
    for entry in _separated(models):
        name, named, model = entry.partition("=")
        if not name or (named and not model) or name.startswith("ft:") or len(name) > 256:
            raise ValueError(f"'{entry}' is not NAME or NAME=MODEL, where NAME does not begin with ft:")
    return models


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
ServerUrl = Annotated[str, AfterValidator(_check_server_url)]
ServedModels = Annotated[str, AfterValidator(_check_served_models)]


@dataclass(frozen=True)
class Judge:
    """A model of another server with OpenAI's API, which graders may ask by a name that the operator has chosen."""

    url: str
    """Base URL of the server."""
    api_key: SecretStr
    model: str
    """Name of the model there."""


class JudgeServer(BaseModel):
    """An entry of `judge_servers`. The fields are those of `judge_url`, `judge_models` and `judge_api_key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[ServerUrl, Field(min_length=1)]
    models: ServedModels
    api_key: SecretStr = SecretStr("")

    @property
    def judges(self) -> list[tuple[str, Judge]]:
        """One pair for each model: the name that graders use, and the judge."""
        entries = (entry.partition("=") for entry in _separated(self.models))
        return [(name, Judge(self.url, self.api_key, model or name)) for name, _, model in entries]

    def plain(self) -> dict[str, str]:
        """Return the fields, with the key in plain text."""
        return {"url": self.url, "models": self.models, "api_key": self.api_key.get_secret_value()}


class Settings(BaseSettings):
    """Settings of the API, the workers and the operator's commands.

    The variable `ATTUNE_CONFIG` names the TOML file. The keys in the file are the names of the fields.
    """

    model_config = SettingsConfigDict(env_prefix="ATTUNE_", extra="forbid", frozen=True)

    data_dir: Path = Path("attune-data")
    """Folder for all data for which no other setting names a place."""
    database_url: str = ""
    """URL of the database: `postgresql://user:password@host/name` or `sqlite:///path`. Empty: `attune.db` in the data
    folder."""
    broker_url: SecretStr = SecretStr("")
    """URL of a Redis or Valkey server: `redis://…`. Empty: `attune up` starts its own. `attune worker` requires one;
    an API without one serves no completions."""
    storage_url: str = ""
    """Object storage: `s3://bucket/prefix`, `gs://…`, `az://…` or a folder. Empty: `objects/` in the data folder.
    Credentials and endpoint come from the cloud's usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
    …)."""
    work_dir: Path | None = None
    """Folder for a worker's run folders and its cache of base models. Not set: `work/` in the data folder."""

    host: str = "127.0.0.1"
    """Address that the API listens on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port that the API listens on. 0: any free port."""
    session_s: Seconds = 12 * 3600
    """Seconds from a sign-in to the dashboard until the browser has to sign in again."""
    organization: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "attune"
    """Organization in the ids of fine-tuned models: `ft:BASE:ORGANIZATION:SUFFIX:ID`."""
    metrics_token: SecretStr = SecretStr("")
    """Token with which Prometheus reads `/metrics`, sent as `Authorization: Bearer TOKEN`. Empty: `/metrics` does not
    exist."""
    log_level: LogLevel = "info"
    """Lowest level of the log lines that are written."""

    max_file_bytes: Bytes = 512 * 1024 * 1024
    """Size limit of a file sent to `POST /v1/files`, in bytes."""
    max_upload_bytes: Bytes = 8 * 1024**3
    """Size limit of a file sent to `POST /v1/uploads` in parts, in bytes. S3 stores at most 48 GiB."""
    max_part_bytes: Bytes = 64 * 1024 * 1024
    """Size limit of one part of an upload, in bytes."""
    upload_expires_s: Seconds = 3600
    """Seconds from the creation of an upload until it expires, if it is not completed."""
    max_body_bytes: Bytes = 1024 * 1024
    """Size limit of a JSON body, in bytes."""
    requests_at_once: Annotated[int, Field(ge=1)] = 10
    """Requests of one project that an API process handles at the same time, 36 at most. Projects take turns."""
    requests_waiting: Annotated[int, Field(ge=1)] = 100
    """Further requests of one project that may wait for their turn. Requests beyond that get a 429."""
    requests_per_second: Annotated[float, Field(gt=0)] = 100
    """Rate limit of one project in each API process, in requests per second. An idle project may at once
    send as many requests as this limit allows in three seconds."""
    retried_create_s: Annotated[float, Field(ge=0)] = 120
    """Seconds after the creation of a job, batch, eval or run in which a client's retry of the same request returns
    that object instead of creating another one."""
    max_project_files: Annotated[int, Field(gt=0)] = 10_000
    """Number of files that one project may keep."""
    max_project_bytes: Bytes = 256 * 1024**3
    """Total size of one project's files and parts of uploads, in bytes."""
    max_project_answer_bytes: Bytes = 64 * 1024**2
    """Total size of one project's Idempotency-Keys and their stored responses, in bytes. Each is kept for a day."""
    max_active_jobs: Annotated[int, Field(gt=0)] = 1000
    """Number of unfinished jobs that one project may have."""
    max_daily_jobs: Annotated[int, Field(gt=0)] = 10_000
    """Number of jobs that one project may create in 24 hours. Jobs are kept forever, also those that were cancelled at
    once."""
    max_connections: Annotated[int, Field(ge=16)] = 4096
    """Connections that one API process keeps open, if the limit on open files allows it. At the limit, connections
    that have not sent a request are closed."""
    cors_origins: str = ""
    """Origins whose pages may use the API from a browser, separated by commas, such as `https://app.example.com`. The
    pages send an API key; the dashboard's sign-in does not work for them. Empty: none."""
    max_streams: Annotated[int, Field(ge=0)] = 1000
    """Event streams that one API process keeps open; at most three quarters of its connections."""
    max_project_streams: Annotated[int, Field(ge=0)] = 250
    """Event streams of one project that one API process keeps open."""
    stream_poll_s: Seconds = 0.5
    """Seconds between two queries for new events. One query serves all streams of an API process."""
    stream_keep_alive_s: Seconds = 15
    """Seconds without an event after which a stream sends a comment that keeps its connection open."""

    preview_processes: Annotated[int, Field(ge=1)] = 2
    """Previews, estimates and gradings that an API process computes at the same time, each in a child process. One
    project may use all but one of these processes, and at least one. Projects take turns."""
    preview_waiting: Annotated[int, Field(ge=1)] = 4
    """Number of previews, estimates and gradings of one project that may wait while others are computed. Requests
    beyond that get a 429."""
    preview_seconds: Seconds = 20
    """Limit of the processor time of the child process of a preview, an estimate or a grading, in seconds; also the
    longest time that a request waits for its turn."""
    preview_memory_bytes: Bytes = 1024**3
    """Memory limit of the child process of a preview, an estimate or a grading, in bytes."""
    preview_file_bytes: Bytes = 256 * 1024**2
    """Bytes at the beginning of a file that a preview or an estimate reads. An estimate extrapolates to the rest. A
    Parquet file, which can only be read whole, may have at most this size."""

    webhook_private_hosts: str = ""
    """Names or addresses of private hosts that webhooks may be sent to, separated by commas. Empty: public hosts
    only."""

    wandb_api_key: SecretStr = SecretStr("")
    """API key of Weights & Biases. With this key, jobs may send their metrics there by an integration."""
    wandb_base_url: str = ""
    """URL of a self-hosted Weights & Biases server. Empty: the public one."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` needs no API key and writes each run into a folder in `wandb_dir`, to be sent with `wandb sync`."""
    wandb_dir: Path | None = None
    """Folder for the runs of Weights & Biases. Not set: `wandb/` in the data folder."""
    mlflow_tracking_uri: SecretStr = SecretStr("")
    """MLflow server (`https://…`) or database (`sqlite:///…`) for the metrics of every job. Empty: none. Credentials
    come from MLflow's usual variables (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_TOKEN`, …)."""
    mlflow_experiment: Annotated[str, Field(min_length=1)] = "attune"
    """Name of the MLflow experiment for the runs."""
    tensorboard_dir: Path | None = None
    """Folder for TensorBoard event files, with a subfolder for each job. Workers on several machines share it. Not set:
    no event files."""
    track_s: Seconds = 5
    """Seconds between two deliveries of new metrics to the trackers, and between two checks for pushes to the hub."""

    hub_token: SecretStr = SecretStr("")
    """Access token of a Hugging Face hub. With this token and `hub_namespace`, jobs may push their models there."""
    hub_namespace: str = ""
    """User or organization whose repositories jobs may push to."""
    hub_endpoint: str = ""
    """URL of a self-hosted hub. Empty: the public one."""

    convert_seconds: Seconds = 4 * 3600
    """Time limit of `attune models add` for the download and conversion of a base model, in seconds."""
    convert_memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory limit of the child process that converts a base model, in bytes. 0: the memory of the machine."""

    prepare_slots: Annotated[int, Field(ge=1)] = 1
    """Jobs whose files one worker tokenizes at the same time."""
    train_slots: Annotated[int, Field(ge=0)] = 0
    """Jobs that one worker trains at the same time. 0: one for each GPU, or one on a machine without GPUs."""
    fork_server: bool = True
    """Whether workers keep a process that has imported torch and the other libraries, from which their child processes
    are forked. Jobs then start seconds earlier, at the cost of about 350 MB of memory for each training worker and each
    sampler; without a GPU, those of one `attune up` share it. `attune up`, and a worker of several stages, fork their
    own processes in the same way."""
    prepare_memory_bytes: Bytes = 4 * 1024**3
    """Memory limit of the child process that reads users' rows, in bytes."""
    prepare_cpu_seconds: Annotated[int, Field(gt=0)] = 1800
    """Limit of the processor time of the child process that tokenizes a job's files, in seconds."""
    scan_cpu_seconds: Annotated[int, Field(gt=0)] = 600
    """Limit of the processor time of the child process that scans an uploaded file, in seconds."""
    merged_max_parameters: Annotated[int, Field(ge=0)] = 1_000_000_000
    """With `export.merged: "auto"`, merged weights are published only for base models of at most this many
    parameters."""

    sampler: bool = True
    """Whether `attune up` and `attune worker` start a sampler, which serves `/v1/chat/completions` and
    `/v1/completions`, a batch worker, which serves `/v1/batches`, and an evaluation worker, which serves `/v1/evals`. A
    sampler loads a model at the first request for it."""
    sample_idle_s: Seconds = 600
    """Seconds without a request after which a sampler unloads its model. The next request loads it again."""
    sample_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 540
    """Time limit of a completion request including its wait, in seconds. OpenAI's clients time out after 600 s."""
    sample_max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Largest number of tokens that a request may ask for in one completion."""
    sample_batch: Annotated[int, Field(ge=1, le=256)] = 16
    """Number of answers that a sampler generates at the same time. One pass over the model's weights then computes the
    next token of each of them. 1: one answer after the other."""
    sample_cache_tokens: Annotated[int, Field(ge=1)] = 16_384
    """Number of tokens that a sampler keeps in memory, prompts included, for the answers that it generates at the same
    time. Each of these answers takes as much space as the longest of them. Further answers wait until there is space. A
    single answer may exceed the limit. A token takes about 32 KB with a model of 1.2 billion parameters in bfloat16,
    and 46 KB with SmolLM2-135M in float32."""
    sample_vllm_url: ServerUrl = ""
    """Base URL of a vLLM server, such as `http://127.0.0.1:8000/v1`, that answers the requests which a sampler takes.
    Empty: the sampler generates all answers itself."""
    sample_vllm_models: ServedModels = ""
    """Base models at `sample_vllm_url`, separated by commas: `NAME`, or `NAME=MODEL` for a model that the server calls
    MODEL. It also answers for the LoRA adapters of these models, which the sampler hands over to it. The sampler
    itself answers for other models."""
    sample_vllm_api_key: SecretStr = SecretStr("")
    """API key for `sample_vllm_url`. Empty: none is sent."""
    sample_requests: Annotated[int, Field(ge=1)] = 16
    """Completion requests of one project that may wait or run at the same time. Requests beyond that get a 429."""
    batch_requests: Annotated[int, Field(ge=1)] = 16
    """Requests of batches that one batch worker sends to the samplers at the same time. These requests wait until no
    request of a client waits."""
    max_active_batches: Annotated[int, Field(ge=1)] = 50
    """Number of unfinished batches that one project may have."""
    max_batch_bytes: Bytes = 200 * 1024**2
    """Size limit of a batch's input file, in bytes. A line may have up to `max_body_bytes`."""
    max_batch_requests: Annotated[int, Field(ge=1)] = 50_000
    """Number of requests that one batch may have."""
    max_project_batch_requests: Annotated[int, Field(ge=1)] = 200_000
    """Number of requests that one project's unfinished batches may have together."""

    eval_items: Annotated[int, Field(ge=1)] = 16
    """Items of runs of evals that one evaluation worker samples and grades at the same time. Scripts and measures of
    similarity run in `preview_processes` child processes."""
    max_evals: Annotated[int, Field(ge=1)] = 1000
    """Number of evals that one project may keep."""
    max_active_eval_runs: Annotated[int, Field(ge=1)] = 50
    """Number of unfinished runs of evals that one project may have."""
    max_eval_runs: Annotated[int, Field(ge=1)] = 10_000
    """Number of runs of evals that one project may keep, ended ones included. Jobs start evals even at the limit."""
    max_eval_bytes: Bytes = 64 * 1024**2
    """Size limit of the file with the rows of a run, in bytes. A line may have up to `max_body_bytes`."""
    max_eval_items: Annotated[int, Field(ge=1)] = 10_000
    """Number of items that one run of an eval may have."""
    max_project_eval_items: Annotated[int, Field(ge=1)] = 500_000
    """Number of items that all runs of one project may have together. Deleting runs makes room for new items."""

    judge_url: ServerUrl = ""
    """Base URL of a server with OpenAI's API, such as `https://api.openai.com/v1`. Graders may ask its models to judge
    answers; prompts and answers of jobs with such a grader are sent there. Empty: graders can use only the models
    that Attune itself serves."""
    judge_models: ServedModels = ""
    """Models at `judge_url` that graders may name, separated by commas: `NAME`, or `NAME=MODEL` for a model that
    the server calls MODEL. A model named here takes precedence over a base model of the same name."""
    judge_api_key: SecretStr = SecretStr("")
    """API key for `judge_url`. Empty: none is sent."""
    judge_servers: dict[str, JudgeServer] = {}
    """Further servers with judges, by names of your own: JSON such as `{"local": {"url": "http://10.0.0.5:8000/v1",
    "models": "strict=qwen3-32b", "api_key": "…"}}`, or a table for each server in the TOML file. `url`, `models` and
    `api_key` are as in `judge_url`, `judge_models` and `judge_api_key`. No two models may have the same name."""
    judge_requests: Annotated[int, Field(ge=1)] = 8
    """Number of judgements that one process waits for at the same time. Projects take turns."""
    judge_timeout_s: Seconds = 60
    """Time limit of one request to a judge on another server, in seconds. For models of this server, `sample_timeout_s`
    applies."""
    judge_tries: Annotated[int, Field(ge=1, le=20)] = 6
    """Number of attempts to get a judgement. After the last one, the answer stays without a judgement. A judge is asked
    again if it is busy, cannot be reached, does not answer, or answers with something other than a judgement."""
    judge_retry_s: Seconds = 1
    """Seconds between the first and the second attempt to get a judgement. The pause doubles with each attempt, up to
    30 times this value, and is at least as long as the judge requests in `retry-after`, up to a minute."""
    judge_wait_s: Seconds = 30 * 60
    """Seconds for which a run of an eval, or a job, waits for a judge that is busy or unreachable in all attempts, or
    that answers nothing. The time starts anew when the judge answers. After this time, the items of a run end with an
    error, and the answers of a job stay without a judgement. For a question at which the judge fails or takes too long
    while it answers others, this happens after a few more attempts."""
    max_project_judge_tokens: Annotated[int, Field(ge=0)] = 100_000_000
    """Tokens that judges may read and write for one project in a calendar month (UTC), unless `attune projects budget`
    sets another limit for the project. This server's models count as judges, too. A stored judgement that is used
    again costs no tokens. 0: no limit."""
    embedding_model: Path | None = None
    """Folder of an embedding model, as sentence-transformers writes it, with which `text_similarity` graders compute
    `cosine`: on the machines of the API, the evaluation workers and the training workers. Not set: `cosine` is
    refused."""

    keep_files_days: Days = 0
    """Days until an uploaded file or the output of a batch is deleted, counted from its creation. A file that an
    unfinished job needs is kept until the job ends. 0: it is kept until its own expiry, or until its user deletes
    it."""
    keep_checkpoints_days: Days = 0
    """Days until the checkpoints of a job are deleted, counted from its end. Checkpoints that an unfinished job, an
    adapter or a permission needs are kept. 0: they are kept as long as the model."""
    keep_arrays_days: Days = 30
    """Days until the prepared rows of a file are deleted, unless an unfinished job needs them. A later job on the same
    file prepares them again. Workers keep the measurements of base models, with answers to a few rows, for as long
    after their last use. 0: forever."""
    keep_logs_days: Days = 90
    """Days until the logs of a job are deleted, counted from its end. 0: forever."""
    keep_events_days: Days = 0
    """Days until the events of a job and its metrics of each step are deleted, counted from its end. The table of its
    metrics, a result file, is kept. 0: forever."""
    keep_batches_days: Days = 0
    """Days until a batch is deleted, counted from its end. Its files are kept as long as `keep_files_days` says. 0:
    forever."""
    keep_eval_runs_days: Days = 0
    """Days until an ended run of an eval is deleted with its items, counted from its creation. 0: it is kept until its
    user deletes it."""
    keep_judgements_days: Days = 30
    """Days for which a judgement is stored, and used again for the same question. 0: forever."""
    keep_deliveries_days: Days = 30
    """Days until the log of a delivery to a webhook is deleted, counted from its end. 0: forever."""

    lease_s: Seconds = 60
    """Seconds without a heartbeat after which a worker loses its job and the job is requeued."""
    heartbeat_s: Seconds = 10
    """Seconds between two heartbeats of a worker for a job. At most half of `lease_s`."""
    poll_s: Seconds = 2
    """Seconds between two checks of a worker for a pause or a cancellation of its job, and between two checks of a
    deliverer for webhooks that are due."""
    sweep_s: Annotated[float, Field(gt=0, le=60)] = 15
    """Seconds between two sweeps of a worker: it requeues jobs of lost workers, deletes expired data and looks for
    waiting jobs."""
    ring_again_s: Seconds = 30
    """Seconds after which the workers are notified again of jobs that still wait."""
    hung_s: Seconds = 600
    """Seconds without a report after which a child process counts as hung and is killed. For a trainer, the limit is
    ten times its median step time, if that is longer."""
    stop_grace_s: Seconds = 60
    """Seconds that a trainer may take to save its state when its worker shuts down."""

    @field_validator("storage_url")
    @classmethod
    def _check_storage_url(cls, url: str) -> str:
        if ":" in url and "://" not in url:
            raise ValueError("give a folder, or a URL such as s3://bucket/prefix")
        return url

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        counts = Counter(name for server in self._judge_servers for name in dict(server.judges))
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"judge_servers: several judges have the name '{name}': write OTHER=MODEL for one")
        return self

    @model_validator(mode="after")
    def _check_heartbeat(self) -> Self:
        if self.heartbeat_s > self.lease_s / 2:
            raise ValueError("heartbeat_s must be at most half of lease_s, or healthy workers lose their jobs")
        return self

    @model_validator(mode="after")
    def _check_vllm(self) -> Self:
        if bool(self.sample_vllm_url) != bool(self.vllm_models):
            raise ValueError("sample_vllm_url and sample_vllm_models: give both or none")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        for origin in _separated(origins):
            if re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin) is None:
                raise ValueError(f"'{origin}' is not an origin: give https://host or https://host:port, in lower case")
        return origins

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
            raise ValueError("give postgresql://user:password@host/name or sqlite:///path")
        return url

    @property
    def database(self) -> str:
        """The database's URL: the setting, or its default."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve()}/attune.db"

    @property
    def storage(self) -> str:
        """The object storage's URL or folder: the setting, or its default."""
        return self.storage_url or str(self.data_dir.resolve() / "objects")

    @property
    def work(self) -> Path:
        """The worker's folder: the setting, or its default."""
        return (self.work_dir or self.data_dir / "work").resolve()

    @property
    def embedding_folder(self) -> str | None:
        """The absolute path of `embedding_model`, for child processes."""
        return None if self.embedding_model is None else str(self.embedding_model.resolve())

    @property
    def wandb_folder(self) -> Path:
        """The folder for runs of Weights & Biases: the setting, or its default."""
        return (self.wandb_dir or self.data_dir / "wandb").resolve()

    @property
    def pushes(self) -> bool:
        """Whether the settings suffice for pushes to a hub."""
        return bool(self.hub_token.get_secret_value() and self.hub_namespace)

    @property
    def private_webhook_hosts(self) -> frozenset[str]:
        """The names and addresses in `webhook_private_hosts`."""
        return frozenset(_separated(self.webhook_private_hosts))

    @property
    def origins(self) -> list[str]:
        """The origins in `cors_origins`."""
        return _separated(self.cors_origins)

    @property
    def vllm_models(self) -> Mapping[str, str]:
        """{base model: its name at `sample_vllm_url`}."""
        entries = (entry.partition("=") for entry in _separated(self.sample_vllm_models))
        return {name: model or name for name, _, model in entries}

    @property
    def judges(self) -> Mapping[str, Judge]:
        """{name that graders use: judge}."""
        return {name: judge for server in self._judge_servers for name, judge in server.judges}

    @property
    def _judge_servers(self) -> list[JudgeServer]:
        first = JudgeServer.model_construct(url=self.judge_url, models=self.judge_models, api_key=self.judge_api_key)
        return [*([first] if self.judge_url else []), *self.judge_servers.values()]

    @property
    def credentials_file(self) -> Path:
        """File with an operator's key in plain text, for programs on this machine only (mode 0600)."""
        return self.data_dir / "credentials.json"

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables, for a child process that builds its own `Settings`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {f"ATTUNE_{name.upper()}": _as_text(value) for name, value in values.items() if value is not None}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence. pydantic calls it when `Settings` is built."""
        sources = (init_settings, env_settings)
        path = os.environ.get("ATTUNE_CONFIG")
        if path and not Path(path).is_file():
            raise ValueError(f"ATTUNE_CONFIG is {path}, but there is no such file")
        return (*sources, TomlConfigSettingsSource(settings_cls, toml_file=path)) if path else sources


def load_settings(**options: Any) -> Settings:
    """Return the settings. Command-line options that are not None override the other sources."""
    return Settings(**{name: value for name, value in options.items() if value is not None})


def _as_text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case dict():
            return json.dumps({name: server.plain() for name, server in value.items()})
    return str(value)


def _separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
