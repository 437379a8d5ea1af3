"""The errors a user of Secateur can meet; every message names what was asked, what was found and what to do."""

from __future__ import annotations


class SecateurError(Exception):
    """The root of all errors that Secateur raises on purpose."""


class InputError(SecateurError, ValueError):
    """An argument, model, example or data set that cannot be used as it is."""


class TraceError(SecateurError, RuntimeError):
    """The model could not be run on its example."""


class BudgetError(SecateurError, ValueError):
    """A budget that cannot be read or cannot be reached."""


class ProofError(SecateurError, RuntimeError):
    """A cut whose result differs from the masked model."""


class CheckpointError(SecateurError, ValueError):
    """A checkpoint that is missing, damaged, or made from another model."""


class DataError(SecateurError, ValueError):
    """A data set that is missing or damaged."""


class TrainingError(SecateurError, RuntimeError):
    """A training run that cannot go on."""
