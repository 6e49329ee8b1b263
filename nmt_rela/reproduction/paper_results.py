"""The results of the paper's authors, as far as they are public.

Zhang, Titov and Sennrich, "Sparse Attention with Linear Units" (EMNLP 2021), the README of the released code, and its
figure of alignment error rates. Results that are not here were not found there.
"""

from __future__ import annotations

#: sacreBLEU by task and variant. WMT14 English-German is in the paper and not in the README.
BLEU: dict[str, dict[str, float]] = {
    "wmt14-en-fr": {"softmax": 37.2, "sparsemax": 37.3, "entmax15": 37.9, "rela-g": 37.9},
    "wmt18-en-fi": {"softmax": 15.5, "sparsemax": 15.1, "entmax15": 15.5, "rela-g": 15.4},
    "wmt18-zh-en": {"softmax": 21.1, "sparsemax": 19.2, "entmax15": 20.8, "rela-g": 20.8},
    "wmt16-ro-en": {"softmax": 32.7, "sparsemax": 33.5, "entmax15": 33.2, "rela-g": 32.9},
}

#: Training and decoding speed relative to softmax (TensorFlow 1.13; machine and batch not stated).
TRAINING_SPEED = {"softmax": 1.00, "sparsemax": 0.26, "entmax15": 0.27, "rela-g": 0.93}
DECODING_SPEED = {"softmax": 1.00, "sparsemax": 0.54, "entmax15": 0.49, "rela-g": 0.98}

#: Task of the alignment figure, which has six decoder layers.
AER_TASK = "wmt14-en-de"
#: Alignment error rate of the cross-attention by (mode, head) and variant, one number per layer, read off the figure:
#: within 0.005 for rela-g, within 0.02 for markers that lie under others.
AER: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("normal", "best"): {
        "softmax": (0.90, 0.855, 0.685, 0.555, 0.458, 0.60),
        "sparsemax": (0.935, 0.862, 0.750, 0.575, 0.466, 0.497),
        "entmax15": (0.925, 0.794, 0.71, 0.565, 0.488, 0.577),
        "rela-g": (0.866, 0.740, 0.707, 0.565, 0.410, 0.412),
    },
    ("normal", "average"): {
        "softmax": (0.945, 0.92, 0.88, 0.659, 0.48, 0.668),
        "sparsemax": (0.948, 0.946, 0.926, 0.765, 0.458, 0.665),
        "entmax15": (0.948, 0.915, 0.896, 0.743, 0.497, 0.729),
        "rela-g": (0.881, 0.786, 0.775, 0.591, 0.390, 0.443),
    },
    ("shifted", "best"): {
        "softmax": (0.41, 0.34, 0.325, 0.43, 0.868, 0.886),
        "sparsemax": (0.56, 0.33, 0.335, 0.366, 0.84, 0.87),
        "entmax15": (0.555, 0.369, 0.380, 0.481, 0.86, 0.892),
        "rela-g": (0.386, 0.311, 0.318, 0.426, 0.835, 0.869),
    },
    ("shifted", "average"): {
        "softmax": (0.811, 0.797, 0.468, 0.85, 0.92, 0.92),
        "sparsemax": (0.925, 0.908, 0.735, 0.552, 0.91, 0.925),
        "entmax15": (0.857, 0.762, 0.559, 0.768, 0.915, 0.93),
        "rela-g": (0.384, 0.384, 0.368, 0.671, 0.872, 0.875),
    },
}
