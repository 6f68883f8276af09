"""Count a dataset beside LiVO's Table 1, and tell of a vote: for a terminal and for the card."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valign.catalogue.paper_plan import TABLE
from valign.stages.scores import Scores

COUNTED = ("prompts", "images", "neutral", "pairs")


def data_table(scores: Scores, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Count prompts, images and pairs per category, beside LiVO's Table 1.

    `paper` is None for a category that the table does not have. As there, images of neutral prompts
    are not among a category's images; they are counted as `neutral`. Pairs are the decided ones.
    """
    found = sorted(set(scores["category"]), key=lambda name: (_place(name), name))
    category = np.array(scores["category"], dtype=object)
    neutral = scores.equals("role", "neutral")
    scene = np.array(scores["scene"], dtype=object)
    decided = [
        name
        for name, verdict in zip(columns["category"], columns["verdict"], strict=True)
        if verdict
    ]
    rows = []
    for name in found:
        mine = category == name
        paper = TABLE.get(name)
        rows.append(
            {
                "category": name,
                "prompts": len(set(scene[mine])),
                "images": int((mine & ~neutral).sum()),
                "neutral": int((mine & neutral).sum()),
                "pairs": decided.count(name),
                "paper": [paper.prompts, paper.images, paper.pairs] if paper else None,
            }
        )
    total = {"category": "total", **{n: sum(row[n] for row in rows) for n in COUNTED}}
    papers = [row["paper"] for row in rows if row["paper"]]
    total["paper"] = [sum(column) for column in zip(*papers, strict=True)] if papers else None
    return [*rows, total]


def data_lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table for a terminal, the paper's counts in brackets."""
    lines = [f"  {'':<10}{'prompts':>16}{'images':>20}{'neutral':>9}{'pairs':>18}"]
    for row in table:
        paper = [f"({count:,})" for count in row["paper"]] if row["paper"] else ["", "", ""]
        cells = (
            f"{row[n]:,} {p}" for n, p in zip(("prompts", "images", "pairs"), paper, strict=True)
        )
        prompts, images, pairs = cells
        lines.append(
            f"  {row['category']:<10}{prompts:>16}{images:>20}{row['neutral']:>9,}{pairs:>18}"
        )
    return [*lines, "  in brackets: the LiVO paper's counts"] if any_paper(table) else lines


def vote_lines(key: str, votes: Mapping[str, Any]) -> list[str]:
    """Return what became of the pairs that were voted on, for a terminal."""
    dropped = "".join(f" · {count:,} dropped: {why}" for why, count in votes["dropped"].items())
    decided = ", ".join(f"{count:,} by {what}" for what, count in votes["decided"].items())
    voters = ", ".join(
        f"{name} {percent(entry['with_verdict'])}" for name, entry in votes["voters"].items()
    )
    return [
        f"  {key or 'all prompts'}: {votes['candidates']:,} pairs voted on · decided: "
        f"{decided or 'none'} · tied {percent(votes['tie_share'])}{dropped}",
        f"  {key or 'all prompts'}: ballots with the verdict: {voters}; two voters agree in "
        f"{percent(votes['mean_agreement'])}",
    ]


def any_paper(table: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the paper has any of the categories."""
    return any(row["paper"] for row in table)


def percent(share: float | None) -> str:
    """Return a share as text, a dash for none."""
    return "—" if share is None else f"{share:.1%}"


def _place(category: str) -> int:
    return list(TABLE).index(category) if category in TABLE else len(TABLE)
