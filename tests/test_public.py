"""The names at the root of the package."""

from __future__ import annotations

import secateur


def test_every_public_name_is_there():
    assert all(getattr(secateur, name) is not None for name in secateur.__all__)
    assert secateur.__all__ == sorted(set(secateur.__all__))
    assert dir(secateur) == secateur.__all__


def test_methods_and_removals_are_reached_by_their_modules():
    assert issubclass(secateur.methods.HESSO, secateur.methods.Pruner)
    assert secateur.removal.Decay(steps=3).steps == 3
