"""What happens over time: the stages, training, inference, the cascade, evaluation, reports."""

import os

import data.errors  # noqa: F401 - first, so that Ctrl-C is quiet while torch is imported

# Set before torch loads OpenMP. By default its waiting threads spin, and with anything else running on the machine (a
# second training, say) they take the very cores that the late thread needs: a step on 2 cores beside one busy process
# took 2.7 s that way and takes 0.4 s this way; alone on the machine both take 0.13 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
