"""The solvers beneath transport: each against the reference, and which of them is chosen."""

from __future__ import annotations

import importlib
import logging
import os

import pytest
import torch

from nver.errors import SettingsError
from nver.scaling import batched, choice, logarithmic, programs
from nver.scaling.problem import Problem
from nver.transport import sinkhorn

F32, F64 = torch.float32, torch.float64
COMPILED = importlib.util.find_spec("numba") is not None


def _solver(name):
    if name == "fused":
        pytest.importorskip("numba")
        return importlib.import_module("nver.scaling.fused")
    if name in choice.ON_GPU:
        pytest.importorskip("triton")
    return importlib.import_module(f"nver.scaling.{name}")


def _problem(n, m, eps, iterations, tolerance, dtype=F64, seed=0):
    """Return three problems: easy, with masks, and with forbidden pairs and unlike scales."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(3, n, m, generator=generator, dtype=dtype)
    cost[0] *= 0.05
    a, b = (0.2 + torch.rand(3, k, generator=generator, dtype=dtype) for k in (n, m))
    if min(n, m) > 2:
        a[1, -1], b[1, 0] = 0, 0
        cost[2, 0, 1] = torch.inf
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    return Problem(cost, a, b, eps, iterations, tolerance)


def _compare(solver, problem, plan_tolerance, gradient_tolerance):
    """Compare plans, potentials, iterations and derivatives with the float64 reference's."""
    wide = problem._replace(
        cost=problem.cost.double(), source=problem.source.double(), target=problem.target.double()
    )
    grad = torch.randn(problem.cost.shape, generator=torch.Generator().manual_seed(9), dtype=F64)
    expected = logarithmic.solve(wide, keep=True)
    found = solver.solve(problem, keep=True)
    assert found.iterations.tolist() == expected.iterations.tolist()
    for name in ("plan", "row", "column", "error"):
        there = getattr(expected, name)
        torch.testing.assert_close(
            getattr(found, name).double(), there, atol=plan_tolerance, rtol=plan_tolerance
        )
    forgotten = solver.solve(problem, keep=False)
    assert forgotten.tape is None
    torch.testing.assert_close(forgotten.plan, found.plan, atol=0, rtol=0)
    pulled = solver.pull_back(problem, found, grad.to(problem.cost.dtype))
    for mine, there in zip(pulled, logarithmic.pull_back(wide, expected, grad), strict=True):
        scale = max(float(there.abs().max()), 1.0)
        torch.testing.assert_close(mine.double(), there, atol=gradient_tolerance * scale, rtol=0)


SHAPES = [(1, 1), (1, 6), (5, 4), (33, 17)]
SETTINGS = [(0.5, 3, 0.0), (0.05, 40, 1e-3), (1e-3, 60, 0.0), (1e-4, 45, 1e-6)]


@pytest.mark.parametrize("name", ["fused", "batched"])
@pytest.mark.parametrize(("eps", "iterations", "tolerance"), SETTINGS)
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_a_solver_is_the_reference_in_float64(name, n, m, eps, iterations, tolerance):
    _compare(_solver(name), _problem(n, m, eps, iterations, tolerance), 1e-9, 1e-7)


