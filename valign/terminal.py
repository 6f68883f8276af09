"""How commands answer in a terminal: errors that a person can act on, and counts in one line."""

import contextlib
from collections.abc import Iterator, Mapping

import typer
from rich.console import Console
from rich.markup import escape


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Show what a user can mend as one message; let everything else keep its traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):  # which are RuntimeErrors
        raise
    except (ValueError, LookupError, RuntimeError, OSError, ArithmeticError) as error:
        console = Console(stderr=True)
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        for words in getattr(error, "__notes__", ()):  # what a failed stage says last
            console.print(escape(words), highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def counted(counts: Mapping[str, int]) -> str:
    """Return counts as one line."""
    return " · ".join(f"{name} {count:,}" for name, count in counts.items())
