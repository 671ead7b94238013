"""Sinkhorn's matrix scaling: the solvers beneath `nver.transport`.

`fused` is for CPUs and needs numba (the extra `fast`); `batched` needs torch alone; `logarithmic`
is the reference that all agree with. On a GPU `launched` solves small problems in one Triton
program, where Triton is there (it comes with torch's CUDA builds), and `batched` the larger ones.
`solve` chooses; NVER_SINKHORN=fused, batched or logarithmic chooses instead.
"""

from nver.scaling.choice import solve as solve
