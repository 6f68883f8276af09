#!/usr/bin/env python
"""Measure the value retriever: precision and recall per principle, and recall of disguised words.

    python benchmarks/retriever.py                                    # the offline rule
    python benchmarks/retriever.py --model NAME --base-url URL        # with a language model

Writes docs/results/retriever.md (with a model: retriever_<model>.md). The labelled prompts are the
catalogue's held-out ones, PartiPrompts' held half (persons, labelled by hand), and paraphrases and
translations written for this purpose (tests/catalogue/data). Gender and race count as one class,
`person`: which of the two is drawn by a hash. Intervals: 95%, Wilson.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from scipy.stats import binomtest
from shared.host import print_result

from valign import config
from valign.catalogue import retriever as offline
from valign.catalogue.concepts import concepts
from valign.catalogue.principles import BIAS, PRINCIPLES, TOXICITY
from valign.catalogue.scenarios import SCENES, face_prompt, toxic_prompts
from valign.records import digest
from valign.stages.retrieve import Retriever
from valign.storage.objects import open_store

DATA = Path(__file__).parents[1] / "tests" / "catalogue" / "data"
CLASSES = (*TOXICITY, "person")
DISGUISED = 100  # prompts of each toxicity principle
LEET = str.maketrans("aeiost", "431057")
HOMOGLYPHS = str.maketrans("aeopcxy", "аеорсху")  # Cyrillic

Labelled = tuple[str, str]  # the prompt; its class, "" for none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="language model to ask; default: none")
    parser.add_argument("--base-url", default="", help="its OpenAI-compatible endpoint")
    parser.add_argument("--out", default="docs/results", help="folder of the page")
    arguments = parser.parse_args()
    asked = {"model": arguments.model, "base_url": arguments.base_url}
    words = [f"retriever.{key}={value}" for key, value in asked.items() if value]
    with tempfile.TemporaryDirectory() as root:
        retrieve = Retriever(config.load("miniature", words), open_store(root))
        tables = [quality(name, rows, retrieve) for name, rows in labelled().items()]
        recalls = [recall(kind, rows, retrieve) for kind, rows in disguised().items()]
    name = f"retriever_{arguments.model.replace('/', '_')}" if arguments.model else "retriever"
    with_model = f" and the language model {arguments.model}" if arguments.model else ""
    decided = ", ".join(f"{way} {n:,}" for way, n in sorted(retrieve.counts.items()))
    text = page(tables, recalls, with_model, decided)
    Path(arguments.out, f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    hits, n = sum(row[2] for row in recalls), sum(row[3] for row in recalls)
    print_result(
        benchmark="retriever recall of disguised prompts",
        figure=round(hits / n, 3),
        goal="reported",
        unit="share",
        spread=[round(end, 3) for end in wilson(hits, n)],
    )


def labelled() -> dict[str, list[Labelled]]:
    """Prompts with the class that each calls for."""
    toxic = [p for key in TOXICITY for p in toxic_prompts(key, "eval")]
    catalogue = [(p.text, p.category) for p in toxic] + [(p.cleaned, "person") for p in toxic]
    catalogue += [(face_prompt(c), "person") for c in concepts(split="eval")]
    catalogue += [(text, "") for text in SCENES]
    parti = [row.split("\t") for row in _lines("parti_person_labels.tsv")]
    held = [
        (text, "person" if label == "1" else "") for _, text, label, half in parti if half == "held"
    ]
    return {"catalogue, held-out": catalogue, "PartiPrompts, held half": held}


def disguised() -> dict[str, list[Labelled]]:
    """Prompts whose words a list does not simply hold, by the way they are disguised."""
    chosen = [
        (p.text, key)
        for key in TOXICITY
        for p in sorted(toxic_prompts(key, "eval"), key=lambda p: digest(p.text))[:DISGUISED]
    ]
    ways: dict[str, Callable[[str], str]] = {
        "plain": str,
        "misspelt: two letters swapped": _swapped,
        "misspelt: a letter left out": lambda word: word[:2] + word[3:],
        "leet": lambda word: word.translate(LEET),
        "look-alike letters": lambda word: word.translate(HOMOGLYPHS),
        "letters set apart": " ".join,
    }
    rows = {
        name: [(_rewrite(*row, change), row[1]) for row in chosen] for name, change in ways.items()
    }
    for line in _lines("retriever_recall.tsv"):
        kind, principle, text = line.split("\t")
        kind = "paraphrase" if kind == "paraphrase" else "other languages"
        rows.setdefault(kind, []).append((text, principle))
    return rows


def _lines(name: str) -> Iterable[str]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")][1:]


def _rewrite(text: str, key: str, change: Callable[[str], str]) -> str:
    """Change every toxic word of a prompt."""
    for word in sorted(set(offline.toxic_words(text, PRINCIPLES[key])), key=len, reverse=True):
        text = text.replace(word, " ".join(change(piece) for piece in word.split(" ")))
    return text


def _swapped(word: str) -> str:
    return word[0] + word[2] + word[1] + word[3:] if len(word) > 3 else word


def said(text: str, retrieve: Retriever) -> str:
    key = retrieve(text).principle
    return "person" if key in BIAS else key


def quality(name: str, rows: list[Labelled], retrieve: Retriever) -> str:
    """A table's rows: precision and recall of each class that the labels hold."""
    answers = [said(text, retrieve) for text, _ in rows]
    lines = []
    for key in (key for key in CLASSES if any(label == key for _, label in rows)):
        right = sum(a == key == label for a, (_, label) in zip(answers, rows, strict=True))
        named, wanted = answers.count(key), sum(label == key for _, label in rows)
        lines.append(f"| {name} | {key} | {share(right, named)} | {share(right, wanted)} |")
    return "\n".join(lines)


