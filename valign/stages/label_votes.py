"""Hold the recipe's vote on pairs of scored images, and say who the voters were.

The rule `vote` pairs the images of each prompt, or takes the pairs that came with imported images.
The rule `joint` votes on LiVO's pairs, where value conformity is one more voter or has a veto.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.config import Run
from valign.preferences import votes as voting
from valign.preferences.candidates import all_pairs, choose
from valign.preferences.votes import Rule, Voter, Votes
from valign.stages.scores import Scores
from valign.stages.work import Work
from valign.storage import layout, manifests, tables
from valign.storage.objects import Store

VALUES = "values"  # the voter that stands for value conformity


@dataclass(frozen=True)
class Candidates:
    """Pairs to vote on: rows of the scores, and a person's label of each (NaN: none)."""

    rows_P2: NDArray[np.int64]
    human_P: NDArray[np.float64]
    missing: int = 0  # imported pairs of which an image was not scored, or that came twice


class Ballot:
    """The recipe's vote over a set of scored images: voters, their scores, and the rule."""

    def __init__(self, run: Run, scores: Scores) -> None:
        self.settings = run.label.vote
        self.scores = scores
        self.voters = [Voter(voter.name, voter.weight) for voter in self.settings.voters]
        self.scores_NK = np.stack([one_value(scores, v.name) for v in self.voters], axis=1)
        self.rule = Rule(
            mode=self.settings.mode,
            ties=self.settings.ties,
            quorum=self.settings.quorum,
            single=self.settings.single,
            seed=run.seed,
        )

    def hold(self, pairs: Candidates, rule: Rule | None = None, *, values: bool = False) -> Votes:
        """Vote on pairs.

        Args:
            pairs: what is voted on.
            rule: if not the recipe's.
            values: whether the first image of each pair conforms to a value and the second does
                not, and that counts as the recipe says.
        """
        voters, scores_NK, count = self.voters, self.scores_NK, len(pairs.rows_P2)
        first_PK, second_PK = scores_NK[pairs.rows_P2[:, 0]], scores_NK[pairs.rows_P2[:, 1]]
        spread_K = voting.spreads(scores_NK)
        conforms = np.ones((count, 1))
        if values and self.settings.values == "voter":
            voters = [*voters, Voter(VALUES)]
            first_PK = np.concatenate([first_PK, conforms], axis=1)
            second_PK = np.concatenate([second_PK, -conforms], axis=1)
            spread_K = np.append(spread_K, 1.0)
        held = voting.vote(
            first_PK,
            second_PK,
            self.names(pairs),
            voters=voters,
            rule=rule or self.rule,
            spread_K=spread_K,
            human_P=pairs.human_P,
        )
        return (
            voting.veto(held, conforms[:, 0])
            if values and len(voters) == len(self.voters)
            else held
        )

    def names(self, pairs: Candidates) -> list[tuple[str, str]]:
        """Return both images' ids of every pair."""
        ids = self.scores["image_id"]
        return [(ids[first], ids[second]) for first, second in pairs.rows_P2]

    def human(self, rows_P2: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a person's label of every pair, from the recipe's column; NaN without one."""
        if not self.settings.human:
            return np.full(len(rows_P2), np.nan)
        score_N = one_value(self.scores, self.settings.human)
        return np.sign(score_N[rows_P2[:, 0]] - score_N[rows_P2[:, 1]])


def one_value(scores: Scores, name: str) -> NDArray[np.float64]:
    """Return a score that has one value per image.

    Raises:
        LookupError: there is no such score.
        ValueError: it has a value per class.
    """
    values_NK = scores.values(name)
    if values_NK.ndim != 2 or values_NK.shape[1] != 1:
        raise ValueError(
            f"the score {name} has {values_NK.shape[-1]} values per image, one per class; a voter "
            "needs one value: choose another under label.vote"
        )
    return values_NK[:, 0].astype(np.float64)


def prompt_pairs(ballot: Ballot) -> Candidates:
    """Return the pairs of images of the same prompt that the recipe wants to meet."""
    scores, settings = ballot.scores, ballot.settings
    rows = np.flatnonzero([role in settings.roles for role in scores["role"]])
    keys = [(scores["scene"][row], scores["text"][row], scores["role"][row]) for row in rows]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    group = [number[key] for key in keys]
    met_C2 = all_pairs(group)
    pairs = Candidates(rows[met_C2], ballot.human(rows[met_C2]))
    if settings.candidates == "all":
        return pairs
    verdict_C = ballot.hold(pairs, replace(ballot.rule, ties="skip")).verdict_P
    kept = choose(met_C2, group, verdict_C, settings.candidates)
    return Candidates(pairs.rows_P2[kept], pairs.human_P[kept])


def imported_pairs(store: Store, ballot: Ballot) -> Candidates:
    """Return the pairs that came with imported images, each once.

    Raises:
        ValueError: the images of a pair belong to different prompts.
    """
    table = tables.read(store, layout.candidates(), tables.CANDIDATES).to_pydict()
    row_of = {image: row for row, image in enumerate(ballot.scores["image_id"])}
    texts = ballot.scores["text"]
    found: dict[tuple[int, int], float] = {}
    for first, second, human in zip(table["first"], table["second"], table["human"], strict=True):
        if first not in row_of or second not in row_of:
            continue
        one, other = row_of[first], row_of[second]
        if texts[one] != texts[other]:
            raise ValueError(
                f"the pair {first}, {second} in {layout.candidates()} joins two prompts: "
                f"{texts[one]!r} and {texts[other]!r}"
            )
        if one != other and (other, one) not in found:
            found.setdefault((one, other), np.nan if human is None else float(human))
    rows_P2 = np.array(list(found), np.int64).reshape(-1, 2)
    label_P = np.array(list(found.values()), np.float64)
    human_P = np.where(np.isnan(label_P), ballot.human(rows_P2), label_P)
    return Candidates(rows_P2, human_P, len(table["first"]) - len(found))


def voters(work: Work, ballot: Ballot) -> list[dict[str, Any]]:
    """Return who voted: name, weight, and the fingerprint of the weights that scored.

    Votes are constants: the same images and scorers of the same fingerprints give the same votes.
    """
    made = manifests.get(work.store, "score")
    scorers = made.counts["scorers"] if made else {}
    source = {column: name for name, info in scorers.items() for column in info["columns"]}
    return [
        {
            "name": voter.name,
            "weight": voter.weight,
            "scorer": source.get(voter.name, ""),
            "fingerprint": scorers[source[voter.name]]["fingerprint"]
            if voter.name in source
            else "",
        }
        for voter in ballot.voters
    ]
