"""What is computed: network, signed distance and its transform, views, contrast, losses. Needs torch alone."""
