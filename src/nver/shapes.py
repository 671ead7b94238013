"""Names for array shapes, used as annotations and executed by the tests.

The axes: ``samples`` (audio samples of one channel), ``channels``, ``clips``, ``dim`` (width of an
embedding), ``frames``, ``classes``. The model column writes its tensor shapes where they are used:
``Float[Tensor, "batch n m"]``.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

Channels = Float32[np.ndarray, "channels samples"]
Mono = Float32[np.ndarray, "samples"]
Embeddings = Float32[np.ndarray, "clips dim"]
Embedding = Float32[np.ndarray, "dim"]
Probabilities = Float64[np.ndarray, "clips classes"]
Indices = Int[np.ndarray, "n"]
Labels = Shaped[np.ndarray, "clips"]
