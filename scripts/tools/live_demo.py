#!/usr/bin/env python3
"""Write docs/live-demo.html again: the models and data that it holds, in the page and with the engine of the package.

To put other models in it, train `configs/demo.yaml` with `model.attention=softmax run_dir=runs/softmax` and with
`run_dir=runs/rela-g`, then `nmt-analyze --model runs/softmax --model runs/rela-g --live --live-bits 5
--page-sentences 0 --output runs/live` and copy runs/live/live.html.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from nmt_rela.analysis.html_page import fill_template
from nmt_rela.analysis.live_page import worker_source

PAGE = Path(__file__).resolve().parents[2] / "docs/live-demo.html"


def render(page: str) -> str:
    """The page with everything but its data and models renewed."""
    blocks = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">(.*?)</script>', page, re.DOTALL))
    (data,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    return fill_template(json.loads(data), blocks | {"engine": worker_source()})


def main() -> int:
    """The script; returns the exit status."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE.relative_to(PAGE.parents[1])}: {PAGE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
