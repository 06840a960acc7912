"""The method itself: network, signed distance and its transform, views, contrast and losses.

These modules need torch. The one exception is the signed distance of the published release, kept for comparison, which
imports numpy and scipy when it is called.
"""
