"""The table of contents: every method that works, importable without torch."""

from dataclasses import dataclass

from ommatid.errors import unknown

FIELDS = {
    "dense": "image or 360-degree video -> mask, classes, normals or saliency",
    "grounding": "clip features + sentence -> scored moments",
    "recognition": "image or clip -> label, labels or embedding",
    "transfer": "a trained model, or few or no labels -> a classifier",
}
PREPRINT = "preprint"


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        target: "module:Class" of the method.
        embedded: name of the data set that it learns on without a download.
        summary: the idea in one line.
        baseline: a rival to compare with, whose paper's claims are not re-tested.
    """

    name: str
    title: str
    field: str
    target: str
    embedded: str
    summary: str
    arxiv: str
    authors: str
    venue: str
    year: int
    baseline: bool = False

    @property
    def class_name(self) -> str:
        return self.target.partition(":")[2]

    @property
    def paper(self) -> str:
        return f"arXiv:{self.arxiv}"

    def bibtex(self) -> str:
        """How to cite the paper."""
        kind, where = (
            ("misc", "") if self.venue == PREPRINT else ("inproceedings", f"  booktitle = {{{self.venue}}},\n")
        )
        return (
            f"@{kind}{{{self.name.replace('-', '')}{self.year},\n  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n{where}  year = {{{self.year}}},\n"
            f"  eprint = {{{self.arxiv}}},\n  archivePrefix = {{arXiv}}\n}}"
        )


CATALOGUE = (
    Entry(
        name="2d-tan",
        title="Learning 2D Temporal Adjacent Networks for Moment Localization with Natural Language",
        field="grounding",
        target="ommatid.grounding.tan:TAN2D",
        embedded="world-grounding",
        summary="Score all candidate moments on a map of starts and ends, where neighbours see each other.",
        arxiv="1912.03590",
        authors="Zhang, S. and Peng, H. and Fu, J. and Luo, J.",
        venue="AAAI",
        year=2020,
        baseline=True,
    ),
    Entry(
        name="cmi",
        title="Contrastive Model Inversion for Data-Free Knowledge Distillation",
        field="transfer",
        target="ommatid.transfer.cmi:CMI",
        embedded="digits",
        summary="Recover diverse training-like images from a trained network and distil a student on them, data-free.",
        arxiv="2105.08584",
        authors="Fang, G. and Song, J. and Wang, X. and Shen, C. and Wang, X. and Song, M.",
        venue="IJCAI",
        year=2021,
    ),
    Entry(
        name="cosoc",
        title="Rectifying the Shortcut Learning of Background for Few-Shot Learning",
        field="transfer",
        target="ommatid.transfer.cosoc:COSOC",
        embedded="world-glyphs",
        summary="Tell new classes apart by one picture or five of each: objects are found, backgrounds cannot mislead.",
        arxiv="2107.07746",
        authors="Luo, X. and Wei, L. and Wen, L. and Yang, J. and Xie, L. and Xu, Z. and Tian, Q.",
        venue="NeurIPS",
        year=2021,
    ),
    Entry(
        name="dcin-tel",
        title="Dilated Context Integrated Network with Cross-Modal Consensus for Temporal Emotion Localization in "
        "Videos",
        field="grounding",
        target="ommatid.grounding.dcin_tel:DCINTEL",
        embedded="world-grounding",
        summary="Find when which emotion occurs in a subtitled clip, learning from labels of whole clips.",
        arxiv="2208.01954",
        authors="Li, J. and Xie, J. and Zhu, L. and Qian, L. and Tang, S. and Zhang, W. and Shi, H. and Zhang, S. and "
        "Wei, L. and Tian, Q. and Zhuang, Y.",
        venue="ACM Multimedia",
        year=2022,
    ),
    Entry(
        name="deepstationing",
        title="DeepStationing: Thoracic Lymph Node Station Parsing in CT Scans using Anatomical Context Encoding and "
        "Key Organ Auto-Search",
        field="dense",
        target="ommatid.dense.deep_stationing:DeepStationing",
        embedded="world-phantoms",
        summary="Parse regions of a volume that only the organs around them define, and search which organs matter.",
        arxiv="2109.09271",
        authors="Guo, D. and Ye, X. and Ge, J. and Di, X. and Lu, L. and Huang, L. and Xie, G. and Xiao, J. and Lu, Z. "
        "and Peng, L. and Yan, S. and Jin, D.",
        venue="MICCAI",
        year=2021,
    ),
    Entry(
        name="dscnet",
        title="Unsupervised Temporal Video Grounding with Deep Semantic Clustering",
        field="grounding",
        target="ommatid.grounding.dscnet:DSCNet",
        embedded="world-grounding",
        summary="Learn to ground from a pile of videos and a pile of sentences; clusters of sentences guide attention.",
        arxiv="2201.05307",
        authors="Liu, D. and Qu, X. and Wang, Y. and Di, X. and Zou, K. and Cheng, Y. and Xu, Z. and Zhou, P.",
        venue="AAAI",
        year=2022,
    ),
    Entry(
        name="ecrl",
        title="Transform-Equivariant Consistency Learning for Temporal Sentence Grounding",
        field="grounding",
        target="ommatid.grounding.ecrl:ECRL",
        embedded="world-grounding",
        summary="Change videos so that their moments move in a known way, and ask predictions to move with them.",
        arxiv="2305.04123",
        authors="Liu, D. and Qu, X. and Dong, J. and Zhou, P. and Xu, Z. and Wang, H. and Di, X. and Lu, W. and "
        "Cheng, Y.",
        venue="ICMR",
        year=2023,
    ),
    Entry(
        name="evs-net",
        title="Edge-competing Pathological Liver Vessel Segmentation with Limited Labels",
        field="dense",
        target="ommatid.dense.evs_net:EVSNet",
        embedded="world-tissue",
        summary="Find vessels in tissue from ten labelled patches: two critics compete for where their edge lies.",
        arxiv="2108.00384",
        authors="Feng, Z. and Wang, Z. and Wang, X. and Zhang, X. and Cheng, L. and Lei, J. and Wang, Y. and Song, M.",
        venue="AAAI",
        year=2021,
    ),
    Entry(
        name="kdexplainer",
        title="KDExplainer: A Task-oriented Attention Model for Explaining Knowledge Distillation",
        field="transfer",
        target="ommatid.transfer.kdexplainer:KDExplainer",
        embedded="fashion-mnist",
        summary="See what a teacher's soft targets change: a student of experts in which every class chooses its way.",
        arxiv="2105.04181",
        authors="Xue, M. and Song, J. and Wang, X. and Chen, Y. and Wang, X. and Song, M.",
        venue="IJCAI",
        year=2021,
    ),
    Entry(
        name="lgi",
        title="Local-Global Video-Text Interactions for Temporal Grounding",
        field="grounding",
        target="ommatid.grounding.lgi:LGI",
        embedded="world-grounding",
        summary="Read a sentence as phrases, let each meet the video nearby and as a whole, regress one moment.",
        arxiv="2004.07514",
        authors="Mun, J. and Cho, M. and Han, B.",
        venue="CVPR",
        year=2020,
        baseline=True,
    ),
    Entry(
        name="mgsl-net",
        title="Memory-Guided Semantic Learning Network for Temporal Sentence Grounding",
        field="grounding",
        target="ommatid.grounding.mgsl_net:MGSLNet",
        embedded="world-grounding",
        summary="Find a sentence's moment in a video; slot memories keep rarely seen words from being forgotten.",
        arxiv="2201.00454",
        authors="Liu, D. and Qu, X. and Di, X. and Cheng, Y. and Xu, Z. and Zhou, P.",
        venue="AAAI",
        year=2022,
    ),
    Entry(
        name="mhst",
        title="Hypotheses Tree Building for One-Shot Temporal Sentence Localization",
        field="grounding",
        target="ommatid.grounding.mhst:MHST",
        embedded="world-grounding",
        summary="Learn from one glance a sentence to find its moment among the segments of a tree over the video.",
        arxiv="2301.01871",
        authors="Liu, D. and Fang, X. and Zhou, P. and Di, X. and Lu, W. and Cheng, Y.",
        venue="AAAI",
        year=2023,
    ),
    Entry(
        name="mvfnet",
        title="MVFNet: Multi-View Fusion Network for Efficient Video Recognition",
        field="recognition",
        target="ommatid.recognition.mvfnet:MVFNet",
        embedded="world-motion",
        summary="Name what happens in a clip: a 2D network filtered along time, height and width, too.",
        arxiv="2012.06977",
        authors="Wu, W. and He, D. and Lin, T. and Li, F. and Gan, C. and Ding, E.",
        venue="AAAI",
        year=2021,
    ),
    Entry(
        name="nddr-cnn",
        title="NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative Dimensionality Reduction",
        field="dense",
        target="ommatid.dense.nddr_cnn:NDDRCNN",
        embedded="world-surfaces",
        summary="Classes and normals of one image: two networks learn, by channel, what to take of each other.",
        arxiv="1801.08297",
        authors="Gao, Y. and Ma, J. and Zhao, M. and Liu, W. and Yuille, A. L.",
        venue="CVPR",
        year=2019,
    ),
    Entry(
        name="order-free-rnn",
        title="Order-Free RNN with Visual Attention for Multi-Label Classification",
        field="recognition",
        target="ommatid.recognition.order_free_rnn:OrderFreeRNN",
        embedded="world-labels",
        summary="Name all that an image shows, one label after another, in an order that the network chooses itself.",
        arxiv="1707.05495",
        authors="Chen, S.-F. and Chen, Y.-C. and Yeh, C.-K. and Wang, Y.-C. F.",
        venue="AAAI",
        year=2018,
    ),
    Entry(
        name="paver",
        title="Panoramic Vision Transformer for Saliency Detection in 360-Degree Videos",
        field="dense",
        target="ommatid.dense.paver:PAVER",
        embedded="world-sphere",
        summary="See where people would look in videos shot all around, without labels: flat weights on a sphere.",
        arxiv="2209.08956",
        authors="Yun, H. and Lee, S. and Kim, G.",
        venue="ECCV",
        year=2022,
    ),
    Entry(
        name="ref-net",
        title="Boundary Knowledge Translation based Reference Semantic Segmentation",
        field="dense",
        target="ommatid.dense.ref_net:RefNet",
        embedded="world-duos",
        summary="Show one outlined object and find its kind in other pictures; boundaries are learnt elsewhere.",
        arxiv="2108.01075",
        authors="Cheng, L. and Feng, Z. and Wang, X. and Liu, Y. and Lei, J. and Song, M.",
        venue="IJCAI",
        year=2021,
    ),
    Entry(
        name="sa-gan",
        title="Structure-Aware Feature Generation for Zero-Shot Learning",
        field="transfer",
        target="ommatid.transfer.sa_gan:SAGAN",
        embedded="world-attributes",
        summary="Recognise classes known by a description only: make up their samples where distances are kept.",
        arxiv="2108.07032",
        authors="Zhang, L. and Huang, S. and Wang, X. and Liu, W. and Tao, D.",
        venue=PREPRINT,
        year=2021,
    ),
    Entry(
        name="scan-cnn",
        title="SCAN-CNN: Scale Attention for Learning Deep Face Representation: A Study Against Visual Scale Variation",
        field="recognition",
        target="ommatid.recognition.scan_cnn:ScanCNN",
        embedded="world-faces",
        summary="Recognise faces at any scale in one pass: every kernel learns its own scale, and none costs more.",
        arxiv="2209.08788",
        authors="Shi, H. and Du, H. and Hu, Y. and Wang, J. and Zeng, D. and Yao, T.",
        venue=PREPRINT,
        year=2022,
    ),
    Entry(
        name="ssrn",
        title="Rethinking the Video Sampling and Reasoning Strategies for Temporal Sentence Grounding",
        field="grounding",
        target="ommatid.grounding.ssrn:SSRN",
        embedded="world-grounding",
        summary="Find a moment that begins and ends between the sampled frames, by siamese frames and soft boundaries.",
        arxiv="2301.00514",
        authors="Zhu, J. and Liu, D. and Zhou, P. and Di, X. and Cheng, Y. and Yang, S. and Xu, W. and Xu, Z. and "
        "Wan, Y. and Sun, L. and Xiong, Z.",
        venue="Findings of EMNLP",
        year=2022,
    ),
    Entry(
        name="trans-net",
        title="Visual Boundary Knowledge Translation for Foreground Segmentation",
        field="dense",
        target="ommatid.dense.trans_net:TransNet",
        embedded="world-cutouts",
        summary="Cut out a new kind of object from ten labels, judged by critics that know other objects' boundaries.",
        arxiv="2108.00379",
        authors="Feng, Z. and Cheng, L. and Wang, X. and Wang, X. and Liu, Y. and Du, X. and Song, M.",
        venue="AAAI",
        year=2021,
    ),
    Entry(
        name="vam",
        title="KDExplainer: A Task-oriented Attention Model for Explaining Knowledge Distillation",
        field="transfer",
        target="ommatid.transfer.vam:VAM",
        embedded="fashion-mnist",
        summary="Learn more from a teacher: blocks of a convolution's filters choose what they read, for free in use.",
        arxiv="2105.04181",
        authors="Xue, M. and Song, J. and Wang, X. and Chen, Y. and Wang, X. and Song, M.",
        venue="IJCAI",
        year=2021,
    ),
    Entry(
        name="viga",
        title="Video Moment Retrieval from Text Queries via Single Frame Annotation",
        field="grounding",
        target="ommatid.grounding.viga:ViGA",
        embedded="world-grounding",
        summary="Learn from one glance a sentence, by a Gaussian around it and windows around the attention's peak.",
        arxiv="2204.09409",
        authors="Cui, R. and Qian, T. and Peng, P. and Daskalaki, E. and Chen, J. and Guo, X. and Sun, H. and "
        "Jiang, Y.",
        venue="SIGIR",
        year=2022,
        baseline=True,
    ),
    Entry(
        name="visa",
        title="Compositional Temporal Grounding with Structured Variational Cross-Graph Correspondence Learning",
        field="grounding",
        target="ommatid.grounding.visa:VISA",
        embedded="world-grounding",
        summary="Ground known words in new combinations: a graph of the sentence is matched with a graph of the video.",
        arxiv="2203.13049",
        authors="Li, J. and Xie, J. and Qian, L. and Zhu, L. and Tang, S. and Wu, F. and Yang, Y. and Zhuang, Y. and "
        "Wang, X.",
        venue="CVPR",
        year=2022,
    ),
    Entry(
        name="visformer",
        title="Visformer: The Vision-friendly Transformer",
        field="recognition",
        target="ommatid.recognition.visformer:VisformerClassifier",
        embedded="world-shapes",
        summary="Classify images by a transformer of stages that begins with convolutions and learns from few images.",
        arxiv="2104.12533",
        authors="Chen, Z. and Xie, L. and Niu, J. and Liu, X. and Wei, L. and Tian, Q.",
        venue="ICCV",
        year=2021,
    ),
    Entry(
        name="vslnet",
        title="Span-based Localizing Network for Natural Language Video Localization",
        field="grounding",
        target="ommatid.grounding.vslnet:VSLNet",
        embedded="world-grounding",
        summary="Read a video like a passage of text and point at the first and the last step of the moment.",
        arxiv="2004.13931",
        authors="Zhang, H. and Sun, A. and Jing, W. and Zhou, J. T.",
        venue="ACL",
        year=2020,
        baseline=True,
    ),
)


def names(field: str | None = None) -> list[str]:
    """Names of all methods, or of one field's.

    Examples:
        >>> "mgsl-net" in names("grounding")
        True
    """
    return [entry.name for entry in CATALOGUE if field in (None, entry.field)]


def find(name: str) -> Entry:
    """The entry of a method by its name.

    Raises:
        InputError: no such method; the message names the nearest.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise unknown("method", name, names())


def find_class(class_name: str) -> Entry | None:
    """The entry whose class has this name."""
    return next((entry for entry in CATALOGUE if entry.class_name == class_name), None)
