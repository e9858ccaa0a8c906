// Encrypted attachments: AES-256-CTR with a key of its own, and the hash of what lies on the server.
// spec: client-server-api/#sending-encrypted-attachments
import { createHash, webcrypto } from "node:crypto";

const ALGORITHM = { name: "AES-CTR", length: 64 };

function unpadded(bytes) {
    return Buffer.from(bytes).toString("base64").replace(/=+$/, "");
}

/** The ciphertext of `plain` and the EncryptedFile that opens it, which yet lacks its url. */
export async function encrypt(plain) {
    const key = await webcrypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const counter = new Uint8Array(16);
    webcrypto.getRandomValues(counter.subarray(0, 8));
    const ciphertext = Buffer.from(await webcrypto.subtle.encrypt({ ...ALGORITHM, counter }, key, plain));
    const { kty, k, alg, ext } = await webcrypto.subtle.exportKey("jwk", key);
    const file = {
        v: "v2",
        key: { kty, k, alg, ext, key_ops: ["encrypt", "decrypt"] },
        iv: unpadded(counter),
        hashes: { sha256: unpadded(createHash("sha256").update(ciphertext).digest()) },
    };
    return { ciphertext, file };
}

/** What `encrypt` was given; throws if the bytes are not those that `file` vouches for. */
export async function decrypt(ciphertext, file) {
    if (unpadded(createHash("sha256").update(ciphertext).digest()) !== file.hashes.sha256.replace(/=+$/, "")) {
        throw new Error("the attachment is not what its sender uploaded");
    }
    const key = await webcrypto.subtle.importKey("jwk", file.key, "AES-CTR", false, ["decrypt"]);
    const counter = Buffer.from(file.iv, "base64");
    return Buffer.from(await webcrypto.subtle.decrypt({ ...ALGORITHM, counter }, key, ciphertext));
}
