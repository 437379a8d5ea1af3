"""The compiled forms of StochGradAdam: one kernel, and compiled masks."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from optim_support import give_gradients, parameters, run
from torch.optim import Adam

from secateur.errors import InputError
from secateur.hashing import Draw
from secateur.optim import StochGradAdam, StochGradAdamW, kernel, native
from secateur.optim.places import bases, place


class TestCompiled:
    """One kernel, and compiled masks: the numbers of the eager form."""

    @staticmethod
    def several(dtype=torch.float32) -> list[torch.Tensor]:
        made = parameters([(30, 30), (70_001,), (12, 6, 3, 3), (20,), (3, 20_000), (), (0, 4)], dtype)
        made[2] = made[2].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        return made

    @pytest.mark.parametrize("compiled", ["step", "sample"])
    @pytest.mark.parametrize("form", [{}, {"fused": True}], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("options", [{"amsgrad": True}, {"weight_decay": 0.1, "maximize": True}], ids=str)
    def test_it_equals_eager(self, compiled, form, dtype, options) -> None:
        make = partial(StochGradAdamW, sampling_rate=0.6, seed=2, **options)
        eager, plain = run(partial(make, **form), 3, self.several(dtype))
        params, ours = run(partial(make, compiled=compiled, **form), 3, self.several(dtype))
        close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
        for a, b in zip(eager, params, strict=True):
            torch.testing.assert_close(a, b, rtol=close, atol=close / 100)
            masks = [optimizer.state[p]["exp_avg"] != 0 for optimizer, p in ((plain, a), (ours, b))]
            assert torch.equal(*masks)
            assert plain.state[a]["step"] == ours.state[b]["step"] == 3

    @pytest.mark.parametrize("compiled", ["step", "sample"])
    def test_several_threads_find_the_same(self, compiled) -> None:
        threads = torch.get_num_threads()
        results = []
        try:
            for number in (1, 3):
                torch.set_num_threads(number)
                make = partial(StochGradAdam, sampling_rate=0.6, compiled=compiled, fused=True)
                results.append(run(make, 2, self.several())[0])
        finally:
            torch.set_num_threads(threads)
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)

    def test_a_missing_compiler_is_told(self, monkeypatch) -> None:
        def broken(*_, **__):
            raise RuntimeError("no compiler")

        native._library.cache_clear()
        monkeypatch.setattr("torch._inductor.codecache.CppCodeCache.load", broken)
        params = parameters([(5,)])
        give_gradients(params, 0)
        with pytest.raises(InputError, match=r"C\+\+ compiler.*no compiler.*'compiled'"):
            StochGradAdam(params, compiled="step").step()
        native._library.cache_clear()

    @pytest.mark.slow
    def test_the_form_for_other_devices_equals_eager_and_never_compiles_again(self) -> None:
        """The kernel that torch.compile makes, run on the CPU."""
        shapes = [(70_001,), (12, 6, 3, 3), (300, 300)]
        ours, theirs = parameters(shapes), parameters(shapes)
        ours[1], theirs[1] = (
            p.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for p in (ours[1], theirs[1])
        )
        optimizer = StochGradAdam(theirs, sampling_rate=0.5)
        group = optimizer.param_groups[0]
        starts = bases([{"params": ours}])
        moments = {p: kernel.Moments(torch.zeros_like(p), torch.zeros_like(p), None) for p in ours}
        graphs = 0
        for step in range(1, 12):
            give_gradients(theirs, step)
            optimizer.step()
            for p, other in zip(ours, theirs, strict=True):
                gradient = torch.empty_like(p).copy_(other.grad)
                where = place(p, starts[p], "element")
                ready = kernel.Ready(p, gradient, moments[p], torch.tensor(float(step)), where)
                numbers = kernel.Coefficients.of(group, float(step)).values()
                with torch.no_grad():
                    kernel._compiled_update(ready, numbers, Draw(0, step, 0.5))
            if step == 1:
                graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    @pytest.mark.slow
    @pytest.mark.parametrize(("compiled", "most"), [("step", 1.6), ("sample", 2.3)])
    def test_a_step_costs_little_more_than_torchs_fused_adam(self, compiled, most) -> None:
        """A guard, looser than the benchmark's targets, for a machine that does other things too."""
        shapes = [(1 << 20,)] * 4
        params = parameters(shapes)
        give_gradients(params, 0)
        ours = StochGradAdam(params, fused=True, compiled=compiled)
        theirs, naive = Adam(params, fused=True), Adam(params, foreach=False)

        def masked_at_first() -> None:
            whole = [p.grad for p in params]
            for p in params:
                p.grad = p.grad * (torch.rand_like(p.grad) < 0.8)
            naive.step()
            for p, gradient in zip(params, whole, strict=True):
                p.grad = gradient

        def seconds(step) -> float:
            start = time.process_time()
            step()
            return time.process_time() - start

        times = [[seconds(step) for step in (ours.step, theirs.step, masked_at_first)] for _ in range(12)][2:]
        own, fused, slow = (min(column) for column in zip(*times, strict=True))
        assert own < most * fused
        assert slow > 3 * own
