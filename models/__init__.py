"""What is computed: network, signed distance and its transform, views, contrast, losses.

Needs torch alone; numpy and scipy for the release's distance per case, which is there to compare with.
"""
