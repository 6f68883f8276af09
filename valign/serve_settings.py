"""What a recipe may say of serving: where, which models and scorers, who may ask, and how much."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from valign.label_settings import Voter
from valign.settings import Scorer, Section


class Replicas(Section):
    """The processes of one part of the server."""

    replicas: int = Field(1, ge=1, description="How many; with max_replicas the fewest.")
    max_replicas: int | None = Field(
        None, ge=1, description="Grow to so many under load; none: as many as `replicas`."
    )
    cpus: float = Field(1.0, ge=0, description="CPU cores reserved for each.")
    gpus: float = Field(0.0, ge=0, description="GPUs for each; fractions share one.")

    @model_validator(mode="after")
    def _grows(self) -> "Replicas":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is less than replicas ({self.replicas})"
            )
        return self


class Serve(Section):
    """The server; nothing here changes what a run makes."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; any but loopback needs `keys`."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Aligned models, {name: run's root or folder}; the first is the default. None: "
        "the run's own, as `aligned`. All share the run's generator, which is served as `base`.",
    )
    scorers: tuple[Scorer, ...] = Field((), description="Scorers; none: the run's own.")
    voters: tuple[Voter, ...] = Field(
        (),
        description="Scores that vote in comparisons; none: those of label.vote, or every CLIP "
        "score, HPSv2, PickScore and aesthetic score.",
    )
    keys: str = Field("", description="File of API keys, made by `valign key`; read again if new.")
    audit: str = Field(
        "", description="File of one line per request; none: serve/audit.jsonl under the root."
    )
    log_prompts: bool = Field(False, description="Put prompts into the audit file.")
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins of pages that may ask, such as https://example.org; none: none."
    )
    output_filter: dict[str, Literal["off", "on", "strict"]] = Field(
        default_factory=dict,
        description="By principle: images that its classifier calls toxic are drawn again from "
        "other noise, twice at most (on), or refused at once (strict).",
    )
    max_images: int = Field(10, ge=1, le=10, description="Images per request.")
    max_prompt_chars: int = Field(2_000, ge=1, description="Characters of a prompt.")
    max_steps: int = Field(50, ge=1, le=1000, description="Solver steps per image.")
    max_pixels: int = Field(1 << 20, ge=64, description="Of an image that is made or sent.")
    max_pictures: int = Field(16, ge=2, description="Pictures sent in one request.")
    max_picture_mib: float = Field(8.0, gt=0, description="Size of a picture's file.")
    max_body_mib: float = Field(32.0, gt=0, description="Size of a request.")
    body_timeout_s: float = Field(20.0, gt=0, description="A request must have arrived by then.")
    deadline_s: float = Field(60.0, gt=0, description="A request must be answered by then.")
    batch_size: int = Field(8, ge=1, description="Most images, or pictures, of one batch.")
    batch_wait_s: float = Field(0.01, ge=0, description="How long a batch waits to fill up.")
    queue: int = Field(
        64,
        ge=1,
        description="Images, or a request's batches of pictures, that may wait; more are refused.",
    )
    surge: bool = Field(
        True,
        description="An update starts new processes before the old ones end; false where there is "
        "no room for both: requests then wait for the new ones.",
    )
    ingress: Replicas = Field(
        default_factory=lambda: Replicas(cpus=0.1), description="Processes that speak HTTP."
    )
    retriever: Replicas = Field(
        default_factory=lambda: Replicas(cpus=0.1), description="Processes that find principles."
    )
    generator: Replicas = Field(default_factory=Replicas, description="Processes that draw.")
    evaluator: Replicas = Field(
        default_factory=lambda: Replicas(cpus=0.5), description="Processes that score."
    )

    @field_validator("output_filter", mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        """To YAML, an unquoted on or off is true or false."""
        if not isinstance(given, dict):
            return given
        words = {True: "on", False: "off"}
        return {key: words[mode] if isinstance(mode, bool) else mode for key, mode in given.items()}
