"""MGSL-Net: Memory-Guided Semantic Learning Network for Temporal Sentence Grounding (arXiv:2201.00454, AAAI 2022).

Sentences with a rarely seen word are grounded worse, because a network is pulled towards what it sees often. MGSL-Net
lets frames and words exchange messages on a graph (E3-E7), stores what has been described in one persistent slot
memory per modality and reads it back for every frame and word (E9-E14), mixes both modalities by heterogeneous
attention (E15-E17), and lets every frame vote for a span (E18-E19). Equation numbers refer to
docs/methods/mgsl-net.md.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.recipe import Recipe
from ommatid.grounding.encoders import Encoder, LocalSelfAttention, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.heads import DenseRegression, DenseRegressionHead, decode_dense, dense_loss, steps_inside
from ommatid.grounding.task import GroundingBatch, Moments
from ommatid.nn.attention import AdditiveAttention
from ommatid.nn.cross_graph import CrossModalGraphLayer, Normalise
from ommatid.nn.heterogeneous import HeterogeneousAttention
from ommatid.nn.recurrent import published_gru
from ommatid.nn.slot_memory import FrozenMemory, ParameterMemory, ResidualMLP, SlotMemory

Memory = Literal["written", "parameters", "frozen", "mlp"]
MEMORIES = {"written": SlotMemory, "parameters": ParameterMemory, "frozen": FrozenMemory, "mlp": ResidualMLP}


class MGSLNet(Grounder):
    """Memory-guided semantic learning (arXiv:2201.00454): slots remember rare video-query pairs (E9-E14).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the encoders.
        video_dim: width of the clip features between the input and the encoder (E1).
        memory: "written" is the paper's; "parameters" reads slots that the optimiser moves; "frozen" reads random
            slots; "mlp" is a residual network of equal capacity in the memory's place.
        memory_slots: slots per modality.
        tau: temperature of the memory's addresses; 1 spreads every write over all slots.
        write: "sequential" writes token after token (E13); "batched" writes all at once (E14), much faster.
        graph_layers, attention_blocks: how often E3-E6 and E15-E17 are repeated; 0 leaves them out.
        normalise: which axis the graph's weights sum over; "receiver" is what the ancestor's release does.
        heads: of every attention.
        window: steps to either side that the self-attention of the clip features sees.
        encoder: "gru" is the paper's; "conv" is several times faster on a CPU.
        dropout: of encoders and attention; the graph has 0.2, whatever stands here.
        regression_weight, quality_weight: of the losses of the span and of its quality (E19).
        cycle_weight: of the cycle-alignment loss (E8), which only the journal version names.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "hidden_dim": 48,
            "video_dim": 48,
            "memory_slots": 64,
            "graph_layers": 1,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle", "warmup_steps": 0},
        },
        "data": {"steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        video_dim: int = 500,
        memory: Memory = "written",
        memory_slots: int = 256,
        tau: float = 0.1,
        write: Literal["sequential", "batched"] = "batched",
        graph_layers: int = 2,
        normalise: Normalise = "sender",
        attention_blocks: int = 1,
        heads: int = 4,
        window: int = 3,
        encoder: Encoder = "gru",
        dropout: float = 0.2,
        regression_weight: float = 1.0,
        quality_weight: float = 1.0,
        cycle_weight: float = 0.0,
        recipe: Recipe = Recipe("adamw", lr=8e-4, weight_decay=1e-7, schedule="inverse_sqrt", warmup_steps=300),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)

        self.video_input = nn.Linear(feature_dim, video_dim)
        self.video_local = nn.ModuleList(LocalSelfAttention(video_dim, heads, window, dropout) for _ in range(2))
        self.video_encoder = context(encoder, video_dim, hidden_dim, dropout)
        self.query_encoder = context(encoder, word_dim, hidden_dim, dropout)
        self.query_local = LocalSelfAttention(hidden_dim, heads, window=10_000, dropout=dropout)

        self.graph = nn.ModuleList(CrossModalGraphLayer(hidden_dim, normalise) for _ in range(graph_layers))
        options = {"write": write} if memory == "written" else {}
        self.video_memory = MEMORIES[memory](hidden_dim, memory_slots, tau, **options)
        self.query_memory = MEMORIES[memory](hidden_dim, memory_slots, tau, **options)
        self.attention = nn.ModuleList(
            HeterogeneousAttention(hidden_dim, heads, dropout) for _ in range(attention_blocks)
        )
        self.tell = AdditiveAttention(hidden_dim)
        self.fusion = context(encoder, 2 * hidden_dim, hidden_dim, dropout)
        self.head = DenseRegressionHead(hidden_dim)
        self.cycle_align = nn.Linear(hidden_dim, hidden_dim, bias=False) if cycle_weight else None

    def forward(self, batch: GroundingBatch) -> Moments:
        return decode_dense(self.regress(batch)[0])

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """One stage, one optimiser over everything but the memories (E19)."""
        prediction, cycle = self.regress(batch)
        parts = dense_loss(prediction, batch.span)
        settings = self.hparams
        loss = (
            parts.classification
            + settings.regression_weight * parts.regression
            + settings.quality_weight * parts.quality
            + settings.cycle_weight * cycle
        )
        self.report(loss=loss, inside=parts.classification, span=parts.regression, quality=parts.quality)
        return loss

    def regress(self, batch: GroundingBatch) -> tuple[DenseRegression, Float[Tensor, ""]]:
        """Spans and scores of every step, and the cycle loss."""
        video_mask, query_mask = batch.video_mask, batch.word_mask
        video, query = self.encode(batch)
        for layer in self.graph:
            video, query = layer(video, query, video_mask, query_mask)
        cycle = self.cycle_loss(video, query, batch) if self.cycle_align is not None else video.new_zeros(())

        # Only described content is written: frames inside the annotated moment, and all words.
        described = steps_inside(video_mask, batch.span.nan_to_num()) if self.training else video_mask
        video = self.video_memory(video, video_mask, video, described)
        query = self.query_memory(query, query_mask, query, query_mask)

        for block in self.attention:
            video, query = block(video, query, video_mask, query_mask)
        told = self.tell(video, query, query_mask)
        fused = self.fusion(torch.cat([video, told], dim=-1), video_mask)
        return self.head(fused, video_mask), cycle

    def encode(self, batch: GroundingBatch) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch word dim"]]:
        """Frames see their neighbours, then the whole video; words see the whole sentence (E1, E2)."""
        video = self.video_input(self.dropout(batch.video))
        for layer in self.video_local:
            video = layer(video, batch.video_mask)
        video = self.video_encoder(video, batch.video_mask)
        query = self.query_encoder(self.dropout(self.words(batch.words)), batch.word_mask)
        return video, self.query_local(query, batch.word_mask)

    def cycle_loss(
        self, video: Float[Tensor, "batch time dim"], query: Float[Tensor, "batch word dim"], batch: GroundingBatch
    ) -> Float[Tensor, ""]:
        """A word that looks for its frames should be found again by them (E8)."""
        assert self.cycle_align is not None
        similarity = self.cycle_align(video) @ query.transpose(1, 2)
        to_frames = similarity.masked_fill(~batch.video_mask[..., None], float("-inf")).softmax(dim=1)
        to_words = similarity.masked_fill(~batch.word_mask[:, None], float("-inf")).softmax(dim=2)
        home = (to_frames * to_words).sum(dim=1)
        return -(home.clamp(min=1e-8).log() * batch.word_mask).sum() / batch.word_mask.sum()

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Graph layer, fusion and memories under our names; the authors released no complete network."""
        ours = dict(self.state_dict())
        if "atten.q_proj.weight" in state:
            ours |= {f"graph.0.{name}": tensor for name, tensor in published_graph_layer(state).items()}
            attention, gru = published_fusion(state)
            ours |= {f"tell.{name}": tensor for name, tensor in attention.items()}
            ours |= {f"fusion.{name}": tensor for name, tensor in gru.items()}
        if "write_key_proj.weight" in state:
            ours |= {f"video_memory.{name}": tensor for name, tensor in published_memory(state).items()}
        return ours


def published_graph_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`CrossModalGraphLayer` from the names of the code released for the ancestor of the method."""
    nodes = {
        "update_v": "video_update",
        "update_s": "query_update",
        "update_v_intra": "video_self",
        "update_s_intra": "query_self",
    }
    ours = {"align.weight": state["atten.q_proj.weight"]}
    for theirs, name in nodes.items():
        for part in ("weight", "bias"):
            gates = [state[f"{theirs}.{gate}_gate.{part}"] for gate in ("update", "reset")]
            ours[f"{name}.gates.{part}"] = torch.cat(gates)
            ours[f"{name}.content.{part}"] = state[f"{theirs}.out_gate.{part}"]
    return ours


