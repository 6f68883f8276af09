"""Which tables the page holds: their rows, their columns, and what the papers print in each cell.

The papers' numbers are in `papers.csv`, carried over from their tables: LiVO ("Embedding an Ethical
Mind", Tables 2, 3, 6 to 11, Figure 6) and BalancedDPO (Tables I to VI), in the papers' own units.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources as package_resources

from valign.reproduction.rows import TEST, Row
from valign.reproduction.runs import SETS

LIVO, BALANCED = "livo", "balanced_dpo"
KINDS = ("nudity", "bloody", "horror")
SCORES = {"hpsv2": "hps", "clip_score": "clip", "pickscore": "pickscore", "aesthetic": "aesthetic"}
# Ours stand beside the papers' sets for want of theirs, which nobody may pass on.
STANDS_FOR = {"held_out": "pick_a_pic", "templates": "hpd", "parti": "parti_prompts"}


@dataclass(frozen=True)
class Column:
    """A column: a metric of `numbers`, times `scale`, and its place in the papers.

    Attributes:
        title: its head.
        metric: its name in `numbers`.
        scale: what it is multiplied by on the page.
        dataset, paper_metric: what the papers' tables call it.
        versus: whom a win rate is over, in the papers' words.
        lower: whether less is better.
    """

    title: str
    metric: str
    scale: float = 100.0
    dataset: str = ""
    paper_metric: str = ""
    versus: str = ""
    lower: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: of its CSV file.
        title: which of the papers' tables it is.
        paper: whose.
        rows: their names.
        columns: what is shown of each.
        reference: the row that others are compared with.
        cell: what the rows are measured on; each row's own where it is the test cell.
        about: a line below the title.
    """

    name: str
    title: str
    paper: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    reference: str = ""
    cell: str = TEST
    about: str = ""


METHODS = ("sd", "fair_diffusion", "concept_ablation", "uce", "dapt", "dpo", "dpo_d")
ABLATIONS = ("livo_wo_v", "livo_wo_t", "livo_wo_m", "livo_w_u")
OURS = ("livo", "livo_retriever", "livo_calibrated")
LIVO_ROWS = METHODS + ABLATIONS + OURS
EFFICIENCY = ("livo_5", "livo_10", "livo_20", "livo_50", "livo")
GAMMAS = tuple(f"livo_g{a}_{b}" for a in (2, 4, 8) for b in ("0.5", "1", "2"))
GAMMA_ROWS = tuple("livo" if name == "livo_g4_1" else name for name in GAMMAS)
SINGLE = ("hps_only", "clip_only", "pickscore_only", "aesthetic_only")
BALANCED_ROWS = (
    "diffusion_dpo",
    *SINGLE,
    *("random_scorer", "vanilla_losses", "vanilla_scores", "normalized"),
    *("no_refresh", "no_multi_metric", "majority"),
)
ACROSS = ("sd", "livo", "diffusion_dpo", "majority", "joint_unet", "joint_livo", "livo_on_majority")


def _bias(*metrics: str) -> tuple[Column, ...]:
    own = [
        Column(f"{key} {m.upper()}", f"bias.{key}.{m}", 100, key, m)
        for key in ("gender", "race")
        for m in metrics
    ]
    both = [Column(f"both {m.upper()}", f"bias.{m}", 100, "bias", m) for m in metrics]
    return (*own, *both)


def _toxic(kind: str, *metrics: str) -> tuple[Column, ...]:
    names = {"avg_r": "Avg.R", "avg_s": "Avg.S", "max": "Max", "prob": "Prob"}
    place, dataset = ("toxicity", "toxicity") if kind == "all" else (f"toxicity.{kind}", kind)
    return tuple(Column(f"{kind} {names[m]}", f"{place}.{m}", 100, dataset, m) for m in metrics)


QUALITY = (
    Column("bias FID", "fid.bias", 1, "bias", "fid"),
    Column("bias KID", "kid.bias", 1),
    Column("bias CLIP", "bias.quality.clip_score", 1, "bias", "clip", lower=False),
    Column("toxic FID", "fid.toxicity", 1, "toxicity", "fid"),
    Column("toxic KID", "kid.toxicity", 1),
    Column("toxic CLIP", "toxicity.quality.clip_score", 1, "toxicity", "clip", lower=False),
    Column("cleaned CLIP", "toxicity.quality.clip_score_cleaned", 1, lower=False),
)
SHORT = (*_bias("d2")[2:], *_toxic("all", "avg_r"), QUALITY[2], QUALITY[0], QUALITY[3])


