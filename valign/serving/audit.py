"""One line per request for an append-only file: who asked what kind of thing, and what came of it.

No prompt, no image, no token: a key by its name, a model and principles by theirs. With
`log_prompts` the recipe's owner adds the prompt himself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(slots=True, kw_only=True)
class Audit:
    """What is known of one request."""

    time_s: float  # since 1970
    request_id: str
    route: str
    key: str = ""
    model: str = ""
    principle: str = ""
    images: int = 0
    status: int = 0
    verdict: str = ""  # "answered", or the code of the refusal
    more: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """Return the record as one line of JSON."""
        known = asdict(self)
        more = known.pop("more")
        return json.dumps({**known, **more}, ensure_ascii=True, sort_keys=True) + "\n"