def published_fusion(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`AdditiveAttention` and `BidirectionalGRU` of E18 from the released names."""
    attention = {
        "frame.weight": state["v2s.ws1.weight"],
        "frame.bias": state["v2s.ws1.bias"],
        "word.weight": state["v2s.ws2.weight"],
        "weight.weight": state["v2s.wst.weight"],
    }
    return attention, published_gru(state, "rnn.gru.")


def published_memory(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The writing half of `SlotMemory` from the names of the public re-implementation."""
    ours = {"memory": state["memory"]}
    for theirs, name in {"write_key_proj": "write_key", "write_val_proj": "add", "erase_val_proj": "erase"}.items():
        ours |= {f"{name}.{part}": state[f"{theirs}.{part}"] for part in ("weight", "bias")}
    return ours


_RARE: dict[str, Any] = {
    "model": MGSLNet.embedded["model"],
    "data": {"view": "rare", "steps": 32, "batch_size": 32},
    "trainer": {"max_steps": 1000, "max_epochs": -1},
    "tuning": {"recipe.lr": (1e-3, 2e-3, 4e-3, 8e-3)},
}
_METRIC = "R@1,IoU=0.5"

MGSLNet.claims = (
    Claim(
        name="mgsl-net",
        statement="Written slot memories raise R@1,IoU=0.5 on queries with a rarely seen word above a network of equal "
        "capacity, and raise it more there than on common queries.",
        arms={
            "memory": Arm("method"),
            "no memory, equal capacity": Arm("control", {"memory": "mlp"}),
            "parameter memory": Arm("ablation", {"memory": "parameters"}),
            "frozen random memory": Arm("reported", {"memory": "frozen"}),
        },
        criteria=(
            Criterion(f"rare/{_METRIC}", versus="no memory, equal capacity"),
            Criterion(f"rare/{_METRIC}", versus="no memory, equal capacity", beyond=f"common/{_METRIC}"),
        ),
        shown=(f"rare/{_METRIC}", f"common/{_METRIC}", _METRIC, "mIoU"),
        source="docs/methods/mgsl-net.md, claim",
        **_RARE,
    ),
    Claim(
        name="mgsl-net-parts",
        statement="Heterogeneous attention and the cross-modal graph both raise R@1,IoU=0.5 over all queries.",
        arms={
            "full": Arm("method"),
            "no heterogeneous attention": Arm("ablation", {"attention_blocks": 0}),
            "no graph": Arm("ablation", {"graph_layers": 0}),
        },
        criteria=(
            Criterion(_METRIC, versus="no heterogeneous attention"),
            Criterion(_METRIC, versus="no graph"),
        ),
        shown=(_METRIC, "R@1,IoU=0.7", "mIoU"),
        source="docs/methods/mgsl-net.md, second claim",
        **_RARE,
    ),
)
