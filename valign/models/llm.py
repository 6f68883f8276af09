"""Ask a language model behind an OpenAI-compatible endpoint, with a time limit and bounded retries.

In: a system text and a question. Out: the answer's text. What to ask and how to read an answer is
the catalogue's; caching is the stages'. The key is read from OPENAI_API_KEY by the client itself
and is never part of a recipe.
"""

import os
from dataclasses import dataclass
from typing import Any


class NoAnswer(RuntimeError):
    """The endpoint gave no answer; the message says why, without the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the language model is and how patiently it is asked."""

    model: str
    base_url: str | None = None  # None: OPENAI_BASE_URL, or OpenAI's own
    timeout_s: float = 20.0  # of one try
    max_retries: int = 2  # after timeouts, lost connections, 408, 409, 429 and 5xx, with backoff
    max_tokens: int = 16  # a reasoning model needs more


class ChatModel:
    """A chat model that is asked one question at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        import openai

        self._errors = openai.OpenAIError
        self.endpoint = endpoint
        self._client: Any = openai.OpenAI(
            # a server of one's own mostly wants none, but the client insists on a key
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_s,
            max_retries=endpoint.max_retries,
        )

    def ask(self, system: str, question: str) -> str:
        """Return the model's answer.

        Raises:
            NoAnswer: after the last retry; or the answer is empty.
        """
        try:
            answer = self._client.chat.completions.create(
                model=self.endpoint.model,
                messages=[
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ],
                temperature=0,
                max_tokens=self.endpoint.max_tokens,
            )
        except self._errors as error:
            raise NoAnswer(_why(error)) from error
        choices = getattr(answer, "choices", None)
        text = choices[0].message.content if choices else None
        if not text:
            raise NoAnswer("the answer is empty")
        return str(text)


def _why(error: Exception) -> str:
    """Name the kind of error and the status, not the body: it may quote the question."""
    status = getattr(error, "status_code", None)
    return type(error).__name__ + (f" (HTTP {status})" if status else "")
