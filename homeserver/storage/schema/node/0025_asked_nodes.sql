-- The node that was asked to order the event of this transaction; NULL: none but the device's own.
ALTER TABLE client_transactions ADD COLUMN asked_node TEXT;
