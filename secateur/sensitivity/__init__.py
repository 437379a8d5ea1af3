"""What data says of weights and channels: SiPP and PFP, the numbers they stand on, and what they promise."""

from secateur.sensitivity.bounds import relative_errors, sipp_bound
from secateur.sensitivity.pfp import pfp
from secateur.sensitivity.samples import sample_size
from secateur.sensitivity.sipp import sipp

__all__ = ["pfp", "relative_errors", "sample_size", "sipp", "sipp_bound"]
