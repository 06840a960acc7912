"""What the network computes on: scans with their geometry, centres, prepared cases, samples, augmentation."""

import data.errors  # noqa: F401 - first, so that Ctrl-C is quiet while the rest is imported
