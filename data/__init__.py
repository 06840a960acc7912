"""What the network computes on: scans with their geometry, centres, prepared cases, samples, augmentation."""
