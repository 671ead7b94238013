"""Sinkhorn's matrix scaling: the solvers beneath `nver.transport`.

`fused` is for CPUs and needs numba (the extra `fast`); `batched` needs torch alone; `logarithmic`
is the reference that both agree with. On a GPU `batched` takes its loops from `launched`, two
Triton kernels, where problems are small and Triton is there (it comes with torch's CUDA builds).
`solve` chooses; NVER_SINKHORN=fused, batched or logarithmic chooses instead.
"""

from nver.scaling.choice import solve as solve
