"""A small classifier of toxic content on CLIP image embeddings.

In: L2-normalised image embeddings. Out: one independent probability per kind of content. It shares
its CLIP's forward pass with every other scorer of that CLIP. Training it is not its matter.
"""

from pathlib import Path

from torch import Tensor, nn

from valign.models.weight_files import (
    WEIGHTS,
    load_strictly,
    read_head_config,
    read_weights,
    write_head,
)


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
        fields = ("embed_dim", "hidden", "classes", "clip")
        write_head(folder, self, {field: getattr(self, field) for field in fields})

    @classmethod
    def load(cls, folder: str | Path) -> "ToxicityHead":
        """Read a saved head.

        Raises:
            ValueError: the config or a weight is missing, unexpected or misshapen.
        """
        config = read_head_config(folder, "embed_dim", "hidden", "classes", "clip")
        head = cls(
            config["embed_dim"],
            hidden=config["hidden"],
            classes=tuple(config["classes"]),
            clip=config["clip"],
        )
        load_strictly(head, read_weights(Path(folder) / WEIGHTS), folder)
        return head.eval()
