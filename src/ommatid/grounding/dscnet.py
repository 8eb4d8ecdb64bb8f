"""DSCNet: Unsupervised Temporal Video Grounding with Deep Semantic Clustering (arXiv:2201.05307, AAAI 2022).

There are videos and there are sentences, but nothing says which belong together. Sentences tell what happens in such
videos at all: their codes are clustered (E1-E4). Every video is composed of a few of these activities (E5-E10), found
where a class-agnostic foreground is (E11-E13). A query is then grounded by its code and by its clusters (E15, E16).
Equation numbers refer to docs/methods/dscnet.md.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.data.tagging import NOUN, VERB
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.clusters import balanced_pseudo_labels, cluster_codes, mean_over_time, most_likely
from ommatid.grounding.curves import curve_to_segments, min_max
from ommatid.grounding.data import GroundingData, UnpairedSet, collate_unpaired
from ommatid.grounding.encoders import Encoder, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, Moments, UnpairedBatch, sort_moments
from ommatid.losses.multiple_instance import mutual_attention_loss, topk_mean
from ommatid.nn.sentence_autoencoder import SentenceAutoencoder, shared_space

Curve = Float[Tensor, "batch time"]
Mask = Bool[Tensor, "batch time"]
WINDOW = 0.3
"""Share of the video around the highest point where no run stands out: lengths are not known in this setting."""


class DSCNet(Grounder):
    """Deep semantic clustering (arXiv:2201.05307): grounding learnt from videos and sentences without pairs.

    The first part of the training belongs to the language (E1-E4), the rest to the videos, in rounds of one epoch that
    each begin with new pseudo labels (E8).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of the encoders.
        code_dim: width of the space that sentences and frames share, and in which they begin as word vectors and clip
            features are.
        clusters: of sentences (E3).
        specific: use what is said at all; without, moments are the foreground alone.
        balance: let clusters be as frequent in videos as in sentences (E8).
        labels: clusters that a video is taken to show.
        language_share: of the training.
        temperature: of the similarity between frames and clusters (E6).
        content_weight: of verbs and nouns where sentences are rebuilt (E2).
        encoder: "gru" is the family's; "conv" is several times faster on a CPU.
        dropout: of the encoders.
        recipe: optimiser and schedule of both parts.
    """

    learns_from = "unpaired"
    trained_elsewhere = ("language.code.",)
    idle_parameters = True
    embedded = {
        "model": {
            "hidden_dim": 48,
            "code_dim": 48,
            "clusters": 16,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3},
        },
        "data": {"view": "unsupervised", "steps": 32, "batch_size": 64},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    centres: Tensor
    share: Tensor
    mined: Tensor

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        code_dim: int = 256,
        clusters: int = 32,
        specific: bool = True,
        balance: bool = True,
        labels: int = 3,
        language_share: float = 0.5,
        temperature: float = 0.1,
        content_weight: float = 2.0,
        encoder: Encoder = "gru",
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adam", lr=1e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        if not 0 < language_share < 1:
            raise InputError(f"language_share must lie between 0 and 1, found {language_share}")
        if clusters < 2:
            raise InputError(f"clusters must be at least 2, found {clusters}")
        if labels < 1:
            raise InputError(f"labels must be at least 1, found {labels}")
        if not temperature > 0:
            raise InputError(f"temperature must be above 0, found {temperature}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        reader = context(encoder, word_dim, hidden_dim, dropout)
        self.language = SentenceAutoencoder(word_dim, code_dim, vocabulary_size, reader, hidden_dim)
        self.video_encoder = context(encoder, feature_dim, hidden_dim, dropout)
        self.video_context = nn.Linear(hidden_dim, feature_dim)
        self.frame_code = nn.Linear(feature_dim, code_dim, bias=False)
        shared_space(self.frame_code)
        self.foreground = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))
        nn.init.zeros_(self.video_context.weight)
        nn.init.zeros_(self.video_context.bias)
        self.register_buffer("centres", torch.zeros(clusters, code_dim))
        self.register_buffer("share", torch.full((clusters,), 1 / clusters))
        self.register_buffer("mined", torch.zeros((), dtype=torch.bool))
        self.pseudo_labels = torch.zeros(0, clusters)
        self.composes = False

    # -- both parts --

    def codes(self, words: Tensor, mask: Tensor) -> Float[Tensor, "batch code"]:
        """The deep semantic features of sentences (E1)."""
        return self.language.encode(self.words(words), mask)

    def frames(
        self, video: Float[Tensor, "batch time channel"], mask: Mask
    ) -> tuple[Float[Tensor, "batch time code"], Curve]:
        """Frames in the space of the sentence codes (E5), and logits of the foreground (E11)."""
        # What a scene shows all the time says nothing of when.
        video = (video - mean_over_time(video, mask)[:, None]) * mask[..., None]
        states = self.video_encoder(video, mask)
        codes = F.normalize(self.frame_code(video + self.video_context(states)).float(), dim=-1)
        return codes * mask[..., None], self.foreground(states)[..., 0].float()

    def activation(self, frames: Float[Tensor, "batch time code"]) -> Float[Tensor, "batch time cluster"]:
        """How much every frame shows of every cluster (E6)."""
        return frames @ self.centres.T / self.hparams.temperature

    # -- inference --

    def forward(self, batch: GroundingBatch) -> Moments:
        """Runs of steps that stand out in the query's curve (E15, E16)."""
        frames, foreground = self.frames(batch.video, batch.video_mask)
        curve = min_max(foreground.sigmoid(), batch.video_mask)
        if self.hparams.specific:
            query = self.codes(batch.words, batch.word_mask)
            curve = self.query_curve(frames, query, batch.video_mask) * foreground.sigmoid()
        return moments_of(min_max(curve, batch.video_mask), batch.video_mask)

    def query_curve(
        self, frames: Float[Tensor, "batch time code"], query: Float[Tensor, "batch code"], mask: Mask
    ) -> Curve:
        """What the query says of every step, itself and through its clusters (E15)."""
        temperature = self.hparams.temperature
        direct = (frames @ query[..., None])[..., 0] / temperature
        belongs = (query @ self.centres.T / temperature).softmax(dim=-1)
        clustered = (self.activation(frames) @ belongs[..., None])[..., 0]
        return min_max((direct + clustered) / 2, mask)

    # -- training --

    def training_step(self, batch: UnpairedBatch, _: int) -> Tensor:
        """First sentences are rebuilt from their codes, then videos are composed of clusters (E14)."""
        if self.composes:
            return self.compose(batch)
        words = self.words(batch.words)
        code = self.language.encode(words, batch.word_mask)
        tags = self.words.tags[batch.words]
        content = (tags == VERB) | (tags == NOUN)
        weight = torch.where(content, self.hparams.content_weight, 1.0) * batch.word_mask
        rebuilt = self.language.reconstruct(code, words, batch.words, weight).mean()
        self.report(loss=rebuilt)
        return rebuilt

    def compose(self, batch: UnpairedBatch) -> Tensor:
        """The videos' part: pseudo labels, composed activities, foreground, and their agreement (E6-E13)."""
        mask, labels = batch.video_mask, self.pseudo_labels.to(batch.video.device)[batch.video_number]
        frames, logits = self.frames(batch.video, mask)
        foreground = logits.sigmoid() * mask
        activation = self.activation(frames)
        attention = activation.masked_fill(~mask[..., None], float("-inf")).softmax(dim=1)
        composed = F.normalize(torch.einsum("btc,btd->bcd", attention, frames), dim=-1)
        rest = torch.einsum("btc,btd->bcd", (1 - attention) * mask[..., None], frames)
        share = -(labels * topk_mean(activation, mask).log_softmax(dim=1)).sum(dim=1).mean()
        shown = activation.masked_fill((labels == 0)[:, None], -1e4).amax(dim=2)
        parts = {
            "clusters": share,
            "composed": self.semantic_loss(composed, labels),
            "across": 0.5 * co_activity_loss(composed, F.normalize(rest, dim=-1), labels),
            **self.foreground_losses(frames, foreground, labels, mask),
            "mutual": 0.5 * mutual_attention_loss(min_max(shown, mask), foreground, mask),
        }
        loss = torch.stack(list(parts.values())).sum()
        self.report(loss=loss, **parts)
        return loss

    def semantic_loss(
        self, composed: Float[Tensor, "batch cluster code"], labels: Float[Tensor, "batch cluster"]
    ) -> Float[Tensor, ""]:
        """A composed activity lies near its own centre and away from the others (E9)."""
        logits = composed @ self.centres.T / self.hparams.temperature
        own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        loss = F.cross_entropy(logits.transpose(1, 2), own, reduction="none")
        return (loss * labels).sum(dim=1).mean()

    def foreground_losses(
        self,
        frames: Float[Tensor, "batch time code"],
        foreground: Curve,
        labels: Float[Tensor, "batch cluster"],
        mask: Mask,
    ) -> dict[str, Tensor]:
        """The foreground shows a cluster of the video, the background none; both have a usual size (E11-E13)."""
        inside = F.normalize(mean_over_time(frames, foreground), dim=-1)
        outside = F.normalize(mean_over_time(frames, (1 - foreground) * mask), dim=-1)
        temperature = self.hparams.temperature
        said = (inside @ self.centres.T / temperature).log_softmax(dim=1).masked_fill(labels == 0, float("-inf"))
        nothing = (outside @ self.centres.T / temperature).log_softmax(dim=1)
        size = (foreground.sum(dim=1) / mask.sum(dim=1) - 0.35) ** 2
        changes = (foreground[:, 1:] - foreground[:, :-1]).abs() * mask[:, 1:]
        return {
            "foreground": -said.logsumexp(dim=1).mean(),
            # Minus the entropy: background belongs to no cluster.
            "background": 0.5 * (nothing.exp() * nothing).sum(dim=1).mean(),
            "size": size.clamp(max=0.15).mean(),
            "smooth": 0.1 * (changes.sum(dim=1) / mask[:, 1:].sum(dim=1).clamp(min=1)).mean(),
        }

    # -- between rounds --

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, GroundingData)
        sentences = len(data.queries["train"])
        if sentences < len(self.centres):
            raise InputError(
                f"clusters: found {len(self.centres)}, expected at most the {sentences} training sentences"
            )

    def on_train_start(self) -> None:
        if self.trainer.estimated_stepping_batches == float("inf"):
            raise InputError(
                "language_share is a share of the training, expected trainer.max_steps or max_epochs above 0"
            )
        # Read once: a step that asked the buffer would wait for the GPU.
        self.composes = bool(self.mined)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Cluster the sentences once the language has had its share; new pseudo labels with every epoch (E3, E8)."""
        begins = not self.composes and self.share_done >= self.hparams.language_share
        if begins:
            self.mine()
        # A resumed training has clusters, but no labels yet.
        if begins or (self.composes and (batch_idx == 0 or not len(self.pseudo_labels))):
            self.label_videos()

    @torch.no_grad()
    def mine(self) -> None:
        """Centres of the sentences' clusters, and how frequent they are (E3)."""
        pile = self._pile
        self.eval()
        batches = list(self._batches(pile, len(pile.words)))
        raw = [self.language.raw_code(self.words(batch.words), batch.word_mask) for batch in batches]
        # What all sentences say tells none from another.
        self.language.mean.copy_(torch.cat(raw).mean(dim=0))
        codes = [self.codes(batch.words, batch.word_mask) for batch in batches]
        self.train()
        centres, share = cluster_codes(torch.cat(codes), len(self.centres))
        self.centres.copy_(centres)
        self.share.copy_(share)
        self.mined.fill_(True)
        self.composes = True

    @torch.no_grad()
    def label_videos(self) -> None:
        """The clusters that every training video shows, as far as can be told now (E7, E8)."""
        pile = self._pile
        self.eval()
        scores = []
        for batch in self._batches(pile, len(pile.videos)):
            activation = self.activation(self.frames(batch.video, batch.video_mask)[0])
            scores.append(topk_mean(activation, batch.video_mask) * self.hparams.temperature)
        self.train()
        table, most = torch.cat(scores), self.hparams.labels
        if self.hparams.balance:
            self.pseudo_labels = balanced_pseudo_labels(table, self.share, most=most)
        else:
            self.pseudo_labels = most_likely((table / self.hparams.temperature).softmax(dim=1), most)

    @property
    def _pile(self) -> UnpairedSet:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, GroundingData)
        pile = data.dataset("train")
        assert isinstance(pile, UnpairedSet)
        return pile

    def _batches(self, pile: UnpairedSet, count: int) -> Any:
        """The first `count` videos and sentences of the piles in their order, 256 at a time."""
        for first in range(0, count, 256):
            samples = [pile.in_order(index) for index in range(first, min(first + 256, count))]
            yield collate_unpaired(samples).to(self.device)


