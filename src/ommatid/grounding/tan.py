"""2D-TAN: Learning 2D Temporal Adjacent Networks for Moment Localization (arXiv:1912.03590, AAAI 2020).

The field's reference for proposals: all candidate moments of a video lie on a map over start and end (B1, B2), are
fused with the sentence (B3), see the moments next to them through convolutions on the map (B4), and are scored by how
much they overlap the described moment (B5). Equation numbers refer to the field's card.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.engine.checkpoint import rename
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.encoders import WordEmbedding
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, Moments, sort_moments
from ommatid.grounding.timeindex import pool_padded, target_map
from ommatid.nn.proposal_map import MaskedMapConv, ProposalMap


class TAN2D(Grounder):
    """2D temporal adjacent network (arXiv:1912.03590): moments on a map learn from their neighbours (B1-B5).

    The defaults are the authors' for ActivityNet Captions (with data of `steps=256`, `batch_size=32`).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        clips: every video is resampled to so many clips (D1), short ones by repetition.
        map_size: positions of the map; clips are averaged to so many (B1). 16 for Charades-STA, 128 for TACoS.
        scales: which moments exist (`proposal_cells`): (16,) for Charades-STA, (16, 8, 8, 8) for TACoS.
        hidden_dim: width of the map.
        query_dim, query_layers: of the LSTM that reads the sentence (B3).
        kernel, map_layers, dilation: of the convolutions on the map (B4); 5 and 8 for Charades-STA.
        min_iou, max_iou: overlaps from which a target rises above 0 and at which it reaches 1 (B5); 0.3 and 0.7 for
            TACoS.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "clips": 32,
            "map_size": 16,
            "scales": [8, 4],
            "hidden_dim": 64,
            "query_dim": 64,
            "query_layers": 1,
            "kernel": 3,
            "map_layers": 3,
            "recipe": {"lr": 2e-3, "schedule": "onecycle"},
        },
        "data": {"steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        clips: int = 256,
        map_size: int = 64,
        scales: tuple[int, ...] = (16, 8, 8),
        hidden_dim: int = 512,
        query_dim: int = 512,
        query_layers: int = 3,
        kernel: int = 9,
        map_layers: int = 4,
        dilation: int = 1,
        min_iou: float = 0.5,
        max_iou: float = 1.0,
        recipe: Recipe = Recipe("adam", lr=1e-4, schedule="constant", clip_norm=10.0),
    ) -> None:
        super().__init__()
        if map_size < 1 or clips < 1 or clips % map_size:
            raise InputError(f"clips must be a multiple of map_size, found {clips} clips for a map of {map_size}")
        if not 0 <= min_iou < max_iou <= 1:
            raise InputError(f"min_iou must lie below max_iou, both in [0, 1], found {min_iou} and {max_iou}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)

        self.clip_input = nn.Linear(feature_dim, hidden_dim)
        self.proposals = ProposalMap(map_size, scales)
        self.query_encoder = nn.LSTM(word_dim, query_dim, query_layers, batch_first=True)
        self.query_output = nn.Linear(query_dim, hidden_dim)
        self.cell_input = nn.Linear(hidden_dim, hidden_dim)
        self.adjacent = MaskedMapConv(hidden_dim, kernel, map_layers, dilation)
        self.head = nn.Linear(hidden_dim, 1)

    def forward(self, batch: GroundingBatch) -> Moments:
        logits = self.cell_logits(batch).float()
        return sort_moments(self.proposals.spans().expand(len(logits), -1, -1), logits.sigmoid())

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Binary cross-entropy with the rescaled overlap of every existing cell (B5)."""
        loss = F.binary_cross_entropy_with_logits(self.cell_logits(batch).float(), self.targets(batch))
        self.report(loss=loss)
        return loss

    def cell_logits(self, batch: GroundingBatch) -> Float[Tensor, "batch cell"]:
        """The score of every candidate moment, before the sigmoid."""
        moments = self.cell_input(self.proposals(self.positions(batch)))
        fused = F.normalize(self.query(batch)[:, None] * moments, dim=-1)
        seen = self.adjacent(self.proposals.scatter(fused), self.proposals.mask)
        return self.head(self.proposals.gather(seen))[..., 0]

    def positions(self, batch: GroundingBatch) -> Float[Tensor, "batch position hidden"]:
        """One feature for each position of the map: the mean of its clips (B1)."""
        video = pool_padded(batch.video, batch.video_mask, self.hparams.clips)
        return F.relu(self.clip_input(video)).unflatten(1, (self.hparams.map_size, -1)).mean(dim=2)

    def query(self, batch: GroundingBatch) -> Float[Tensor, "batch hidden"]:
        """The sentence as the LSTM's state at its last word (B3)."""
        # What is padded comes after the last word, and an LSTM does not look ahead.
        states, _ = self.query_encoder(self.words(batch.words))
        last = (batch.word_mask.sum(dim=1) - 1).clamp(min=0)
        state = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        return self.query_output(state)

    def targets(self, batch: GroundingBatch) -> Float[Tensor, "batch cell"]:
        """How far each cell's overlap with the annotated moment is between `min_iou` and `max_iou` (B5, D5)."""
        iou = target_map(batch.span, torch.ones_like(batch.duration), self.hparams.map_size)
        low, high = self.hparams.min_iou, self.hparams.max_iou
        return ((iou[:, self.proposals.start, self.proposals.end] - low) / (high - low)).clamp(0, 1)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released network under our names; word vectors come with the data."""
        ours = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("words.")}
        for name, tensor in state.items():
            renamed = rename(name, _PUBLISHED)
            # Their 1x1 convolutions are our linear layers.
            ours[renamed] = tensor.flatten(1) if renamed in _POINTWISE and tensor.ndim > 2 else tensor
        return ours


_PUBLISHED = (
    (r"^frame_layer\.vis_conv\.", "clip_input."),
    (r"^fusion_layer\.textual_encoder\.", "query_encoder."),
    (r"^fusion_layer\.tex_linear\.", "query_output."),
    (r"^fusion_layer\.vis_conv\.", "cell_input."),
    (r"^map_layer\.convs\.", "adjacent.convs."),
    (r"^pred_layer\.", "head."),
)
_POINTWISE = ("clip_input.weight", "cell_input.weight", "head.weight")
