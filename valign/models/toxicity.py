"""A small classifier of toxic content on CLIP image embeddings.

In: L2-normalised image embeddings. Out: one independent probability per kind of content. It shares
its CLIP's forward pass with every other scorer of that CLIP. Training it is not its matter.
"""

import json
from pathlib import Path

from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class ToxicityHead(nn.Module):
    """One hidden layer and a sigmoid per class: embedding_BD (unit length) -> probability_BK.

    `clip` is the model whose embeddings it reads: a folder, relative to where the head is saved, or
    any other source of `clip.Clip`.
    """

    def __init__(
        self, embed_dim: int, *, hidden: int, classes: tuple[str, ...], clip: str = "../clip"
    ) -> None:
        super().__init__()
        if not classes or len(set(classes)) != len(classes):
            raise ValueError(f"a toxicity head needs distinct class names, got {classes!r}")
        self.embed_dim = embed_dim
        self.hidden = hidden
        self.classes = tuple(classes)
        self.clip = clip
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, hidden), nn.GELU(), nn.Linear(hidden, len(classes))
        )

    def logits(self, embedding_BD: Tensor) -> Tensor:
        """Return logits_BK in the order of `classes` (for training: binary cross entropy)."""
        return self.layers(embedding_BD)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return probability_BK in 0..1, in the order of `classes`."""
        return self.logits(embedding_BD).sigmoid()

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (float32) into the folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "embed_dim": self.embed_dim,
            "hidden": self.hidden,
            "classes": self.classes,
            "clip": self.clip,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        weights = {k: v.detach().float().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: str | Path) -> "ToxicityHead":
        """Read a saved head; missing or unexpected weights are an error."""
        from safetensors.torch import load_file

        folder = Path(folder)
        config = json.loads((folder / CONFIG).read_text())
        head = cls(
            config["embed_dim"],
            hidden=config["hidden"],
            classes=tuple(config["classes"]),
            clip=config["clip"],
        )
        weights = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
        head.load_state_dict(weights, strict=True)
        return head.eval()
