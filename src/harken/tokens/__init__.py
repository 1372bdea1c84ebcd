"""Audio tokens: frames of a spectrogram named after the nearest of k typical ones."""

from harken.tokens.frame_filters import draw_filters, shape_frames
from harken.tokens.frame_sample import FrameSample
from harken.tokens.kmeans import Clusters, fit_clusters
from harken.tokens.nearest import nearest
from harken.tokens.vocabulary import Vocabulary, read_vocabulary

__all__ = [
    "Clusters",
    "FrameSample",
    "Vocabulary",
    "draw_filters",
    "fit_clusters",
    "nearest",
    "read_vocabulary",
    "shape_frames",
]
