"""Text held back from training: which lines, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.hold_out import hold_out, main, split_pairs

from nmt_rela.utils.errors import UserError


@given(st.integers(0, 60), st.integers(2, 70))
def test_every_pair_is_in_one_part_and_in_order(number: int, every: int) -> None:
    pairs = [(b"%d\n" % line, b"%d.\n" % line) for line in range(1, number + 1)]
    kept, held = split_pairs(pairs, every=every)
    assert held == [pair for pair in pairs if int(pair[0]) % every == 0]
    assert sorted(kept + held, key=pairs.index) == pairs
    assert kept == sorted(kept, key=pairs.index)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.sampled_from(["\n", "\r\n", ""]))),
    st.integers(2, 9),
)
def test_disjoint_parts_share_no_sentence_and_lose_nothing_else(drawn: list[tuple[str, str, str]], every: int) -> None:
    pairs = [(f"{source}{end}".encode(), f"{target}{end}".encode()) for source, target, end in drawn]
    all_kept, held = split_pairs(pairs, every=every)
    kept, held_too = split_pairs(pairs, every=every, disjoint=True)
    sources, targets = ({pair[side].strip() for pair in held} for side in (0, 1))
    assert held_too == held
    assert kept == [pair for pair in all_kept if pair[0].strip() not in sources and pair[1].strip() not in targets]


def test_both_sides_lose_the_same_lines_plain_or_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\r\ntwo\nthree\nfour")
    with gzip.open(tmp_path / "a.de.gz", "wb") as stream:
        stream.write("eins\nzwei\ndrei\nfünf\n".encode())
    assert hold_out([tmp_path / "a.en", tmp_path / "a.de.gz"], every=3, to=tmp_path / "held") == (1, 3)
    found = {path.name: path.read_bytes().decode() for path in (tmp_path / "held").iterdir()}
    assert found == {
        "train.en": "one\r\ntwo\nfour",
        "heldout.en": "three\n",
        "train.de": "eins\nzwei\nfünf\n",
        "heldout.de": "drei\n",
    }


def test_what_is_not_parallel_is_refused_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\ntwo\n")
    (tmp_path / "a.de").write_bytes(b"eins\n")
    (tmp_path / "b.en").write_bytes(b"one\ntwo\n")
    refused = ((["a.en", "a.de"], "2, 1 lines"), (["a.en", "b.en"], "en, en"), (["a.en", "c.de"], r"c\.de"))
    for texts, message in refused:
        with pytest.raises(UserError, match=message):
            hold_out([tmp_path / text for text in texts], every=2, to=tmp_path / "held")
    whole = gzip.compress(b"un\ndeux\n")
    for damaged in (whole[:-9], whole[:10] + b"\xff" * 8 + whole[18:]):
        (tmp_path / "a.fr.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.fr\.gz"):
            hold_out([tmp_path / "a.en", tmp_path / "a.fr.gz"], every=2, to=tmp_path / "held")
    (tmp_path / "a.es").write_bytes(b"uno\nuno\n")
    with pytest.raises(UserError, match="nothing stays"):
        hold_out([tmp_path / "a.es"], every=2, to=tmp_path / "held", disjoint=True)
    with pytest.raises(UserError, match="2 lines: none of every 3"):
        hold_out([tmp_path / "a.en"], every=3, to=tmp_path / "held")
    assert not (tmp_path / "held").exists()


@pytest.mark.parametrize("present", ["train.en", "heldout.de"])
def test_no_file_is_replaced(tmp_path: Path, present: str) -> None:
    for name in ("a.en", "a.de", present):
        (tmp_path / name).write_bytes(b"one\ntwo\n")
    with pytest.raises(UserError, match=rf"{present}: exists"):
        hold_out([tmp_path / "a.en", tmp_path / "a.de"], every=2, to=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"a.en", "a.de", present})
    assert (tmp_path / present).read_bytes() == b"one\ntwo\n"


def test_the_command_says_how_many_pairs_each_part_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.en").write_bytes(b"one\ntwo\none\nfour\ntwo\n")
    for options, expected in (
        (["--every", "2"], "2 pairs held out, 3 stay"),
        (["--every", "2", "--disjoint"], "2 pairs held out, 2 stay"),
    ):
        to = tmp_path / str(len(options))
        monkeypatch.setattr("sys.argv", ["hold_out", str(tmp_path / "a.en"), *options, "--to", str(to)])
        assert main() == 0
        assert expected in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["hold_out", str(tmp_path / "a.en"), "--every", "1", "--to", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match="2"):
        main()
