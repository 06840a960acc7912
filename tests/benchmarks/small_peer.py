"""A process of peers for the tests: one sleeps, one prints, and one needs a package that nobody has."""

import time

from benchmarks.peers.process import serve


def sleeping(device, *, seconds):
    return lambda: time.sleep(seconds), {"device": str(device)}


def printing(device):
    print("what a peer prints must not be taken for a reply")
    return lambda: print("nor this"), {}


def missing(device):
    import no_such_package  # noqa: F401


if __name__ == "__main__":
    serve({"sleeping": sleeping, "printing": printing, "missing": missing})
