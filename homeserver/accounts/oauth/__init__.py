"""Signing in through a browser: the OAuth 2.0 API, the browsers that are signed in, and providers of identities."""
