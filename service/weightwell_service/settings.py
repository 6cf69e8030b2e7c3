"""Settings of a deployment, from flags and from ``WEIGHTWELL_*`` environment variables."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from weightwell_engine.processors import cpus

GIB = 2**30


class Settings(BaseSettings):
    """Configuration of one service process; every field is a flag and an environment variable."""

    model_config = SettingsConfigDict(
        env_prefix="WEIGHTWELL_",
        cli_prog_name="weightwell-service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        extra="forbid",
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    device: str = Field(default="cpu", description="device that generates numbers: cpu, cuda:0, cuda:1, ...")
    workers: PositiveInt = Field(
        default=1, description="processes that serve the port; the limits below are those of all together"
    )
    threads: PositiveInt = Field(default_factory=cpus, description="threads that generate numbers")
    max_bytes: PositiveInt = Field(default=16 * GIB, description="largest file, in bytes")
    max_resident_bytes: PositiveInt = Field(
        default=4 * GIB,
        description="memory budget for chunks, plans, bodies and tensors that must be generated whole, in bytes",
    )
    max_responses: PositiveInt = Field(default=2000, description="files sent at once; further requests get a 503")
    max_request_bytes: PositiveInt = Field(default=16 * 2**20, description="largest JSON body, in bytes")
    max_total_request_bytes: PositiveInt = Field(
        default=256 * 2**20, description="memory budget for JSON bodies, over all requests, in bytes"
    )
    max_signal_operations: PositiveInt = Field(
        default=2 * 10**11, description="largest estimated cost of a request to /signal, in operations"
    )
    max_tensors: PositiveInt | None = Field(default=None, description="most tensors of a file; unset for any number")
    max_cpu_seconds: PositiveFloat | None = Field(
        default=None,
        allow_inf_nan=False,
        description="most CPU seconds for drawing one answer, by estimate (docs/access.md); unset for any number",
    )
    max_responses_per_address: PositiveInt | None = Field(
        default=None, description="answers at once for an address, on a server without tokens; unset for any number"
    )
    bytes_per_day_per_address: PositiveInt | None = Field(
        default=None, description="bytes a day for an address, on a server without tokens; unset for any number"
    )
    saturation: float = Field(
        default=0.9,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="part of max_responses or queue_timeout in use at which /health/ready is 503; 0 turns this off",
    )
    max_connections: PositiveInt = Field(
        default=4096, description="most connections at once; fewer if the limit of open files is lower"
    )
    head_timeout: PositiveFloat = Field(
        default=20.0, allow_inf_nan=False, description="seconds in which the head of a request must arrive"
    )
    torch_generator: Literal["on", "off"] = Field(default="on", description="whether generator=torch may be used")
    queue_timeout: PositiveFloat = Field(
        default=30.0, allow_inf_nan=False, description="seconds that a request waits for memory before it gets a 503"
    )
    drawing_timeout: PositiveFloat = Field(
        default=120.0, allow_inf_nan=False, description="seconds in which a chunk must be generated"
    )
    stall_timeout: PositiveFloat = Field(
        default=60.0,
        allow_inf_nan=False,
        description="seconds over which the rate of a received body or a sent response is measured",
    )
    min_rate: PositiveFloat = Field(
        default=1000.0,
        allow_inf_nan=False,
        description="least rate of both, in bytes per second; slower connections are closed",
    )
    keep_alive: PositiveInt = Field(
        default=75, description="seconds before an idle connection is closed; longer than clients keep theirs"
    )
    shutdown_timeout: PositiveInt = Field(
        default=30, description="seconds that running responses have to end at shutdown"
    )
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds in which /health/ready is 503 before a stopping server closes its port",
    )
    repositories: Path | None = Field(
        default=None, description="folder of owner/name folders, each a model for the clients of the Hub (docs/hub.md)"
    )
    max_shard_bytes: PositiveInt = Field(
        default=5 * 10**9, description="largest weight file of a repository, in bytes; larger models have several"
    )
    data_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*[^\s/?#])?$",
        description="address to which the weights of repositories are redirected, such as http://10.0.0.7:8000",
    )
    tokens_file: Path | None = Field(
        default=None, description="TOML file of the tokens that clients need (docs/access.md); read again on SIGHUP"
    )
    open_health: bool = Field(default=True, description="whether /health needs no token, if other paths need one")
    open_metrics: bool = Field(default=False, description="whether /metrics needs no token, if other paths need one")
    open_page: bool = Field(
        default=True,
        description="whether the page and /guide need no token, if other paths need one; the page asks for it",
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(\*|https?://[^\s/,]+(,https?://[^\s/,]+)*)?$",
        description="origins whose pages may read answers in a browser, joined by commas; * for all",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of the certificate chain, for https://")
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key, not encrypted")
    upstream: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*[^\s/?#])?$",
        description="Hub whose repositories have twins here, such as https://huggingface.co (docs/hub.md)",
    )
    upstream_token: SecretStr | None = Field(
        default=None, description="access token for the upstream Hub; set it by the variable, so that no list shows it"
    )
    upstream_timeout: PositiveFloat = Field(
        default=30.0, allow_inf_nan=False, description="seconds in which the upstream Hub must send a file or a header"
    )
    upstream_max_file_bytes: PositiveInt = Field(
        default=2**26, description="largest small file of the upstream Hub, in bytes; a twin has no larger ones"
    )
    upstream_max_header_bytes: PositiveInt = Field(
        default=2**25, le=100_000_000, description="largest header of a weight file of the upstream Hub, in bytes"
    )
    access_log: bool = Field(default=True, description="whether the log has a line for each request")
    traces: bool = Field(
        default=False, description="whether to send OpenTelemetry traces, as OTEL_* say (docs/metrics.md#traces)"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="format of the lines of the log")
