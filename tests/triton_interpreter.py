"""What Triton's interpreter lacks, for tests on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def repair_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter (seen in Triton 3.9) round to bfloat16 as hardware does and multiply such matrices.

    It holds bfloat16 as 16-bit integers, cuts float32 off instead of rounding, and multiplies the integers.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def rounding_cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return cast(self, source, target)
        rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(rounded, tl.bfloat16)

    def float_dot(self: Any, left: Any, right: Any, *others: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            left, right = (cast(self, x, tl.float32) for x in (left, right))
        return dot(self, left, right, *others)

    monkeypatch.setattr(builder, "cast_impl", rounding_cast)
    monkeypatch.setattr(builder, "create_dot", float_dot)
