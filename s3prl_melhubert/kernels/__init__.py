"""The encoder's inner operations in faster forms for a CPU: linear layers, dropout, attention, convolution.

Each function gives what plain torch gives, up to rounding (and up to which elements dropout drops), and its
docstring says what it gains. The gains were measured by `python -m benchmarks` on one AMD EPYC core with
AVX-512. Elsewhere, and where `is_plain_cpu` says no, the functions call torch's own operations. On a CPU
everything here repeats bit for bit, and all randomness follows `torch.manual_seed`.

conditions.py    where the faster forms apply, and how a caller turns them off
precision.py     the types in which a CPU computes
derivatives.py   which derivatives the faster forms have
products.py      matrix products and linear layers
random_words.py  the random bits of dropout
dropping.py      dropout, alone and after GELU
attention.py     attention of utterances that follow each other without padding
convolution.py   the positional convolution
"""

from s3prl_melhubert.kernels.attention import packed_attention
from s3prl_melhubert.kernels.conditions import is_plain_cpu, torch_operations, wants_every_derivative
from s3prl_melhubert.kernels.convolution import grouped_conv1d
from s3prl_melhubert.kernels.dropping import dropout, gelu_dropout
from s3prl_melhubert.kernels.precision import HALF, cpu_dtype, wide
from s3prl_melhubert.kernels.products import Linear, linear, linears

__all__ = [
    "HALF",
    "Linear",
    "cpu_dtype",
    "dropout",
    "gelu_dropout",
    "grouped_conv1d",
    "is_plain_cpu",
    "linear",
    "linears",
    "packed_attention",
    "torch_operations",
    "wants_every_derivative",
    "wide",
]
