"""Names of everything under a run's root: pure strings, no bytes.

    recipe.yaml                                   the resolved recipe
    drivers/000001.json                           who works on the root now
    purged.json, purging.json                     what was purged, in numbers; a purge under way
    failed.json                                   what the last attempt failed of, until the next
    generate/plan.parquet                         rows to make, one per image
    generate/part-00003.parquet                   a shard's rows, written by its worker
    generate/toxic/part-00004.parquet             a shard of images of toxic prompts, kept apart
    generate/candidates.parquet                   pairs that came with imported images, if any
    generate/sources.parquet                      where imported images lie in their source
    generate/quarantine.parquet                   rows of a source that could not be used
    generate/quarantine-00003.parquet             rows of that shard that could not be used
    generate/done/00003.json                      the shard's marker, written after its part
    generate/attempts/00003-0                     claimed before a shard is begun
    label/pairs-00000.parquet                     preferences
    label/README.md                               the dataset's card, its numbers and pictures
    generate/started.json, generate/manifest.json what a stage was begun with; its commit
    train/step-00000500/                          a checkpoint
    train/aligned/, train/model/, train/lora/     value encoder, pipeline or adapters that trained
    train/samples/step-00000500.png               fixed prompts drawn at that step, if wanted
    train/samples/toxic/step-00000500.png         those that ask for toxic content, kept apart
    train/calibrate/, train/calibration.json      images to calibrate shares by; the shares
    evaluate/images/..., evaluate/scores/...      the same names, of base and aligned model
    evaluate/models/NAME/images/...               of each other model; scores/ likewise
    evaluate/sets.json                            which image is in which set of which model
    evaluate/figures/, evaluate/tables/           the report's drawings and tables, as files

A stage's `prefix` is its verb, or a longer key such as `evaluate/images`.
"""

RECIPE = "recipe.yaml"
PURGED = "purged.json"
PURGING = "purging.json"
FAILED = "failed.json"
RESULTS = "evaluate/results.json"
RESULTS_CSV = "evaluate/results.csv"
REPORT = "evaluate/report.html"
SETS = "evaluate/sets.json"
FIGURES, TABLES = "evaluate/figures", "evaluate/tables"
METRICS = "train/metrics.jsonl"
TENSORBOARD = "train/tensorboard"
SAMPLES = "train/samples"
ALIGNED = "train/aligned"
POINTER = "valign.json"  # in a folder of an aligned model, written last
VALUE_ENCODER = "train/aligned/value_encoder/value_encoder.json"
CALIBRATE = "train/calibrate"
CALIBRATION = "train/calibration.json"
MODEL = "train/model"
DATASET_CARD = "label/README.md"


def check_key(key: str) -> str:
    """Return `key` if every store can hold it.

    Raises:
        ValueError: it is empty, absolute, climbs out of the root, has empty or hidden parts, or
            unprintable characters. Hidden names (`.x`) belong to the stores.
    """
    parts = key.split("/")
    if not key.isprintable() or any(not part or part.startswith(".") for part in parts):
        raise ValueError(
            f"{key!r} is not a key: join printable names by '/', none empty or starting with '.'"
        )
    return key


def plan(prefix: str) -> str:
    """Return the key of the rows a stage is to make."""
    return f"{prefix}/plan.parquet"


def part(prefix: str, shard: int) -> str:
    """Return the key of a shard's rows."""
    return f"{parts(prefix)}{shard:05d}.parquet"


def evaluated(model: str) -> str:
    """Return the prefix of what is evaluated of a model other than the run's own two."""
    return f"evaluate/models/{model}"


def parts(prefix: str) -> str:
    """Return the start of all parts' keys, of toxic ones too if `prefix` is of those."""
    return f"{prefix}/part-"


def toxic(prefix: str) -> str:
    """Return the prefix under which parts with images of toxic prompts are kept apart."""
    return f"{prefix}/toxic"


def sample(step: int, *, toxic: bool) -> str:
    """Return the key of the grid of samples that was drawn at a step of training."""
    return f"{SAMPLES}/{'toxic/' * toxic}step-{step:08d}.png"


def quarantine(prefix: str, shard: int) -> str:
    """Return the key of the rows of a shard that could not be used."""
    return f"{prefix}/quarantine-{shard:05d}.parquet"


def pairs(number: int = 0) -> str:
    """Return the key of a file of preference pairs."""
    return f"label/pairs-{number:05d}.parquet"


def quarantined_rows(prefix: str) -> str:
    """Return the key of the rows of a source that could not be used."""
    return f"{prefix}/quarantine.parquet"


def candidates() -> str:
    """Return the key of the pairs that came with imported images."""
    return "generate/candidates.parquet"


def sources() -> str:
    """Return the key of the places of imported images."""
    return "generate/sources.parquet"


def markers(prefix: str) -> str:
    """Return the prefix of all shards' markers."""
    return f"{prefix}/done/"


def marker(prefix: str, shard: int) -> str:
    """Return the key whose presence says that a shard is done."""
    return f"{markers(prefix)}{shard:05d}.json"


def attempts(prefix: str) -> str:
    """Return the prefix of all claims of shards."""
    return f"{prefix}/attempts/"


def attempt(prefix: str, shard: int, number: int) -> str:
    """Return the key that a worker creates before it begins a shard."""
    return f"{attempts(prefix)}{shard:05d}-{number}"


def drivers() -> str:
    """Return the prefix of the keys by which drivers hold the root."""
    return "drivers/"


def driver(number: int) -> str:
    """Return the key by which the root's driver of this number holds it."""
    return f"{drivers()}{number:06d}.json"


def driver_number(key: str) -> int:
    """Return the number of a driver's key."""
    return int(key.removeprefix(drivers()).removesuffix(".json"))


def is_result(key: str) -> bool:
    """Say whether a key under a stage holds what it made, not how far it is or how it went."""
    *folders, name = key.split("/")
    beside = {"done", "attempts", "tensorboard", "samples"} & set(folders)
    return not beside and name not in ("started.json", "manifest.json")


def started(prefix: str) -> str:
    """Return the key that says with which settings a stage was begun."""
    return f"{prefix}/started.json"


def manifest(prefix: str) -> str:
    """Return the key whose presence says that a stage is finished."""
    return f"{prefix}/manifest.json"


def checkpoints(prefix: str) -> str:
    """Return the start of all checkpoints' keys."""
    return f"{prefix}/step-"


def checkpoint(prefix: str, step: int) -> str:
    """Return the prefix of a checkpoint's objects, without a trailing slash."""
    return f"{checkpoints(prefix)}{step:08d}"


def answer(digest: str) -> str:
    """Return the key of a language model's answer to one question."""
    return f"retrieve/answers/{digest}"
