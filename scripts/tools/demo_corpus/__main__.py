"""Write the demo corpus: ``python -m tools.demo_corpus [DIRECTORY]``, from the folder ``scripts``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .corpus import write_demo_corpus


def main() -> None:
    """Parse the arguments and write the files."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_corpus", description="Write the demo corpus.")
    default = Path(__file__).parents[3] / "data" / "demo"
    parser.add_argument("directory", nargs="?", type=Path, default=default, help="where to write (default: data/demo)")
    write_demo_corpus(parser.parse_args().directory)


main()
