"""Data sets by name: held on the device and cut into batches there, or read from a folder of images by workers."""

from secateur.data.batches import Batches, Loader
from secateur.data.loading import Data, load

__all__ = ["Batches", "Data", "Loader", "load"]
