"""Compare a run with its CTranslate2 export, line by line: beam search without a length penalty, on the CPU.

Where translations differ, their log-probabilities show which search found the better one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.export.ctranslate2 import export_ctranslate2
from nmt_rela.generation.translator import Translator
from nmt_rela.utils.text import read_lines

#: Maximum output length of CTranslate2; ours is source length + max_length_offset.
LONGEST = 256


def compare(run: Path, lines: list[str], *, beam_size: int, early_stopping: bool) -> dict[str, Any]:
    """The number of equal translations, and every difference with the log-probability of both."""
    import ctranslate2

    ours = Translator.load(run, device="cpu")
    translations = ours.translate(lines, beam_size=beam_size, length_penalty=0.0, early_stopping=early_stopping)
    source = ours.tokenizers.source
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        export_ctranslate2(RunDirectory(run), model)
        theirs = ctranslate2.Translator(str(model), device="cpu", intra_threads=1).translate_batch(
            [source.convert_ids_to_pieces(ids) for ids in source.encode(lines)],
            beam_size=beam_size, length_penalty=0.0, max_decoding_length=LONGEST, max_batch_size=64,
            disable_unk=True, suppress_sequences=[["<pad>"], ["<s>"]],
            return_scores=True,
        )  # fmt: skip
    target = ours.tokenizers.target
    ids = {piece: i for i, piece in enumerate(target.convert_ids_to_pieces(range(target.size)))}
    texts = target.decode([[ids[piece] for piece in result.hypotheses[0]] for result in theirs])
    other = [i for i, translation in enumerate(translations) if translation.text != texts[i]]
    differences = [
        {
            "line": i + 1,
            "ours": translations[i].text, "log_probability": translations[i].hypotheses[0].log_probability,
            "theirs": texts[i], "their_log_probability": theirs[i].scores[0],
        }
        for i in other
    ]  # fmt: skip
    return {
        "lines": len(lines),
        "identical": len(lines) - len(other),
        "ours_better": sum(d["log_probability"] > d["their_log_probability"] for d in differences),
        "differences": differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, metavar="RUN", help="a run with softmax attention")
    parser.add_argument("--source", required=True, type=Path, metavar="FILE", help="text to translate")
    parser.add_argument("--lines", type=int, default=1000, metavar="N", help="its first N lines (default: 1000)")
    parser.add_argument("--beam-size", type=int, default=4, metavar="N")
    parser.add_argument("--early-stopping", action="store_true", help="early stopping in our search")
    options = parser.parse_args()
    lines = list(itertools.islice(read_lines(options.source), options.lines))
    print(
        json.dumps(
            compare(options.model, lines, beam_size=options.beam_size, early_stopping=options.early_stopping),
            indent=1,
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