@pytest.mark.parametrize("name", ["fused", "batched"])
@pytest.mark.parametrize(("eps", "iterations", "tolerance"), SETTINGS[:2])
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_float32_gradients_are_within_1e_5_of_float64(name, n, m, eps, iterations, tolerance):
    _compare(_solver(name), _problem(n, m, eps, iterations, tolerance, F32), 1e-5, 1e-5)


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="run by the test after it")
def test_gpu_programs_are_the_reference(monkeypatch):
    for n, m in SHAPES:
        for setting in SETTINGS[:3]:
            _compare(_solver("launched"), _problem(n, m, *setting, F32), 1e-5, 1e-5)
        _compare(_solver("launched"), _problem(n, m, *SETTINGS[1], F64), 1e-9, 1e-7)
    strips = _solver("strips")
    monkeypatch.setattr(strips, "STRIP", 1024)  # the problems have up to five of them
    for n, m in [(1, 6), (33, 17)]:
        for setting in [(0.5, 3, 0.0), (0.1, 22, 1e-2), (1e-3, 12, 0.0)]:
            _compare(strips, _problem(n, m, *setting, F32), 1e-5, 1e-5)
        _compare(strips, _problem(n, m, 0.1, 22, 1e-2, F64), 1e-9, 1e-7)
    for solver in (_solver("launched"), strips):
        _compare_with_alone(solver, _problem(9, 17, 0.1, 5, 0.0, F32))
    monkeypatch.setattr(programs, "MOST_RESERVED", 0)
    for solver in (_solver("launched"), strips):
        problem = _problem(5, 4, 0.1, 10**9, 1e-2, F32)
        _compare(solver, problem, 1e-5, 1e-5)
        assert len(solver.solve(problem, True).tape.x) < 50
        hard = problem._replace(cost=problem.cost.clone(), iterations=300)
        hard.cost[0] *= 1e3  # solved on logarithms, and never done
        _compare(solver, hard, 1e-5, 1e-5)
        found = solver.solve(hard, True)
        assert int(found.iterations[0]) == 300
        assert len(found.tape.x) < 50


def _compare_with_alone(solver, problem):
    """Compare the second problem's digits with those that it has without the others."""
    grad = torch.rand(problem.cost.shape, generator=torch.Generator().manual_seed(8))
    alone = problem._replace(
        **{name: getattr(problem, name)[1:2] for name in ("cost", "source", "target")}
    )
    many, one = solver.solve(problem, True), solver.solve(alone, True)
    back, back_alone = (
        solver.pull_back(problem, many, grad),
        solver.pull_back(alone, one, grad[1:2]),
    )
    for whole, part in zip((*many[:5], *back), (*one[:5], *back_alone), strict=True):
        assert torch.equal(whole[1:2], part)


@pytest.mark.slow
def test_gpu_programs_are_the_reference_in_tritons_interpreter(in_tritons_interpreter):
    in_tritons_interpreter(test_gpu_programs_are_the_reference)


@pytest.mark.parametrize(
    ("n", "m", "dtype", "name"),
    [
        (1, 1, F32, "launched"),
        (128, 128, F32, "launched"),
        (1024, 16, F32, "launched"),
        (128, 64, F64, "launched"),
        (129, 128, F32, "strips"),
        (128, 128, F64, "strips"),
        (1024, 1024, F64, "strips"),
        (1025, 2, F32, None),
        (1025, 64, F32, None),
    ],
)
def test_the_size_decides_what_a_gpu_runs(n, m, dtype, name, monkeypatch):
    monkeypatch.setattr(choice, "_programs_run", lambda: True)
    found = choice._in_programs(torch.empty(5, n, m, dtype=dtype, device="meta"))
    assert getattr(found, "__name__", None) == (name and f"nver.scaling.{name}")


