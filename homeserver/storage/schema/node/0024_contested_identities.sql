-- Whether a resident's identity was replaced without this device, which the one before had signed and whose word is awaited:
-- until one of those has vouched for the new identity, or none is left, others are shown no device of the resident's.
ALTER TABLE device_keys ADD COLUMN awaited INTEGER NOT NULL DEFAULT 0;