class DirectMatching(Grounder):
    """The similarity of word vectors and clip features as they are: a reference that learns nothing.

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them; both widths must be the same.
        energy: times the length of the clip features, which is large where anything happens.
        recipe: of no use to it.
    """

    learns_from = "unpaired"

    def __init__(
        self,
        feature_dim: int = 48,
        word_dim: int = 48,
        vocabulary_size: int = 2,
        energy: bool = False,
        recipe: Recipe = Recipe("adam", lr=1e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        if feature_dim != word_dim:
            raise InputError(f"feature_dim is {feature_dim}, expected that of the word vectors, {word_dim}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)

    def forward(self, batch: GroundingBatch) -> Moments:
        mask = batch.video_mask
        video = (batch.video - mean_over_time(batch.video, mask)[:, None]) * mask[..., None]
        query = mean_over_time(self.words(batch.words), batch.word_mask)
        curve = F.cosine_similarity(video, query[:, None], dim=-1)
        if self.hparams.energy:
            curve = min_max(curve, mask) * video.norm(dim=-1)
        return moments_of(min_max(curve, mask), mask)

    def training_step(self, batch: UnpairedBatch, _: int) -> Tensor:
        return 0 * self.words.unknown.sum()


def co_activity_loss(
    composed: Float[Tensor, "batch cluster code"],
    rest: Float[Tensor, "batch cluster code"],
    labels: Float[Tensor, "batch cluster"],
    margin: float = 0.5,
) -> Float[Tensor, ""]:
    """Two videos of one cluster resemble each other more where they show it than where they do not (E10)."""
    alike = torch.einsum("icd,jcd->ijc", composed, composed)
    unlike = torch.einsum("icd,jcd->ijc", composed, rest)
    shared = ((labels[:, None] > 0) & (labels[None] > 0)).float()
    shared = shared * (1 - torch.eye(len(labels), device=labels.device))[..., None]
    loss = (1 - alike) + F.relu(margin - alike + unlike)
    return (loss * shared).sum() / shared.sum().clamp(min=1)


def moments_of(curve: Curve, mask: Mask) -> Moments:
    """Ranked runs of a curve in [0, 1] of the video, last of all a window around its highest point (E16)."""
    runs, scores = curve_to_segments(curve, mask)
    steps = mask.sum(dim=1)
    highest = (curve.masked_fill(~mask, -1).argmax(dim=1) + 0.5) / steps
    window = torch.stack([highest - WINDOW / 2, highest + WINDOW / 2], dim=-1).clamp(0, 1)
    spans = torch.cat([runs / steps[:, None, None], window[:, None]], dim=1)
    lowest = torch.where(torch.isfinite(scores), scores, 1.0).amin(dim=1, keepdim=True) - 1
    return sort_moments(spans, torch.cat([scores, lowest], dim=1))


_METRIC = "R@1,IoU=0.5"
_FULL = {name: value for name, value in DSCNet.embedded["model"].items() if name != "recipe"}
_FOREGROUND: dict[str, Any] = {**_FULL, "specific": False}
_NOTHING_SHARED: dict[str, Any] = {"world": {"rho": 0.0}}
_DIRECT = "ommatid.grounding.dscnet:DirectMatching"

DSCNet.claims = (
    Claim(
        name="dscnet",
        statement="Learnt from unpaired videos and sentences, DSCNet grounds held-out pairs better than matching word "
        "vectors and clip features directly and than its foreground alone, and its advantage over the foreground goes "
        "where text and clips share no information.",
        arms={
            "full": Arm("method", _FULL),
            "foreground alone": Arm("baseline", _FOREGROUND),
            "direct matching": Arm("baseline", method=_DIRECT),
            "direct matching, times energy": Arm("reported", {"energy": True}, method=_DIRECT),
            "no balance": Arm("ablation", {**_FULL, "balance": False}),
            "nothing shared, full": Arm("control", _FULL, _NOTHING_SHARED),
            "nothing shared, foreground alone": Arm("control", _FOREGROUND, _NOTHING_SHARED),
        },
        criteria=(
            Criterion(_METRIC, versus="direct matching"),
            Criterion(_METRIC, versus="foreground alone"),
            Criterion("mIoU", versus="foreground alone"),
            Criterion(
                _METRIC,
                versus="foreground alone",
                beyond_arms=("nothing shared, full", "nothing shared, foreground alone"),
            ),
        ),
        data=DSCNet.embedded["data"],
        trainer=DSCNet.embedded["trainer"],
        tuning={"recipe.lr": (2e-3, 4e-3, 8e-3, 16e-3)},
        shown=(_METRIC, "R@1,IoU=0.3", "R@1,IoU=0.7", "mIoU"),
        source="docs/methods/dscnet.md, claim",
    ),
)