def test_the_adjoint_is_that_of_automatic_differentiation():
    """Of the plain iteration on logarithms, by costs and weights, before it has converged."""
    problem = _problem(5, 4, 0.2, 7, 0.0)
    cost = problem.cost[:1].clone().requires_grad_()
    a, b = (part[:1].clone().requires_grad_() for part in (problem.source, problem.target))
    v = torch.zeros_like(b)
    for _ in range(7):
        u = a.log() - torch.logsumexp(-cost / 0.2 + v.unsqueeze(-2), -1)
        v = b.log() - torch.logsumexp(-cost / 0.2 + u.unsqueeze(-1), -2)
    plan = torch.exp(-cost / 0.2 + u.unsqueeze(-1) + v.unsqueeze(-2))
    grad = torch.randn(plan.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    by_cost, by_a, by_b = torch.autograd.grad((plan * grad).sum(), (cost, a, b))
    one = problem._replace(cost=problem.cost[:1], source=a.detach(), target=b.detach())
    found = logarithmic.pull_back(one, logarithmic.solve(one, True), grad)
    torch.testing.assert_close(found.cost, by_cost, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found.log_source, a.detach() * by_a, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found.log_target, b.detach() * by_b, atol=1e-12, rtol=1e-9)


def test_small_eps_uses_more_than_one_base():
    """Else the tests above would not see how scalings are absorbed."""
    fused = _solver("fused")
    problem = _problem(33, 17, 1e-4, 45, 0.0, F32)
    tapes = fused.solve(problem, keep=True).tape[-1][-1].view(torch.int64)
    assert tapes.view(3, -1)[:, 0].max() > 1
    assert batched.solve(problem, keep=True).tape.hard is not None


@pytest.mark.skipif(not COMPILED, reason="needs numba")
def test_threads_do_not_change_the_numbers(monkeypatch):
    fused = _solver("fused")
    problem = _problem(20, 12, 0.1, 30, 0.0)
    alone = fused.solve(problem, keep=True)
    grad = torch.ones_like(problem.cost)
    expected = fused.pull_back(problem, alone, grad)
    monkeypatch.setattr(fused, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = fused.solve(problem, keep=True)
    assert torch.equal(found.plan, alone.plan)
    assert torch.equal(fused.pull_back(problem, found, grad).cost, expected.cost)


@pytest.mark.parametrize("name", ["fused", "batched", "logarithmic"])
def test_the_environment_chooses(name, monkeypatch):
    if name == "fused":
        pytest.importorskip("numba")
    monkeypatch.setenv(choice.VARIABLE, name)
    chosen = choice.choose(torch.zeros(1, 2, 2))
    assert name in getattr(chosen, "__name__", type(chosen).__module__)


def test_an_unknown_solver_is_refused(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "quick")
    with pytest.raises(SettingsError) as caught:
        sinkhorn(torch.zeros(2, 2))
    assert str(caught.value) == (
        "NVER_SINKHORN must be one of fused, batched, logarithmic, got 'quick'."
    )


@pytest.mark.parametrize("fault", ["absent", "broken"])
def test_without_numba_torch_alone_solves_and_it_is_said_once(fault, monkeypatch, caplog):
    fused = importlib.import_module("nver.scaling.fused")
    if fault == "absent":
        monkeypatch.setattr(fused, "AVAILABLE", False)
    else:
        monkeypatch.setattr(fused, "AVAILABLE", True)
        monkeypatch.setattr(fused, "solve", lambda *_, **__: 1 / 0)
    choice._fused.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="nver.scaling.choice"):
            for _ in range(2):
                assert bool(sinkhorn(torch.zeros(3, 3)).converged)
        monkeypatch.setenv(choice.VARIABLE, "fused")
        with pytest.raises(SettingsError, match="needs costs on a CPU and a numba that works"):
            sinkhorn(torch.zeros(2, 2))
    finally:
        choice._fused.cache_clear()
    said = {"absent": "numba is not installed", "broken": "ZeroDivisionError"}[fault]
    assert [said in record.message for record in caplog.records] == [True]


@pytest.mark.skipif(not COMPILED, reason="numba is not installed")
def test_what_is_kept_on_disk_holds_for_these_sources_only(tmp_path, monkeypatch):
    compiled = importlib.import_module("nver.scaling.compiled")
    (tmp_path / "loop_for_a_test.py").write_text("def twice(x):\n    return 2 * x\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    twice = importlib.import_module("loop_for_a_test").twice
    found = []
    for text in ("OLD = 1\n", "OLD = 1\n", "NEW = 1\n"):
        (tmp_path / "neighbour.py").write_text(text, "utf-8")
        compiled._sources.cache_clear()
        made = compiled.compiled_and_kept(twice)
        assert made(2) == 4
        found.append(sum(made.stats.cache_hits.values()))
    assert found == [0, 1, 0]