def recall(kind: str, rows: list[Labelled], retrieve: Retriever) -> tuple[str, str, int, int]:
    """How many disguised prompts still get their class: kind, row of the page, hits, n."""
    hits = [said(text, retrieve) == label for text, label in rows]
    cells = []
    for key in CLASSES:
        mine = [hit for hit, (_, label) in zip(hits, rows, strict=True) if label == key]
        cells.append(f"{sum(mine) / len(mine):.2f} ({len(mine)})" if mine else "")
    line = f"| {kind} | {share(sum(hits), len(hits))} | {' | '.join(cells)} |"
    return kind, line, sum(hits), len(hits)


def share(k: int, n: int) -> str:
    if not n:
        return "none named"
    low, high = wilson(k, n)
    return f"{k / n:.3f} ({low:.3f} to {high:.3f}, n {n})"


def wilson(k: int, n: int) -> tuple[float, float]:
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def page(
    tables: list[str], recalls: list[tuple[str, str, int, int]], model: str, decided: str
) -> str:
    return f"""# The value retriever, measured

Written by `python benchmarks/retriever.py`: the offline rule{model}. Shares with 95% Wilson
intervals. Gender and race are one class, `person`. The catalogue's toxic prompts are composed from
the words that the lists hold, so their recall says that the lists are complete, not that users
write like that; the second table is nearer to that. How decisions were made: {decided}.

| prompts | class | precision | recall |
|---|---|---|---|
{chr(10).join(tables)}

Recall where the words are disguised. The spellings change every toxic word of {DISGUISED} held-out
prompts per toxicity principle; paraphrases and translations (French, German, Spanish, Portuguese,
Italian, Dutch, Japanese, Chinese, Russian) were written for measuring and never used for building.

| disguise | all | nudity (n) | bloody (n) | horror (n) | person (n) |
|---|---|---|---|---|---|
{chr(10).join(line for _, line, _, _ in recalls)}
"""


if __name__ == "__main__":
    main()
