"""An SAE as other libraries want it: SAEBench's object contract, and a SAELens object where that is installed.

What a format writes to disk is in saes/formats; this package hands over objects in memory. It must never know how an
SAE is trained or scored.
"""

from saelab.adapters.saebench import to_saebench
from saelab.adapters.saelens import to_saelens

__all__ = ["to_saebench", "to_saelens"]
