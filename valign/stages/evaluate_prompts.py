"""The prompt sets of an evaluation: files of all kinds to prompts, and what was left out and why.

Read are what `prompts` reads (.txt, .csv, .tsv, .jsonl), .json with a list of texts or objects or
with a list under each key (as HPDv2's benchmark), .parquet (as Pick-a-Pic), and folders of these.
Of such a folder, or of keys, a prompt's concept is the file's name or the key; of tables it is a
column `category`, as in PartiPrompts.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valign.catalogue import import_prompts
from valign.catalogue.principles import Principle, of_kind
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.evaluate_settings import CATALOGUE, PromptSet, SafePrompts
from valign.records import Prompt, digest, prompt_id
from valign.stages import principles, prompts
from valign.storage import foreign
from valign.storage.objects import local, resolve

COLUMNS = ("caption", "prompt", "text")  # of a Parquet file, the first that it has
LABELS = ("category", "concept", "principle", "negative")


@dataclass(frozen=True)
class Asked:
    """A prompt set as it is asked for.

    Attributes:
        prompts: in the file's order.
        images: per prompt.
        left_out: why -> how many rows were left out.
    """

    prompts: tuple[Prompt, ...]
    images: int
    left_out: Mapping[str, int]

    def about(self, source: str) -> dict[str, Any]:
        """Return what results say of it."""
        return {
            "source": source,
            "hash": digest(sorted(prompt_id(prompt) for prompt in self.prompts)),
            "prompts": len(self.prompts),
            "images_per_prompt": self.images,
            "left_out": dict(self.left_out),
        }


def named(run: Run) -> dict[str, PromptSet]:
    """Return the prompt sets of a run but the catalogue's, by name."""
    return {each.name: each for each in run.evaluate.prompt_sets if each.source != CATALOGUE}


def read(run: Run) -> dict[str, Asked]:
    """Return every prompt set but the catalogue's, unsafe prompts left out.

    Raises:
        LookupError: there is no such file.
        ValueError: it cannot be read, or fewer than two of its prompts can be used.
    """
    known = principles.known(run)
    return {name: _read(stated, run.evaluate.safe_prompts, known, run.seed)
            for name, stated in named(run).items()}  # fmt: skip


def sizes(run: Run) -> list[int]:
    """Return how many images of each set a model is asked for, unsafe prompts counted too."""
    known = principles.known(run)
    return [len(_asked(stated, known)[0]) * stated.images for stated in named(run).values()]


def fingerprints(run: Run) -> dict[str, str]:
    """Return what the sets' prompts depend on: the rows, and the filter's weights."""
    known = principles.known(run)
    found = {
        f"the prompts of {name}": digest([prompt_id(p) for p in _asked(stated, known)[0]])
        for name, stated in named(run).items()
    }
    if found and (source := run.evaluate.safe_prompts.classifier):
        found["the safe-prompt classifier"] = _classifier(source).fingerprint
    return found


def principle_of(prompt: Prompt, known: Mapping[str, Principle], seed: int) -> str:
    """Return the principle that a prompt names, or else what the offline retriever finds."""
    return prompt.principle or retrieve(prompt.text, seed=seed, principles=known).principle


def _read(stated: PromptSet, safe: SafePrompts, known: Mapping[str, Principle], seed: int) -> Asked:
    found, left_out = _asked(stated, known)
    unsafe: dict[str, str] = {}
    if safe.retriever:
        toxic = of_kind("toxicity", known)
        keys = {prompt.text: principle_of(prompt, known, seed) for prompt in found}
        unsafe |= {text: "unsafe by the retriever" for text, key in keys.items() if key in toxic}
    if safe.classifier:
        texts = [prompt.text for prompt in found if prompt.text not in unsafe]
        shares = _classifier(safe.classifier).probability(texts, safe.unsafe)
        judged = zip(texts, shares, strict=True)
        unsafe |= {text: "unsafe by the classifier" for text, p in judged if p > safe.above}
    kept = [prompt for prompt in found if prompt.text not in unsafe]
    left_out.update(unsafe.values())
    if len(kept) < 2:
        why = "; ".join(f"{reason}: {many}" for reason, many in left_out.items())
        raise ValueError(
            f"evaluate.prompt_sets: {stated.source} gives {len(kept)} usable prompts, and "
            f"intervals need at least 2. Left out: {why or 'nothing'}"
        )
    made = tuple(prompts.with_category(prompt, known) for prompt in kept)
    return Asked(made, stated.images, dict(sorted(left_out.items())))


def _asked(stated: PromptSet, known: Mapping[str, Principle]) -> tuple[list[Prompt], Counter[str]]:
    """Return so many of a set's prompts as are wanted, in order, and why rows were left out."""
    found, left_out = _prompts(stated, known)
    if stated.prompts is None:
        return found, left_out
    ranked = sorted(found, key=lambda prompt: digest("subset", prompt.text))
    wanted = {prompt.text for prompt in ranked[: stated.prompts]}
    return [prompt for prompt in found if prompt.text in wanted], left_out


