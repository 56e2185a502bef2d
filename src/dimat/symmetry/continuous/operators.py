"""Operators that may stand where matrices act on units.

Whether a matrix goes through a call is proved on drawn values. That is a proof for an operator that
is given by polynomials or other analytic functions everywhere: two of them that agree on random
values agree. An operator that is linear only where values are small, or positive, is none of these.
"""

from __future__ import annotations

from dimat.symmetry.continuous.group import Kind
from dimat.symmetry.proof.evidence import REARRANGING

CONTRACTING = frozenset(
    f"aten.{name}"
    for name in (
        *("linear", "matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm", "einsum"),
        *("conv1d", "conv2d", "conv3d", "convolution", "scaled_dot_product_attention"),
    )
)
# What maps each unit alone, alike and linearly, and other axes as it likes.
PASSING = (
    REARRANGING
    | frozenset(
        f"aten.{name}"
        for name in (
            *("alias", "detach", "lift_fresh_copy", "to", "_to_copy", "type_as", "dropout"),
            *("mean", "sum", "index_select", "index", "roll", "flip", "repeat"),
            *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d"),
            *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "unbind", "split", "chunk"),
            *("split_with_sizes", "constant_pad_nd", "pad", "repeat_interleave"),
        )
    )
    | {"getitem"}
)
LINEAR = (
    CONTRACTING
    | PASSING
    | frozenset(f"aten.{name}" for name in ("embedding", "add", "sub", "neg", "mul", "div", "cat"))
)
NORMS = frozenset(
    f"aten.{name}"
    for name in (
        *("layer_norm", "native_layer_norm", "rms_norm", "pow", "square", "sqrt", "rsqrt"),
        *("reciprocal", "linalg_vector_norm", "norm"),
    )
)
# Where each unit may be multiplied by a positive number.
HOMOGENEOUS = frozenset(
    f"aten.{name}"
    for name in (
        *("relu", "relu_", "leaky_relu", "abs", "max_pool1d", "max_pool2d", "max_pool3d"),
        *("prelu", "_prelu_kernel", "amax", "amin"),
    )
)
# What rotary embeddings are written with: planes are halves, neighbors or complex numbers.
ROTARY = LINEAR | {"aten.stack", "aten.view_as_complex", "aten.view_as_real"}
ALLOWED: dict[Kind, frozenset[str]] = {
    "linear": LINEAR,
    "orthogonal": LINEAR | NORMS,
    "orthogonal with mean": LINEAR | NORMS,
    "rotary": ROTARY,
    "scaling": LINEAR | HOMOGENEOUS,
}
