"""Whatever is written is read back, in whatever pieces it was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from id_sequences import append

from nmt_rela.data.indexed_dataset import ParallelDataset, write_dataset
from nmt_rela.data.tokenizer import EOS, PAD

SIZE = 70_000
SENTENCES = st.lists(st.integers(4, SIZE - 1), max_size=8)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), max_size=12)


@given(pieces=st.lists(PAIRS, max_size=4), data=st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read(pieces: list[list[tuple[list[int], list[int]]]], data: st.DataObject) -> None:
    pairs = [pair for piece in pieces for pair in piece]
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "corpus"
        with write_dataset(
            directory, source_vocabulary_size=SIZE, target_vocabulary_size=SIZE, vocabulary_fingerprint="f"
        ) as writer:
            for piece in pieces:
                append(writer, [source for source, _ in piece], [target for _, target in piece])
        corpus = ParallelDataset(directory)
        assert [(corpus.sources[i].tolist(), corpus.targets[i].tolist()) for i in range(len(corpus))] == [
            ([*source, EOS], [*target, EOS]) for source, target in pairs
        ]
        assert corpus.source_lengths.tolist() == [len(source) + 1 for source, _ in pairs]
        assert corpus.target_lengths.tolist() == [len(target) + 1 for _, target in pairs]

        chosen = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=6)) if pairs else []
        for side, sentences in enumerate((corpus.sources, corpus.targets)):
            rows = sentences.pad(np.array(chosen, dtype=np.int32))
            expected = [[*pairs[index][side], EOS] for index in chosen]
            longest = max(map(len, expected), default=1)
            assert rows.shape == (len(chosen), longest)
            assert rows.tolist() == [row + [PAD] * (longest - len(row)) for row in expected]
