"""Records of sessions: from which address and by which program a device was used, sealed so that the server cannot
read them again. Where a jurisdiction has no custodians nothing is noted at all.
"""
