"""Lines in thirteen scripts with odd characters, drawn by a seed."""

from __future__ import annotations

import random

SCRIPTS = (
    (0x41, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xB80, 0xBFF),
    (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x3040, 0x30FF), (0x4E00, 0x4E80), (0xAC00, 0xAC80), (0x1F300, 0x1F390),
)  # fmt: skip
ODD = (
    *"\u00a0\u3000\u200b\u200d\ufeff\u00ad\u2028\u0085\t▁ﬁ①Ａ㍿½…™Å\u0301\u0308\u1100\u1161\uff76\uff9e\U0001d400<>&\"'",
    "<s>", "</s>", "<unk>", "<2de>", "foo_bar", "  ", " ▁ ", "\u0001", "\uffff", "\U0010ffff", "&amp;", "&#228;",
)  # fmt: skip
SEPARATORS = (" ", " ", " ", "  ", "\u3000", "")


def odd_lines(count: int, *, seed: int) -> list[str]:
    """Lines, the scripts in turn; some are empty."""
    generator = random.Random(seed)

    def word(script: tuple[int, int]) -> str:
        letters = "".join(chr(generator.randint(*script)) for _ in range(generator.randint(1, 7)))
        chance = generator.random()
        return generator.choice(ODD) if chance < 0.1 else letters + generator.choice(ODD) if chance < 0.4 else letters

    return [
        generator.choice(SEPARATORS).join(word(SCRIPTS[i % len(SCRIPTS)]) for _ in range(generator.randint(0, 9)))
        for i in range(count)
    ]
