-- The digest of a file is BLAKE3 behind the byte 1e, or SHA-256 of 32 bytes where it was written before.
ALTER TABLE media RENAME COLUMN sha256 TO digest;
ALTER TABLE remote_media RENAME COLUMN sha256 TO digest;
