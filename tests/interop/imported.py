"""Imports what a server imports when it starts (see `tests.interop.forked`)."""

from tests.conformance import endpoint_modules

endpoint_modules()
