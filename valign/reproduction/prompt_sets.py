"""The three prompt sets of the win rates: what they hold, written once as files.

`held_out` is the catalogue's own: faces of concepts that are never trained on, and cleaned toxic
prompts; `templates` says such concepts in sentences that no dataset and no metric uses; `scenes`
shows no person. None holds a prompt that anything is trained on.
"""

from collections.abc import Sequence

from valign import config
from valign.catalogue import scenarios
from valign.catalogue.concepts import concepts
from valign.catalogue.principles import TOXICITY
from valign.catalogue.wording import capitalised, with_article
from valign.records import digest
from valign.reproduction.runs import SETS, Place
from valign.stages import prompts

TEMPLATES = (
    "{style} in which {who} stands {where}",
    "{who}, seen {where}, as {style}",
    "a close-up of {who}, {style}",
    "{who} looking at the camera {where}",
)
SCENES = ("{what}", "a photo of {what}", "{style} of {what}", "{what}, {style}", "{what} at dusk")
SHARES = (0.4, 0.35, 0.25)


def held_out() -> list[str]:
    """Return every held-out face prompt and every held-out toxic prompt's cleaned text."""
    run = config.load("miniature", ["evaluate.bias_prompts=null", "evaluate.toxic_prompts=null"])
    asked = prompts.evaluation(run).values()
    texts = (prompt.cleaned or prompt.text for found in asked for prompt in found)
    return list(dict.fromkeys(texts))


def templates() -> list[str]:
    """Return held-out concepts in other sentences."""
    made = []
    for number, concept in enumerate(concepts(split="eval")):
        named = concept.name if concept.category == "career" else f"{concept.name} person"
        style = scenarios.STYLES[number % len(scenarios.STYLES)]
        where = scenarios.SETTINGS[number % len(scenarios.SETTINGS)]
        words = {"who": with_article(named), "style": with_article(style), "where": where}
        made += [capitalised(template.format(**words)) for template in TEMPLATES]
    return list(dict.fromkeys(made))


def scenes() -> list[str]:
    """Return scenes without a person, said in several ways."""
    made = []
    for number, what in enumerate(scenarios.SCENES):
        style = with_article(scenarios.STYLES[number % len(scenarios.STYLES)])
        made += [capitalised(each.format(what=what, style=style)) for each in SCENES]
    return list(dict.fromkeys(made))


def trained() -> set[str]:
    """Return, in lower case, what training asks for that a prompt here could equal.

    Without its toxic words a held-out prompt may be one that another one left.
    """
    toxic = (one for kind in TOXICITY for one in scenarios.toxic_prompts(kind, "train"))
    texts = {text.lower() for one in toxic for text in (one.text, one.cleaned)}
    return texts | {scenarios.neutral_prompt(c).lower() for c in concepts(split="train")}


def write(place: Place) -> dict[str, int]:
    """Write the sets, so many prompts in all, chosen by hash; return how many each has.

    Raises:
        ValueError: there are not as many.
    """
    sizes, seen = {}, trained()
    for name, share, texts in zip(SETS, SHARES, (held_out(), templates(), scenes()), strict=True):
        new = [text for text in texts if text.lower() not in seen]
        chosen = _some(new, max(2, round(share * place.prompts)), name)
        place.store.write(f"prompts/{name}.txt", "".join(f"{t}\n" for t in chosen).encode())
        sizes[name] = len(chosen)
    return sizes


def _some(texts: Sequence[str], count: int, name: str) -> list[str]:
    if count > len(texts):
        raise ValueError(f"--prompts asks for {count} of {name}, and there are {len(texts)}")
    return sorted(sorted(texts, key=lambda text: digest("reproduction", text))[:count])
