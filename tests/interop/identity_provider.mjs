// A real provider of identities (the npm package oidc-provider) on 127.0.0.1: everybody is whoever they say they are.
// Told by one JSON argument where it listens, with which certificate, and who its one client is.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";

import Provider from "oidc-provider";

const { port, certificate, key, client_id, client_secret, redirect_uri } = JSON.parse(process.argv[2]);

const provider = new Provider(`https://127.0.0.1:${port}`, {
    clients: [{ client_id, client_secret, redirect_uris: [redirect_uri], response_types: ["code"] }],
    claims: { openid: ["sub"], profile: ["name", "preferred_username"] },
    findAccount: (_, id) => ({
        accountId: id,
        claims: () => ({ sub: `subject-of-${id}`, name: `${id} of the University`, preferred_username: id }),
    }),
    pkce: { required: () => true },
});
createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, provider.callback()).listen(
    port,
    "127.0.0.1",
    () => console.log("ready"),
);
