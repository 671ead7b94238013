"""Sinkhorn's matrix scaling: the solvers beneath `nver.transport`.

`fused` is for CPUs and needs numba (the extra `fast`); `batched` needs torch alone; `logarithmic`
is the reference that all agree with. On a GPU where Triton is there (it comes with torch's CUDA
builds), the size of a problem decides, for any number of problems at once:

- K of at most 64 KiB, sides padded to powers of 2 (128 x 128 points in float32, 64 x 128 in
  float64): `launched`, one program for the plan and one for the gradient;
- up to 1024 x 1024 points: `strips`, four programs for the plan and three for the gradient;
- more, or no Triton: `batched`, about ten launches per iteration.

Around each program are a few copies of single numbers; problems whose scalings leave the range of
their type are solved once more on logarithms, some ten launches per iteration.

`solve` chooses; NVER_SINKHORN=fused, batched or logarithmic chooses instead.
"""

from nver.scaling.choice import solve as solve
