"""Sub-word regularization: a corpus with other segmentations of the same sentences, drawn anew for each epoch.

A unigram model draws a segmentation from its distribution (Kudo 2018, arXiv:1804.10959), a bpe model leaves out merges
at random (BPE-dropout: Provilkov et al. 2020, arXiv:1910.13267). SentencePiece does both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nmt_rela.data.indexed_dataset import ParallelDataset, TokenSequences, flatten, write_dataset
from nmt_rela.data.tokenizer import UNK, SentencePieceTokenizer, TokenizerPair
from nmt_rela.utils.errors import ConfigError

#: Pairs that are segmented with one seed. Part of the definition of an epoch's segmentations.
_BLOCK = 1024


def resample(
    tokenizer: SentencePieceTokenizer, ids: list[list[int]], *, alpha: float, seed: int, max_length: int
) -> list[list[int]]:
    """Other segmentations of the same sentences, without EOS. The same arguments give the same result.

    A sentence keeps its ids where its text would not be read back as it is (unknown characters, truncation), where a
    tag would be split, and where the new ones, EOS included, would be more than ``max_length``.

    Args:
        alpha: bpe: the probability that a merge is left out. unigram: the exponent of the probabilities; segmentations
            differ the more the smaller it is.
    """
    lines = tokenizer.decode(ids)
    tags = frozenset(tokenizer.tags.values())

    def is_accepted(old: list[int], same: list[int], new: list[int]) -> bool:
        unchanged = same == old and UNK not in old and tags.intersection(old) == tags.intersection(new)
        return unchanged and len(new) < max_length

    return [
        new if is_accepted(old, same, new) else old
        for old, same, new in zip(
            ids, tokenizer.encode(lines), tokenizer.sample(lines, alpha=alpha, seed=seed), strict=True
        )
    ]


def write_resampled_dataset(
    dataset: ParallelDataset,
    tokenizers: TokenizerPair,
    directory: Path,
    *,
    alphas: tuple[float, float],
    max_length: int,
    seed: int,
    epoch: int,
) -> None:
    """Write the dataset of an epoch: the same pairs, segmented anew.

    It is a function of the dataset and the arguments. A side whose alpha (source, target) is 0 stays as it is.

    Raises ConfigError where this version of SentencePiece cannot draw the same segmentations again.
    """

    def segmented(
        block: int, side: int, tokenizer: SentencePieceTokenizer, sentences: TokenSequences
    ) -> list[list[int]]:
        first = block * _BLOCK
        ids = [sentences[index][:-1].tolist() for index in range(first, min(first + _BLOCK, len(dataset)))]
        if not alphas[side]:
            return ids
        number = int(np.random.SeedSequence([seed, epoch, block, side]).generate_state(1, np.uint32)[0])
        return resample(tokenizer, ids, alpha=alphas[side], seed=number, max_length=max_length)

    sides = (tokenizers.source, dataset.sources), (tokenizers.target, dataset.targets)
    with write_dataset(
        directory,
        source_vocabulary_size=tokenizers.source.size,
        target_vocabulary_size=tokenizers.target.size,
        vocabulary_fingerprint=tokenizers.fingerprint,
    ) as writer:
        for block in range(-(-len(dataset) // _BLOCK)):
            source, target = (segmented(block, side, *sides[side]) for side in (0, 1))
            if block == 0 and (source, target) != tuple(segmented(0, side, *sides[side]) for side in (0, 1)):
                raise ConfigError(
                    "data.subword_regularization: this version of SentencePiece cannot repeat what it draws, so a run "
                    "could not be continued; accepted: 0, or sentencepiece 0.2.0 or newer"
                )
            writer.append(*flatten(source), *flatten(target))
