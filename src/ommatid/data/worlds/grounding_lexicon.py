"""Concepts of the grounding world: what exists, what it is called, and its codes in word vectors and in clips."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

LATENT = 12
CHANNELS = 48
# Entries of the random projections: a concept's code has norm 2 in clips, where one clip (noise of norm 7) is a weak
# witness and twenty are a strong one, and norm 7 in word vectors (noise of norm 5), where synonyms have cosine 0.8.
CODE_SCALE = LATENT**-0.5
WORD_SCALE = 0.5
NOISY_SYNONYM = 1.0
WORD_NOISE = 0.5
CONCEPT_NOISE = 0.5

# One concept a group: its name and usual word, a second usual word, and a word kept back (a novel or a rare synonym).
_TABLE = {
    "verb": """
        opens unlocks unseals; closes shuts seals; lifts raises hoists; drops releases ditches; washes cleans rinses;
        cuts slices chops; throws tosses hurls; carries hauls lugs; pushes shoves nudges; pulls drags tugs;
        paints colors coats; breaks smashes shatters; holds grips clasps; hides conceals buries; shakes rattles jiggles;
        folds creases pleats; fixes repairs mends; kicks boots punts; wipes dusts mops; watches views observes
    """,
    "noun": """
        door gate hatch; table desk bench; cup mug beaker; box crate carton; bag sack pouch; book novel volume;
        chair seat stool; bottle flask vial; ball sphere orb; phone handset receiver; shirt blouse tunic;
        shoe sneaker loafer; lamp lantern torch; towel cloth rag; pillow cushion bolster; blanket quilt duvet;
        window pane skylight; plate dish platter; knife blade dagger; spoon ladle scoop; bowl basin tureen;
        pan skillet wok; pot kettle cauldron; broom brush whisk; bucket pail tub; rope cord twine;
        ladder steps stairs; hammer mallet gavel; saw hacksaw jigsaw; nail spike tack; wheel tyre rim;
        bike bicycle tandem; car sedan coupe; truck lorry pickup; boat dinghy canoe; kite glider drone;
        drum tambourine bongo; guitar banjo lute; piano keyboard organ; violin fiddle viola;
        camera camcorder webcam; clock watchface timer; mirror glass reflector; picture photo portrait;
        poster banner placard; carpet rug mat; curtain drape blind; sofa couch settee; bed mattress cot;
        fridge freezer cooler; oven stove grill; basket hamper creel; flower blossom tulip; plant shrub fern;
        stone rock pebble; stick branch twig; hat cap beret; coat jacket parka; glove mitten gauntlet;
        scarf shawl stole
    """,
    "adj": """
        red crimson scarlet; blue azure navy; green emerald olive; large big huge; small little tiny; old worn ancient
    """,
    "adv": """
        slowly gradually leisurely; quickly rapidly swiftly; carefully gently cautiously; loudly noisily boisterously
    """,
    "prep": "near by beside; behind after past; under below beneath; above over atop",
}
POS = {"verb": "VERB", "noun": "NOUN", "noun2": "NOUN", "adj": "ADJ", "adv": "ADV", "prep": "ADP"}
FILLERS = {"person": "NOUN", "the": "DET"}
ZIPF = {"verb": 0.9, "noun": 1.5}
# Ranks below these are common enough for two usual words.
_TWO_WORDS = {"verb": 10, "noun": 6, "adj": 6, "adv": 4, "prep": 4}


def _concepts(kind: str) -> list[tuple[str, ...]]:
    return [tuple(group.split()) for group in _TABLE[kind].split(";")]


def zipf(count: int, exponent: float) -> np.ndarray:
    """Probabilities of ranks 1..count, proportional to rank^-exponent."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


