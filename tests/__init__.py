"""Tests of the library and of its commands; the process is set up as that of a command is."""

from data.common.process import set_up_process

set_up_process()
