"""The federation list: a signed list of other servers that says where they are, where the policy itself does not."""
