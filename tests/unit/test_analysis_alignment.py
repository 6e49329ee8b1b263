"""Links and error rates from hand-made cross-attention."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.analysis.alignment import AVERAGE, AlignmentConsumer
from nmt_rela.analysis.teacher_forcing import EncodedPair, TeacherForcedBatch
from nmt_rela.metrics.word_alignment import AlignmentCounts, GoldAlignment, parse_pharaoh, words_of_subwords

# Two words on either side, the second in two sub-words; EOS last.
SOURCE, TARGET = ("▁the", "▁hou", "se", "</s>"), ("▁das", "▁Ha", "us", "</s>")
GOLD = [parse_pharaoh("0-0 1-1"), parse_pharaoh("0-0 1p1")]


def batch_of(pairs: int) -> TeacherForcedBatch:
    members = [EncodedPair(index, (4, 5, 6, 2), (4, 5, 6, 2)) for index in range(pairs)]
    return TeacherForcedBatch(members, torch.full((pairs, 4), 4), torch.full((pairs, 4), 4))


def listen(weights: torch.Tensor, gold: list[GoldAlignment] | None, *, known: int = 2) -> AlignmentConsumer:
    words = {index: (words_of_subwords(SOURCE), words_of_subwords(TARGET)) for index in range(known)}
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


def test_the_average_is_taken_over_matrices_not_over_error_rates() -> None:
    weights = torch.zeros(1, 2, 4, 4)
    weights[0, 0, :, 0] = 1.0  # everything to the first word
    weights[0, 1] = 1.5 * torch.eye(4)
    consumer = listen(weights, GOLD[:1])
    assert consumer.pharaoh(1)[0, 0, "normal"] == ["0-0 0-1"]
    assert consumer.pharaoh(1)[0, AVERAGE, "normal"] == ["0-0 1-1"]


def test_scores_equal_set_arithmetic_on_the_links() -> None:
    generator = torch.Generator().manual_seed(3)
    consumer = listen(torch.rand(2, 3, 4, 4, generator=generator), GOLD)
    lines = consumer.pharaoh(2)
    for found in consumer.scores():
        for head, counts in [(AVERAGE, found.average), *enumerate(found.heads)]:
            links = [parse_pharaoh(line).sure for line in lines[0, head, found.mode]]
            in_sure = sum(len(a & gold.sure) for a, gold in zip(links, GOLD, strict=True))
            in_possible = sum(len(a & gold.possible) for a, gold in zip(links, GOLD, strict=True))
            num_links, num_sure = sum(map(len, links)), 3
            assert counts.error_rate == pytest.approx(1 - (in_sure + in_possible) / (num_links + num_sure))
            assert (counts.precision, counts.recall) == (in_possible / num_links, in_sure / num_sure)


def test_without_gold_only_head_averages_are_aligned() -> None:
    consumer = listen(heads(), None)
    assert consumer.scores() == []
    assert set(consumer.pharaoh(2)) == {(0, AVERAGE, "normal"), (0, AVERAGE, "shifted")}


def test_a_link_of_characters_links_all_that_a_subword_has() -> None:
    words = words_of_subwords(("▁the", "▁house", "</s>")), words_of_subwords(("▁这", "房子", "</s>"), spaced=False)
    consumer = AlignmentConsumer({0: words}, [parse_pharaoh("0-0 1-1 1-2")])
    pair = TeacherForcedBatch([EncodedPair(0, (4, 5, 2), (6, 7, 2))], *[torch.full((1, 3), 4)] * 2)
    consumer(pair, "cross", 0, torch.eye(3)[None, None])
    assert consumer.pharaoh(1)[0, 0, "normal"] == ["0-0 1-1 1-2"]
    assert consumer.scores()[0].best.error_rate == 0


def test_a_pair_without_words_has_an_empty_line() -> None:
    consumer = listen(heads(), GOLD, known=1)
    assert consumer.pharaoh(2)[0, 0, "normal"] == ["0-0 1-1", ""]
    assert consumer.scores()[0].heads[0].sure == 2


def test_without_links_the_error_rate_is_one() -> None:
    assert AlignmentCounts().error_rate == 1.0
