"""Trains on two CPU ranks under the host that is named, and fails unless both come to the same; a script of its own."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hosted import Hold, Look, Own, Ridge
from torch.utils.data import DataLoader, TensorDataset


def under_lightning(*methods: Any) -> torch.nn.Module:
    import lightning.pytorch as pl
    from test_adapters_lightning import Lit, batches

    from secateur.adapters.lightning import SecateurCallback

    module = Lit()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", callbacks=[SecateurCallback(methods)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2,
    )  # fmt: skip
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches(8), strict=True)))
    trainer.fit(module, DataLoader(data, 8))
    return module


def under_transformers(*methods: Any) -> torch.nn.Module:
    from test_adapters_transformers import Folder, bert, trainer

    Folder.path = tempfile.mkdtemp()
    host = trainer(bert(), *methods, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    host.train()
    return host.model


def main(host: str) -> None:
    torch.set_num_threads(1)
    if host == "lightning":
        from test_adapters_lightning import EXAMPLE as EXAMPLE_INPUTS

        run, hold = under_lightning, Hold(EXAMPLE_INPUTS)
    else:
        from test_adapters_transformers import example

        run, hold = under_transformers, Hold(example(), "intermediate")
    own, look = Own(), Look()
    model = run(hold, own, Ridge(outputs=True), look)
    flat = torch.cat([p.detach().flatten() for p in (*model.parameters(), own.gate)])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    assert torch.equal(*both)
    assert look.equal
    assert all(look.equal)
    assert all(closure == pytest.approx(step, rel=1e-4) for closure, step in look.pairs)
    assert hold.checked
    assert (own.gate > 0.2).all()
    print("alike")


if __name__ == "__main__":
    main(sys.argv[1])
