"""Which principle a prompt calls for: keywords, then a language model if the recipe names one.

What keywords call for is decided offline: toxicity, and a recipe's own principles. Whether a person
is meant, and which bias principle then applies, is asked of the recipe's language model (LiVO
appendix C.4); without one, or when it fails, the offline rule decides and the reason says so.
Answers that were understood are kept under the run's root, one object per question, so a
question is asked once; failures are not kept. A prompt that the guard refuses is never sent.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from valign.catalogue import guard, questions
from valign.catalogue.principles import of_kind
from valign.catalogue.retriever import Retrieved, drawn, retrieve, retrieve_by_words
from valign.config import Run
from valign.models.llm import ChatModel, Endpoint, NoAnswer
from valign.records import digest
from valign.stages import principles
from valign.storage import layout
from valign.storage.objects import Store

Said = TypeVar("Said")

NOT_UNDERSTOOD = "its answer was not one of those asked for"


class Retriever:
    """Retrieves principles for a run's prompts.

    Attributes:
        counts: how often each way decided: `keywords`, `language model`, `cache`, `offline`,
            and `fallback` where the language model failed.
    """

    def __init__(self, run: Run, store: Store, model: ChatModel | None = None) -> None:
        self.store = store
        self.seed = run.seed
        self.principles = principles.known(run)
        self.model = model or chat_model(run)
        self.counts: Counter[str] = Counter()

    def __call__(self, text: str) -> Retrieved:
        """Return the prompt's principle and the reason; every failure has a defined answer."""
        if found := retrieve_by_words(text, self.principles):
            self.counts["keywords"] += 1
            return found
        if self.model is None or guard.refuse(text):
            self.counts["offline"] += 1
            return self._offline(text)
        try:
            return self._asked(text, self.model)
        except NoAnswer as error:
            self.counts["fallback"] += 1
            offline = self._offline(text)
            reason = f"{offline.reason} (offline rule; the language model failed: {error})"
            return Retrieved(offline.principle, reason)

    def _offline(self, text: str) -> Retrieved:
        return retrieve(text, seed=self.seed, principles=self.principles)

    def _asked(self, text: str, model: ChatModel) -> Retrieved:
        name = model.endpoint.model
        if not self._answer(model, questions.person_question(text), questions.read_person):
            return Retrieved("", f"{name} sees no person in it")
        keys = of_kind("bias", self.principles)
        question = questions.principle_question(text, keys)
        try:
            key = self._answer(model, question, lambda said: questions.read_principle(said, keys))
        except NoAnswer as error:
            key = drawn(text, seed=self.seed, principles=self.principles)
            self.counts["fallback"] += 1
            return Retrieved(
                key, f"{name} sees a person; {key} drawn by the prompt's hash, because {error}"
            )
        return Retrieved(key, f"{name} sees a person and names {key}")

    def _answer(self, model: ChatModel, question: str, read: Callable[[str], Said | None]) -> Said:
        """Return a kept or a new answer, read strictly.

        Raises:
            NoAnswer: the endpoint failed, or answered something else.
        """
        key = layout.answer(digest(model.endpoint.model, questions.SYSTEM, question))
        if self.store.exists(key):
            kept = read(self.store.read(key).decode())
            if kept is not None:
                self.counts["cache"] += 1
                return kept
        said = model.ask(questions.SYSTEM, question)
        understood = read(said)
        if understood is None:
            raise NoAnswer(NOT_UNDERSTOOD)
        self.counts["language model"] += 1
        self.store.write(key, said.encode())
        return understood


def chat_model(run: Run) -> ChatModel | None:
    """Return the recipe's language model, if it names one."""
    settings = run.retriever
    if not settings.model:
        return None
    return ChatModel(
        Endpoint(
            model=settings.model,
            base_url=settings.base_url or None,
            timeout_s=settings.timeout_s,
            max_retries=settings.max_retries,
            max_tokens=settings.max_tokens,
        )
    )
