"""Large linear maps of few entries: a matrix and its transpose, both stored by rows, applied to batches."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # a quarter of a second that only those pay who have a matrix
    import scipy.sparse


class _Product(torch.autograd.Function):
    """x ↦ M x for each row of x; its gradient is the same with Mᵀ, so that it can be taken any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.pair = (transposed, matrix)
        if len(x) == 1:  # one vector takes half the time of a matrix of one column
            return torch.mv(matrix, x[0])[None]
        return (matrix @ x.T).T.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradients[0], *ctx.pair), None, None


@dataclass(frozen=True, eq=False)
class SparseMap:
    """A sparse matrix with its exact transpose, in the dtype and on the device of what it is applied to.

    Args:
        matrix: (m, d), float64, compressed by rows.
    """

    matrix: scipy.sparse.csr_array
    _casts: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (batch, d) → (batch, m)."""
        forward, backward = self._pair(x)
        return _Product.apply(x, forward, backward)

    def transpose(self, y: Tensor) -> Tensor:
        """Aᵀ y, (batch, m) → (batch, d)."""
        forward, backward = self._pair(y)
        return _Product.apply(y, backward, forward)

    def _pair(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A and Aᵀ like a tensor; each cast is made once."""
        key = (like.dtype, like.device)
        if key not in self._casts:
            self._casts[key] = (_rows(self.matrix, like), _rows(self._transposed, like))
        return self._casts[key]

    @functools.cached_property
    def _transposed(self) -> scipy.sparse.csr_array:
        return self.matrix.T.tocsr()


def _rows(matrix: scipy.sparse.csr_array, like: Tensor) -> Tensor:
    """A torch matrix of the same entries, with the short indices that its fast products want."""
    starts, columns = (torch.as_tensor(part).to(torch.int32) for part in (matrix.indptr, matrix.indices))
    values = torch.as_tensor(matrix.data).to(like.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls this layout a beta
        return torch.sparse_csr_tensor(starts, columns, values, size=tuple(matrix.shape)).to(like.device)
