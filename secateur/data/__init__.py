"""Data sets by name, read from their published files, held on the device and cut into batches there."""

from secateur.data.batches import Loader
from secateur.data.loading import Data, load

__all__ = ["Data", "Loader", "load"]
