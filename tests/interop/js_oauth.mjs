// The OAuth 2.0 functions of matrix-js-sdk, told what to do over standard input and output (see js_wire.mjs): what a
// client does that has no password to send, while somebody uses a browser elsewhere.
import { createClient, OAuth2 } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

import { serve } from "./js_wire.mjs";

const { base_url: baseUrl } = JSON.parse(process.argv[2]);
logger.setLevel("error");

let oauth = null;
let metadata = null;
let waiting = null;

async function whoami(token) {
    return await createClient({ baseUrl, accessToken: token }).whoami();
}

serve({
    /** Discovers the server and registers. Returns the metadata that the SDK accepted. */
    async register({ metadata: client, device_id: deviceId }) {
        metadata = await createClient({ baseUrl }).getAuthMetadata();
        const clientId = await OAuth2.registerClient(metadata, client);
        oauth = new OAuth2(metadata, { clientId, deviceId });
        return metadata;
    },
    /** The address that the user opens. */
    async link({ state, redirect_uri: redirectUri, mode, prompt }) {
        return await oauth.generateAuthorizationCodeGrantUrl(state, redirectUri, mode, prompt);
    },
    /** Takes the code that came back. Returns the tokens and whose they are. */
    async complete({ code, redirect_uri: redirectUri }) {
        const tokens = await oauth.completeAuthorizationCodeGrant(code, redirectUri);
        return { ...tokens, ...(await whoami(tokens.access_token)) };
    },
    async refresh({ token }) {
        const tokens = await oauth.performRefreshTokenGrant(token);
        return { ...tokens, ...(await whoami(tokens.access_token)) };
    },
    async revoke({ token, type }) {
        await oauth.revokeToken(token, type);
        return {};
    },
    async whoami({ token }) {
        return await whoami(token);
    },
    /** Begins a device authorization, and waits for its end besides. */
    async begin_device() {
        const session = await oauth.startDeviceAuthorizationGrant();
        waiting = oauth.waitForDeviceAuthorizationGrant(session);
        return session;
    },
    async finish_device() {
        const tokens = await waiting;
        return tokens.access_token ? { ...tokens, ...(await whoami(tokens.access_token)) } : tokens;
    },
});
