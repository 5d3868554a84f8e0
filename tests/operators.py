"""Counts the operators that PyTorch runs: on a GPU each is one kernel or more, whose launches small models wait for."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = frozenset(
    [
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "as_strided",
        "detach",
        "diagonal",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "lift_fresh",
        "new_empty",
        "permute",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
    ]
)
"""Operators that start no kernel."""


class RecordedOperators(TorchDispatchMode):
    """The operators that run inside, backward passes included.

    Attributes:
        names: Their names in order, such as "addmm".
        sizes: The bytes of each tensor that one of them returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sizes: list[int] = []

    @property
    def kernels(self) -> list[str]:
        """The names without views and allocations."""
        return [name for name in self.names if name not in VIEWS]

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operator(*args, **(kwargs or {}))
        self.names.append(operator.overloadpacket.__name__)
        self.sizes += [result.nbytes] if isinstance(result, torch.Tensor) else []
        return result
