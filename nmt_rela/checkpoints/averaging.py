"""The mean of several checkpoints of a run, as its checkpoint ``average``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from nmt_rela.checkpoints.checkpoint import (
    list_checkpoints,
    load_parameters,
    load_state,
    rank_by_score,
    verify_checkpoint,
    write_checkpoint,
)
from nmt_rela.checkpoints.run_directory import AVERAGE, RunDirectory
from nmt_rela.utils.errors import CheckpointError

#: Checkpoints per average in the paper.
_PAPER = 5


def average_run(run: RunDirectory, count: int | None = None, *, by_score: bool = False) -> list[str]:
    """Average the newest ``count`` checkpoints, or those of best validation score; return their names.

    Without a count these are the newest five, as in the paper, or all where there are fewer.

    Raises CheckpointError if there are fewer, or if they are damaged or of different vocabularies.
    """
    steps = list_checkpoints(run.checkpoints)
    metric = run.config().training.checkpoint_metric
    ranked = [path for path, _ in rank_by_score(steps, metric)][::-1] if by_score else steps
    if count is None:
        count = min(_PAPER, len(ranked)) or 1
    if len(ranked) < count:
        what = f"checkpoints with a validation of training.checkpoint_metric ({metric})" if by_score else "checkpoints"
        option = "--best" if by_score else "--last"
        raise CheckpointError(
            f"{option} {count}: {run.checkpoints} has {len(ranked)} {what}; accepted: as many at most"
        )
    chosen = ranked[-count:]
    for path in chosen:
        verify_checkpoint(path)
    vocabularies = {load_state(path).get("vocabulary") for path in chosen}
    if len(vocabularies) > 1:
        raise CheckpointError(f"{run.checkpoints}: checkpoints of {len(vocabularies)} different vocabularies")
    names = [path.name for path in chosen]
    state = {"vocabulary": vocabularies.pop(), "averaged": names, "newest": steps[-1].name}
    state |= {"config": load_state(chosen[-1]).get("config")}
    # The link changes to a new directory in one step, so that there is a complete average at every moment.
    earlier = sorted(run.checkpoints.glob(f"{AVERAGE}_*"))
    numbers = [int(number) for path in earlier if (number := path.name.removeprefix(f"{AVERAGE}_")).isdecimal()]
    directory = run.checkpoints / f"{AVERAGE}_{max(numbers, default=0) + 1}"
    write_checkpoint(directory, tensors={"model": average_checkpoints(chosen)}, state=state)
    run.link_checkpoint(AVERAGE, directory.name)
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)
    return names


def average_checkpoints(directories: Sequence[Path]) -> dict[str, Tensor]:
    """The arithmetic mean of the models of several checkpoints, summed in float64. Tied parameters stay tied.

    Raises CheckpointError if their parameters or shapes differ.
    """
    first = load_parameters(directories[0])
    sums = {name: tensor.double() for name, tensor in first.items()}
    for directory in directories[1:]:
        model = load_parameters(directory)
        if model.keys() != first.keys():
            odd = sorted(model.keys() ^ first.keys())[0]
            raise CheckpointError(f"{directory}: parameter {odd} is not in both this model and {directories[0].name}")
        for name, tensor in model.items():
            if tensor.shape != first[name].shape:
                raise CheckpointError(
                    f"{directory}: parameter {name} is {list(tensor.shape)}, "
                    f"in {directories[0].name} it is {list(first[name].shape)}"
                )
            sums[name] += tensor
    # Tied parameters have one storage in the checkpoint, and so have their means.
    means: dict[int, Tensor] = {}
    return {
        name: means.setdefault(tensor.data_ptr(), (sums[name] / len(directories)).to(tensor.dtype))
        for name, tensor in first.items()
    }
