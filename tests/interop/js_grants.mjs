// Signing in by the grants of OAuth 2.0 with the functions of matrix-js-sdk, while somebody uses a browser elsewhere:
// what a client does that has no password to send.
import { createClient, OAuth2 } from "matrix-js-sdk";

/** The verbs of one sign-in at a server. */
export function grants(baseUrl) {
    let oauth = null;
    let waiting = null;

    async function signedIn(tokens) {
        if (!tokens.access_token) return tokens;
        const session = { ...tokens, client_id: oauth.context.clientId };
        return { ...session, ...(await whoami(tokens.access_token)) };
    }

    async function whoami(token) {
        return await createClient({ baseUrl, accessToken: token }).whoami();
    }

    return {
        /** Discovers the server and registers. Returns the metadata that the SDK accepted. */
        async register({ metadata: client, device_id: deviceId }) {
            const metadata = await createClient({ baseUrl }).getAuthMetadata();
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
            return signedIn(await oauth.completeAuthorizationCodeGrant(code, redirectUri));
        },
        async refresh({ token }) {
            return signedIn(await oauth.performRefreshTokenGrant(token));
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
            waiting = oauth.waitForDeviceAuthorizationGrant(session).then(signedIn);
            waiting.catch(() => {}); // it is told to who asks for the end
            return session;
        },
        async finish_device() {
            return await waiting;
        },
    };
}
