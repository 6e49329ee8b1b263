"""Analysing ten thousand sentences takes little more memory than the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import random, resource, sys
from pathlib import Path
import torch
from small_run import ENGLISH, GERMAN, write_run
from nmt_rela.metrics.word_alignment import GoldAlignment
from nmt_rela.analysis.data import AnalysisData
from nmt_rela.analysis.pipeline import analyze_run
from nmt_rela.models.transformer import Transformer

torch.set_num_threads(1)
tokenizers = write_run(Path(sys.argv[1])).load_tokenizers()
size = tokenizers.source.size, tokenizers.target.size
model = Transformer(*size, d_model=64, ffn_dim=64).eval()  # six layers of eight heads, as in the paper
draw = random.Random(1)
lengths = [min(max(int(draw.lognormvariate(1.8, 0.55)), 2), 110) for _ in range(9_990)] + [110] * 10
lines = [(" ".join(draw.choices(ENGLISH, k=n)), " ".join(draw.choices(GERMAN, k=n))) for n in lengths]
links = [frozenset((i, i) for i in range(n)) for n in lengths]
data = AnalysisData(name="text", lines=lines, gold=[GoldAlignment(sure=found, possible=found) for found in links])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
analyze_run(model, tokenizers, data, name="run")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
def test_ten_thousand_sentences_need_less_than_a_gibibyte_and_a_half(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5  # GiB; ru_maxrss is in KiB on Linux