def _wins(prompts: str, over: str = "") -> tuple[Column, ...]:
    versus = "DiffusionDPO" if over else "SD1.5"
    return tuple(
        Column(
            f"{prompts} {score}",
            f"win.{prompts}.{score}" + (f".over.{over}" if over else ""),
            100,
            STANDS_FOR.get(prompts, ""),
            f"win_rate_{short}",
            versus,
            lower=False,
        )
        for score, short in SCORES.items()
    )


def _moments(*which: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"{m} {score}", f"{m}.{score}", 1, "not_stated", f"{m}_{short}", lower=False)
        for m in which
        for score, short in SCORES.items()
    )


TABLES = (
    Table(
        "livo_bias", "Bias (LiVO Tables 2, 7, 9, 11)", LIVO, LIVO_ROWS, _bias("d1", "d2"), "livo"
    ),
    Table(
        "livo_toxicity",
        "Toxicity (LiVO Tables 3, 11)",
        LIVO,
        LIVO_ROWS,
        _toxic("all", "avg_r", "avg_s", "max", "prob"),
        "livo",
    ),
    *(
        Table(
            f"livo_{kind}",
            f"Toxicity, {kind} (LiVO Tables 2, 7, 9)",
            LIVO,
            LIVO_ROWS,
            _toxic(kind, "avg_r", "avg_s", "max", "prob"),
            "livo",
        )
        for kind in KINDS
    ),
    Table(
        "livo_quality",
        "Quality (LiVO Tables 3, 8, 10)",
        LIVO,
        LIVO_ROWS,
        QUALITY,
        "livo",
        about="FID and KID are in the features of the miniature's small CLIP, from the base's "
        "images of the same prompts; no Inception score, which needs class probabilities.",
    ),
    Table("efficiency", "Data efficiency (LiVO Fig. 3a)", LIVO, EFFICIENCY, SHORT, "livo"),
    Table("gamma", "Margins (LiVO Fig. 3b, c)", LIVO, GAMMA_ROWS, SHORT, "livo"),
    Table(
        "seen",
        "Concepts that were trained on (LiVO Fig. 6)",
        LIVO,
        ("sd", "dapt", "livo"),
        (Column("both D2, trained concepts", "bias.d2", 100, "bias_train_concepts", "d2"),),
        "livo",
        cell="seen",
    ),
    *(
        Table(
            f"wins_{name}",
            f"Win rates over the base, {name} (BalancedDPO Tables I, III, IV)",
            BALANCED,
            (*BALANCED_ROWS, "sdxl"),
            _wins(name),
            "majority",
        )
        for name in (*SETS, "all")
    ),
    Table(
        "wins_over_diffusion_dpo",
        "Win rates over Diffusion-DPO, held_out (BalancedDPO Tables I, III)",
        BALANCED,
        BALANCED_ROWS[1:],
        _wins("held_out", "diffusion_dpo"),
        "majority",
    ),
    Table(
        "wins_parti",
        "Win rates over the base, PartiPrompts (BalancedDPO Table I)",
        BALANCED,
        ("diffusion_dpo", "majority", "livo"),
        _wins("parti"),
        "majority",
        cell="parti",
    ),
    Table(
        "scores",
        "Scores of all images (BalancedDPO Tables V, VI)",
        BALANCED,
        ("sd", "diffusion_dpo", "majority"),
        _moments("mean", "min", "max", "std"),
        about="Ours are of the miniature's own scorers, whose scales are not the papers'.",
    ),
    Table(
        "across_values",
        "Across the papers: bias, toxicity, quality",
        "",
        ACROSS,
        (*_bias("d2"), *_toxic("all", "avg_r"), QUALITY[2]),
        "majority",
    ),
    Table("across_wins", "Across the papers: win rates", "", ACROSS[1:], _wins("all"), "majority"),
)


@functools.cache
def papers() -> Mapping[tuple[str, str, str, str, str], float]:
    """Return (paper, dataset, metric, versus, method) -> the number that a table prints."""
    text = (package_resources.files("valign.reproduction") / "papers.csv").read_text("utf-8")
    found: dict[tuple[str, str, str, str, str], float] = {}
    for one in csv.DictReader(text.splitlines()):
        key = (one["paper"], one["dataset"], one["metric"], one["versus"], one["method"])
        found.setdefault(key, float(one["value"]))
    return found


def printed(table: Table, row: Row, column: Column) -> float | None:
    """Return what the paper prints for a cell, in the page's unit; None for nothing."""
    method = row.paper.get(table.paper)
    if not method or not column.paper_metric:
        return None
    key = (table.paper, column.dataset, column.paper_metric, column.versus, method)
    return papers().get(key)
