"""Watching a deployment's key logs from outside, over HTTP and with public keys only."""
