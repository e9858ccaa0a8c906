// One JSON object a line: {id, verb, arguments} in, {id, result} or {id, error} out. What the SDK logs goes to standard
// error, so that standard output carries answers only.
import { createInterface } from "node:readline";

for (const level of ["log", "info", "debug", "trace", "warn"]) {
    console[level] = console.error;
}

function answer(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** An error as the other side sees it; `body` is the server's answer where there was one. */
function described(error) {
    return {
        message: `${error.name}: ${error.message}`,
        status: error.httpStatus ?? null,
        errcode: error.errcode ?? null,
        body: error.data ?? null,
    };
}

/** Answers calls until standard input ends; calls run side by side. */
export async function serve(verbs) {
    for await (const line of createInterface({ input: process.stdin })) {
        const { id, verb, arguments: given } = JSON.parse(line);
        Promise.resolve()
            .then(() => verbs[verb](given))
            .then((result) => answer({ id, result: result ?? null }))
            .catch((error) => {
                console.error(error);
                answer({ id, error: described(error) });
            });
    }
}

/** Waits for something to become true that only arriving events can make true. */
export class Watch {
    #waiting = new Set();

    /** Something happened: everybody who waits looks again. */
    poke = () => {
        for (const look of this.#waiting) look();
    };

    /** The first value of `look` that is not undefined; rejects with what `seen` tells after `timeout` seconds. */
    until(look, timeout, seen) {
        return new Promise((resolve, reject) => {
            let busy = false;
            let again = false;
            const timer = setTimeout(() => {
                this.#waiting.delete(attempt);
                reject(new Error(`nothing after ${timeout} s; seen: ${JSON.stringify(seen())}`));
            }, timeout * 1000);
            const end = (settle, value) => {
                clearTimeout(timer);
                this.#waiting.delete(attempt);
                settle(value);
            };
            const attempt = async () => {
                again = true;
                if (busy) return;
                busy = true;
                try {
                    while (again) {
                        again = false;
                        const value = await look();
                        if (value !== undefined) return end(resolve, value);
                    }
                } catch (error) {
                    end(reject, error);
                } finally {
                    busy = false;
                }
            };
            this.#waiting.add(attempt);
            attempt();
        });
    }
}