def _prompts(
    stated: PromptSet, known: Mapping[str, Principle]
) -> tuple[list[Prompt], Counter[str]]:
    """Return a source's prompts, each text once, and why rows were left out."""
    path = local(stated.source)
    files = (
        [file for file in sorted(path.iterdir()) if _readable(file)] if path.is_dir() else [path]
    )
    if not files:
        raise ValueError(
            f"evaluate.prompt_sets: {stated.source} holds no .txt, .csv, .tsv, .jsonl, .json or "
            ".parquet file"
        )
    found: dict[str, Prompt] = {}
    left_out: Counter[str] = Counter()
    for file in files:
        label = file.stem if path.is_dir() else ""
        for name, data in _as_lines(file, stated.column):
            read = import_prompts.parse(
                data, name, column=None if name != file.name else stated.column, principles=known
            )
            left_out.update(_kind(row.reason) for row in read.rejected)
            for prompt in read.prompts:
                left_out["repeated"] += prompt.text in found
                concept = prompt.concept or label
                found.setdefault(prompt.text, dataclasses.replace(prompt, concept=concept))
    left_out = +left_out  # without what is none
    return list(found.values()), left_out


def _kind(reason: str) -> str:
    """Return what kind of fault a row has: captions of pairs, say, are repeated by design."""
    starts = {"refused": "refused by the guard", "the same as": "repeated", "empty": "empty"}
    return next((kind for start, kind in starts.items() if reason.startswith(start)), "unusable")


def _readable(file: Path) -> bool:
    kinds = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
    return file.is_file() and not file.name.startswith(".") and file.suffix.lower() in kinds


def _as_lines(file: Path, column: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield a file's rows as `import_prompts` reads them: a name with its ending, and bytes."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        columns = foreign.columns(file)
        title = column or next((name for name in COLUMNS if name in columns), None)
        if title is None or title not in columns:
            raise ValueError(
                f"evaluate.prompt_sets: {file.name} has no column {title or ' or '.join(COLUMNS)}; "
                f"name one of {', '.join(columns)} as `column`"
            )
        beside = [name for name in LABELS if name in columns and name != title]
        rows: Iterator[Any] = foreign.rows(file, [title, *beside])
        yield f"{file.name}.jsonl", _lines({**row, "prompt": row[title]} for row in rows)
    elif kind == ".json":
        yield from _json(file, column)
    else:
        yield file.name, _with_concepts(file)


def _json(file: Path, column: str | None) -> Iterator[tuple[str, bytes]]:
    try:
        tree = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"evaluate.prompt_sets: {file.name} is not JSON: {error}") from None
    lists = {"": tree} if isinstance(tree, list) else tree
    if not isinstance(lists, dict) or not all(isinstance(each, list) for each in lists.values()):
        raise ValueError(
            f"evaluate.prompt_sets: {file.name} must be a list of prompts, or of objects with a "
            "prompt, or such lists under keys"
        )
    for key, rows in lists.items():
        entries = (row if isinstance(row, dict) else {"prompt": row} for row in rows)
        if column is not None:  # texts alone have no columns
            own = (row if isinstance(row, dict) else {column: row} for row in rows)
            entries = ({**row, "prompt": row.get(column)} for row in own)
        labelled = ({"concept": key, **row} if key else row for row in entries)
        yield f"{file.name}.jsonl", _lines(labelled)


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return rows as lines of JSON, a category as the concept."""
    lines = []
    for row in rows:
        named = {str(key).lower(): value for key, value in row.items()}
        if isinstance(label := named.get("category"), str):
            named.setdefault("concept", label)
        lines.append(json.dumps(named, ensure_ascii=False))
    return "\n".join(lines).encode("utf-8", errors="surrogatepass")


def _with_concepts(file: Path) -> bytes:
    """Return a table's bytes with its column `category`, if it has one, called `concept`."""
    data = file.read_bytes()
    if file.suffix.lower() not in (".tsv", ".csv"):
        return data
    head, newline, rest = data.partition(b"\n")
    mark = b"\t" if file.suffix.lower() == ".tsv" else b"," if b"," in head else b";"
    titles = [title.strip(b'" \r\xef\xbb\xbf').lower() for title in head.split(mark)]
    if b"category" not in titles or b"concept" in titles:
        return data
    cells = head.rstrip(b"\r").split(mark)
    cells[titles.index(b"category")] = b"concept"
    return mark.join(cells) + newline + rest


def _classifier(source: str) -> Any:
    from valign.models.text_classifier import load

    return load(resolve(source))
