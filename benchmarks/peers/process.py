"""Other packages that do the same work: they run in a process of their own, in an environment of their own.

nnU-Net, MONAI, TorchIO and batchgeneratorsv2 need versions of packages that this project does not, so they are
installed beside it (``make bench-peers``). The benchmark asks that process for one run at a time, so that its own work
and that of the peers take turns; while it is not asked, the process waits for a line and takes no processor time.

A request is a line of JSON on standard input, and so is its reply on what was standard output; whatever a peer prints
goes to standard error.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from benchmarks.common import Work, add_options, start, timed
from data.common.errors import InputError
from data.common.files import REPOSITORY
from data.common.process import set_up_process

DEFAULT_PEERS = REPOSITORY / ".venv-peers" / "bin" / "python"

# Builds a piece of work from its settings. Returns it, and what is to be said about it as plain values.
Builder = Callable[..., tuple[Callable[[], object], dict[str, Any]]]


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Add ``--peers``, the interpreter of the environment in which the peers are installed."""
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="PYTHON",
        help="interpreter that has the packages to compare with, or 'none' (default: that of `make bench-peers`, "
        f"{DEFAULT_PEERS.relative_to(REPOSITORY)}, if it exists)",
    )


class Peers:
    """A process with the peers, as a context that ends it.

    Args:
        args: The options of the benchmark, with those of ``add_peers``.
        module: What it runs, which calls ``serve``.
        packages: Names of the packages whose versions are reported.
        pages_kept: Whether the process keeps the memory pages of freed tensors, as the commands of this project do
            (``set_up_process``); otherwise it runs as the packages are shipped.

    Attributes:
        versions: Of the packages that are installed there; empty without peers.
    """

    def __init__(
        self, args: argparse.Namespace, module: str, packages: Sequence[str], *, pages_kept: bool = False
    ) -> None:
        self.python, self.versions = find_peers(args), {}
        self._process: subprocess.Popen[str] | None = None
        if self.python is None:
            return
        options = ["--device", args.device, "--clock", args.clock, *(["--tiny"] if args.tiny else [])]
        options += ["--pages-kept"] if pages_kept else []
        options += ["--threads", str(torch.get_num_threads())]
        self._process = subprocess.Popen(
            [str(self.python), "-m", module, *options],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self._ask(versions=list(packages))

    def __enter__(self) -> "Peers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def build(self, name: str, **settings: object) -> tuple[Work, dict[str, Any]] | None:
        """Let the process build a piece of work.

        Args:
            name: Of its builder.
            settings: Of the builder, plain values.

        Returns:
            The work, and what the builder said about it; None without peers, or if the package is not installed.

        Raises:
            InputError: If the process has ended.
        """
        if self._process is None:
            return None
        said = self._ask(build=name, settings=settings)
        if "missing" in said:
            print(f"note: {name} is not measured, as {self.python} has no package {said['missing']}", file=sys.stderr)
            return None
        number = said.pop("number")
        return lambda: float(self._ask(run=number)["seconds"]), said

    def _ask(self, **request: object) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):  # it has ended, or its pipe was closed when the context was left
            line = ""
        if not line:
            raise InputError(str(self.python), "the process of the peers has ended, see above", "run make bench-peers")
        return json.loads(line)


def find_peers(args: argparse.Namespace) -> Path | None:
    """Return the interpreter of the peers that ``--peers`` names; None, and a note, if they are not installed.

    Raises:
        InputError: If the named file does not exist.
    """
    if args.peers is None and not DEFAULT_PEERS.exists():
        print("note: no other package is measured; install them with make bench-peers", file=sys.stderr)
        args.peers = Path("none")  # which is said once
    python = args.peers or DEFAULT_PEERS
    if str(python) == "none":
        return None
    if not python.exists():
        raise InputError(f"--peers {python}", "no such file", "give the interpreter of an environment, or none")
    return python.absolute()


def serve(builders: Mapping[str, Builder]) -> None:
    """Answer the requests of a benchmark until it closes the pipe.

    Args:
        builders: By name. They get the device first and then the settings; one whose package is not installed raises
            ImportError.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages-kept", action="store_true")
    add_options(parser, repeats=1)
    args = parser.parse_args()
    if args.pages_kept:
        set_up_process(computes=True)
    device = start(args)
    works: list[Work] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "versions" in request:
            reply = {name: version for name in request["versions"] if (version := version_of(name))}
        elif "run" in request:
            reply = {"seconds": works[request["run"]]()}
        else:
            try:
                work, reply = builders[request["build"]](device, **request["settings"])
            except ModuleNotFoundError as error:
                reply = {"missing": error.name}
            else:
                works.append(timed(work, device, args.clock))
                reply = {**reply, "number": len(works) - 1}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
