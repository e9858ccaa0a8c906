// Verifying a device by comparing emoji, with the functions of matrix-js-sdk; one verification at a time.
// spec: client-server-api/#short-authentication-string-sas-verification
import * as api from "matrix-js-sdk/lib/crypto-api/index.js";

const { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } = api;
const SAS = "m.sas.v1";

/** The verbs of a device: `self` has its `crypto` and its `watch`. */
export function verification(self) {
    const asked = []; // requests that came from others
    let request = null;
    let compared = null; // what verify() returns, when it has begun

    function follow(made) {
        request = made;
        compared = null;
        request.on(VerificationRequestEvent.Change, self.watch.poke);
    }

    function until(look, timeout) {
        const seen = () => ({ phase: request?.phase, cancelled: request?.cancellationCode, asked: asked.length });
        return self.watch.until(look, timeout, seen);
    }

    function reached(phase, timeout) {
        return until(() => {
            if (request.phase === VerificationPhase.Cancelled) throw new Error(request.cancellationCode);
            return request.phase >= phase ? true : undefined;
        }, timeout);
    }

    return {
        /** Has to be called once for each client, before it starts. */
        listen(client) {
            client.on(CryptoEvent.VerificationRequestReceived, (received) => {
                asked.push(received);
                self.watch.poke();
            });
        },

        verbs: {
            /** Asks the user's other devices to vouch for this one. */
            async ask_own_devices() {
                follow(await self.crypto.requestOwnUserVerification());
            },

            async ask_device({ user, device_id }) {
                follow(await self.crypto.requestDeviceVerification(user, device_id));
            },

            /** Asks somebody in a room that both are in. */
            async ask_in_room({ user, room }) {
                follow(await self.crypto.requestVerificationDM(user, room));
            },

            async accept_verification({ user, timeout }) {
                const mine = () => asked.findIndex((received) => received.otherUserId === user);
                follow(asked.splice(await until(() => (mine() < 0 ? undefined : mine()), timeout), 1)[0]);
                await request.accept();
            },

            /** Proposes to compare emoji once the other side has accepted. */
            async propose_emoji({ timeout }) {
                await reached(VerificationPhase.Ready, timeout);
                await request.startVerification(SAS);
            },

            /** The names of the emoji that this device shows, once both have exchanged what they are made of. */
            async emoji({ timeout }) {
                await reached(VerificationPhase.Started, timeout);
                const verifier = await until(() => request.verifier, timeout);
                verifier.on(VerifierEvent.ShowSas, self.watch.poke);
                compared ??= verifier.verify().then(() => null, (error) => error);
                const shown = await until(() => verifier.getShowSasCallbacks() ?? undefined, timeout);
                return shown.sas.emoji.map(([, name]) => name);
            },

            /** Says that they are the same, and waits until the other side has said so, too. */
            async confirm_emoji({ timeout }) {
                await request.verifier.getShowSasCallbacks().confirm();
                const error = await compared;
                if (error) throw error;
                await reached(VerificationPhase.Done, timeout);
            },
        },
    };
}
