"""Which of the papers' orderings hold on the miniature: computed, cell by cell.

For each table every row is compared with the table's reference row (LiVO, or BalancedDPO's majority
vote) in every column for which the paper prints both. An ordering holds if the 95% interval of our
paired difference excludes zero on the paper's side, does not if it excludes zero on the other, and
is undecided otherwise. With hundreds of intervals some exclude zero by chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from valign.reproduction.numbers import ORACLE, Book, Number
from valign.reproduction.tables import TABLES, Column, Table, printed

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Ordering:
    """A row against its table's reference, in one column.

    Attributes:
        table, row, reference, column: what is compared.
        paper: row minus reference as the paper prints them, in the page's unit; None: not printed.
        ours: the paired difference, in the page's unit.
        oracle: the same by the oracle, if it reads the metric.
    """

    table: Table
    row: str
    reference: str
    column: Column
    paper: float | None
    ours: Number
    oracle: Number | None

    @property
    def verdict(self) -> str:
        """Whether the paper's ordering holds; "" where the paper has none."""
        if not self.paper or self.ours.low is None or self.ours.high is None:
            return ""
        if self.ours.low <= 0 <= self.ours.high:
            return OPEN
        return HOLDS if (self.ours.value > 0) == (self.paper > 0) else FAILS


def compared(book: Book) -> Iterator[Ordering]:
    """Yield every comparison of which both rows are finished."""
    rows = book.place.tables.rows
    for table in TABLES:
        if not table.reference or table.cell != "test":
            continue
        reference = rows[table.reference]
        for name in table.rows:
            row = rows[name]
            if row is reference or row.model == "none":
                continue
            for column in table.columns:
                ours = book.difference(row, reference, column.metric)
                if ours is None:
                    continue
                oracle = book.difference(row, reference, f"{ORACLE}{column.metric}")
                one, two = printed(table, row, column), printed(table, reference, column)
                apart = None if one is None or two is None else one - two
                yield Ordering(
                    table,
                    name,
                    reference.name,
                    column,
                    apart,
                    scaled(ours, column.scale),
                    oracle and scaled(oracle, column.scale),
                )


def scaled(one: Number, by: float) -> Number:
    """Return a number in the page's unit."""
    low = None if one.low is None else one.low * by
    high = None if one.high is None else one.high * by
    return Number(one.value * by, low, high, one.n, tuple(value * by for value in one.seeds))
