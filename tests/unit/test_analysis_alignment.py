"""Links and error rates from hand-made cross-attention."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.analysis.alignment import AVERAGE, AlignmentConsumer
from nmt_rela.analysis.teacher_forcing import EncodedPair, TeacherForcedBatch
from nmt_rela.metrics.word_alignment import AlignmentCounts, GoldAlignment, parse_pharaoh, score_alignments, word_ids

# Two words on either side, the second in two sub-words; EOS last.
SOURCE, TARGET = ("▁the", "▁hou", "se", "</s>"), ("▁das", "▁Ha", "us", "</s>")
GOLD = [parse_pharaoh("0-0 1-1"), parse_pharaoh("0-0 1p1")]


def batch_of(pairs: int) -> TeacherForcedBatch:
    members = [EncodedPair(index, (4, 5, 6, 2), (4, 5, 6, 2)) for index in range(pairs)]
    return TeacherForcedBatch(members, torch.full((pairs, 4), 4), torch.full((pairs, 4), 4))


def listen(weights: torch.Tensor, gold: list[GoldAlignment] | None, *, known: int = 2) -> AlignmentConsumer:
    words = {index: (word_ids(SOURCE), word_ids(TARGET)) for index in range(known)}
    consumer = AlignmentConsumer(words, gold)
    consumer(batch_of(len(weights)), "cross", 0, weights)
    consumer(batch_of(len(weights)), "encoder", 0, weights)
    return consumer


def heads() -> torch.Tensor:
    """Head 0 predicts along the diagonal, head 1 reads along it (a row later), head 2 is null."""
    diagonal = torch.eye(4)
    return torch.stack([diagonal, diagonal.roll(1, 0), torch.zeros(4, 4)]).expand(2, 3, 4, 4)


def test_normal_and_shifted_find_the_head_that_predicts_and_the_head_that_reads() -> None:
    scores = {found.mode: found for found in listen(heads(), GOLD).scores()}
    assert set(scores) == {"normal", "shifted"}
    assert (scores["normal"].best_head, scores["normal"].best.error_rate) == (0, 0.0)
    assert (scores["shifted"].best_head, scores["shifted"].best.error_rate) == (1, 0.0)
    null = scores["normal"].heads[2]
    assert (null.links, null.error_rate, null.precision, null.recall) == (0, 1.0, 0.0, 0.0)


def test_the_average_is_of_the_matrices_not_of_the_rates() -> None:
    weights = torch.zeros(1, 2, 4, 4)
    weights[0, 0, :, 0] = 1.0  # everything to the first word
    weights[0, 1] = 1.5 * torch.eye(4)
    consumer = listen(weights, GOLD[:1])
    assert consumer.pharaoh(1)[0, 0, "normal"] == ["0-0 0-1"]
    assert consumer.pharaoh(1)[0, AVERAGE, "normal"] == ["0-0 1-1"]


def test_counts_agree_with_the_corpus_measure() -> None:
    generator = torch.Generator().manual_seed(3)
    consumer = listen(torch.rand(2, 3, 4, 4, generator=generator), GOLD)
    lines = consumer.pharaoh(2)
    for found in consumer.scores():
        for head, counts in [(AVERAGE, found.average), *enumerate(found.heads)]:
            expected = score_alignments([parse_pharaoh(line).sure for line in lines[0, head, found.mode]], GOLD)
            assert counts.error_rate == pytest.approx(expected.error_rate)
            assert (counts.precision, counts.recall) == (expected.precision, expected.recall)


def test_without_gold_only_averages_are_kept() -> None:
    consumer = listen(heads(), None)
    assert consumer.scores() == []
    assert set(consumer.pharaoh(2)) == {(0, AVERAGE, "normal"), (0, AVERAGE, "shifted")}


def test_a_pair_whose_words_are_unknown_has_an_empty_line() -> None:
    consumer = listen(heads(), GOLD, known=1)
    assert consumer.pharaoh(2)[0, 0, "normal"] == ["0-0 1-1", ""]
    assert consumer.scores()[0].heads[0].sure == 2


def test_nothing_on_either_side_is_an_error_rate_of_one() -> None:
    assert AlignmentCounts().error_rate == 1.0