@dataclass
class Lexicon:
    """Concepts in the order of their frequency (rank), their words, codes and affordances.

    Attributes:
        words: kind -> one tuple of usual words a concept; the first names the concept.
        reserved: kind -> one word a concept that no usual sentence has.
        probs: kind -> frequency of each concept.
        admitted: (nouns, 4) verbs that training combines with a noun; `withheld`: (nouns, 3) verbs that it never does.
        latents: kind -> (concepts, 12) unit vectors.
        word_vectors: word -> 48 numbers (float32, four decimals), usual and reserved words.
        noisy_vectors: reserved word -> the same with more noise, for rare synonyms.
    """

    words: dict[str, list[tuple[str, ...]]]
    reserved: dict[str, list[str]]
    probs: dict[str, np.ndarray]
    admitted: np.ndarray
    withheld: np.ndarray
    latents: dict[str, np.ndarray]
    word_vectors: dict[str, np.ndarray]
    noisy_vectors: dict[str, np.ndarray]
    projections: dict[str, np.ndarray] = field(repr=False)

    def name(self, kind: str, concept: int) -> str:
        return self.words[kind][concept][0]

    def pos(self) -> dict[str, str]:
        """Word -> part of speech, of every word that the world can say."""
        tags = dict(FILLERS)
        for kind, groups in self.words.items():
            tags |= {word: POS[kind] for group in groups for word in group}
            tags |= dict.fromkeys(self.reserved[kind], POS[kind])
        return dict(sorted(tags.items()))

    def verb_probs(self, withheld: bool = False) -> np.ndarray:
        """(nouns, verbs): how often a noun meets each of its admitted (or withheld) verbs."""
        if not withheld:
            joint = _pair_probs(self.admitted, self.probs["verb"], self.probs["noun"])
            return joint / joint.sum(1, keepdims=True)
        weights = np.zeros((len(self.withheld), len(self.words["verb"])))
        np.put_along_axis(weights, self.withheld, self.probs["verb"][self.withheld], axis=1)
        return weights / weights.sum(1, keepdims=True)

    def admitted_pairs(self) -> np.ndarray:
        """(nouns, verbs): 1 where training combines them."""
        pairs = np.zeros((len(self.admitted), len(self.words["verb"])))
        np.put_along_axis(pairs, self.admitted, 1.0, axis=1)
        return pairs

    def appearance(self, verb: np.ndarray, noun: np.ndarray, adj: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The clip codes of events (..., 48): what follows the verb's phase, and what stays constant."""
        latent_v, latent_n = self.latents["verb"][verb], self.latents["noun"][noun]
        constant = self._project("noun", latent_n) + 0.7 * self._project("adj", self.latents["adj"][adj])
        pair = np.einsum("cij,...i,...j->...c", self.projections["pair"], latent_v, latent_n)
        return self._project("verb", latent_v), constant + 0.5 * pair

    def shared_code(self, verb: np.ndarray, noun: np.ndarray) -> np.ndarray:
        """The part of clips that is coded as word vectors are: what text and video share by birth (weight rho)."""
        both = self.latents["verb"][verb] + self.latents["noun"][noun]
        return 0.9 * 2 * self._project("word", both)

    def scene(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The constant background codes of `count` videos."""
        return self._project("scene", _unit(rng, count))

    def _project(self, name: str, latent: np.ndarray) -> np.ndarray:
        return np.einsum("cl,...l->...c", self.projections[name], latent)


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, LATENT))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_lexicon(rng: np.random.Generator, verbs: int = 20, nouns: int = 60) -> Lexicon:
    """A lexicon whose frequency ranks, synonyms, affordances and codes are drawn from `rng`."""
    sizes = {"verb": verbs, "noun": nouns, "adj": 6, "adv": 4, "prep": 4}
    words: dict[str, list[tuple[str, ...]]] = {}
    reserved: dict[str, list[str]] = {}
    for kind, size in sizes.items():
        groups = _concepts(kind)
        ranked = [groups[i] for i in rng.permutation(len(groups))[:size]]
        doubled = (rng.random(size) < 0.5) & (np.arange(size) < _TWO_WORDS[kind])
        words[kind] = [group[: 1 + two] for group, two in zip(ranked, doubled, strict=True)]
        reserved[kind] = [group[2] for group in ranked]
    probs = {kind: zipf(size, ZIPF[kind]) if kind in ZIPF else np.full(size, 1 / size) for kind, size in sizes.items()}
    projections = {
        name: rng.standard_normal((CHANNELS, LATENT)) * (WORD_SCALE if name == "word" else CODE_SCALE)
        for name in ("verb", "noun", "adj", "scene", "word")
    }
    # As strong as one projection, and no sum of two: what a composition shows beyond its parts.
    projections["pair"] = rng.standard_normal((CHANNELS, LATENT, LATENT)) * CODE_SCALE
    latents = {kind: _unit(rng, size) for kind, size in sizes.items()}
    admitted, withheld = _affordances(rng, probs["verb"], probs["noun"])
    usual, noisy = _word_vectors(rng, words, reserved, latents, projections["word"])
    return Lexicon(words, reserved, probs, admitted, withheld, latents, usual, noisy, projections)


def _affordances(
    rng: np.random.Generator, verb_probs: np.ndarray, noun_probs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Four admitted and three withheld verbs a noun, such that nouns and verbs can both keep their frequencies."""
    nouns, verbs = len(noun_probs), len(verb_probs)
    admitted, withheld = np.zeros((nouns, 4), dtype=np.int64), np.zeros((nouns, 3), dtype=np.int64)
    left, refused = verb_probs.copy(), np.zeros(verbs)
    # One noun after another, the frequent ones first: each chooses by what the earlier ones have left over.
    for noun in range(nouns):
        room = np.maximum(left, 1e-3)
        admitted[noun] = np.argsort(-np.log(room) - rng.gumbel(size=verbs))[:4]
        left[admitted[noun]] -= noun_probs[noun] * room[admitted[noun]] / room[admitted[noun]].sum()
        # Every verb is withheld equally often: a novel pair is novel as a pair, not because of its verb.
        free = np.where(np.isin(np.arange(verbs), admitted[noun]), np.inf, refused)
        withheld[noun] = np.argsort(free + rng.random(verbs))[:3]
        refused[withheld[noun]] += 1
    return admitted, withheld


def _pair_probs(admitted: np.ndarray, verb_probs: np.ndarray, noun_probs: np.ndarray) -> np.ndarray:
    """(nouns, verbs): joint frequencies of admitted pairs; nouns keep theirs, verbs as nearly as pairs allow."""
    joint = np.zeros((len(noun_probs), len(verb_probs)))
    np.put_along_axis(joint, admitted, 1.0, axis=1)
    # Iterative proportional fitting: each round rescales columns, then rows, of the result of the last.
    for _ in range(100):
        joint *= verb_probs / np.maximum(joint.sum(0), 1e-12)
        joint *= (noun_probs / joint.sum(1))[:, None]
    return joint


def _word_vectors(
    rng: np.random.Generator,
    words: Mapping[str, list[tuple[str, ...]]],
    reserved: Mapping[str, list[str]],
    latents: Mapping[str, np.ndarray],
    projection: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """2 A z + noise of the concept, which its words share, + noise of the word."""

    def noise() -> np.ndarray:
        return rng.standard_normal(CHANNELS)

    usual = {word: rounded((CONCEPT_NOISE**2 + WORD_NOISE**2) ** 0.5 * noise()) for word in FILLERS}
    noisy: dict[str, np.ndarray] = {}
    for kind, groups in words.items():
        for group, kept_back, latent in zip(groups, reserved[kind], latents[kind], strict=True):
            centre = 2 * np.einsum("cl,l->c", projection, latent) + CONCEPT_NOISE * noise()
            usual |= {word: rounded(centre + WORD_NOISE * noise()) for word in (*group, kept_back)}
            noisy[kept_back] = rounded(centre + NOISY_SYNONYM * noise())
    return usual, noisy


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with four decimals: the last bits, in which machines differ, are gone."""
    return np.round(values, 4).astype(np.float32)
