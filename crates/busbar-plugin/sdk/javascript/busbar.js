// Runs a plug-in in JavaScript. What scripts may use: `busbar` and `console`.
(() => {
    const host = globalThis.__busbar_host;
    delete globalThis.__busbar_host;
    const { parse, stringify } = JSON;
    const text = (values) =>
        values.map((value) => (typeof value === "string" ? value : (stringify(value) ?? String(value)))).join(" ");
    const log = (level, values) => void host("log", stringify({ level, message: text(values) }));
    const rows = (request) => parse(host("rows", stringify(request)));
    globalThis.busbar = {
        settings: parse(host("settings", "")),
        log: (message, level = "info") => log(level, [message]),
        get: (table, where) => rows({ table, where, limit: 1 })[0] ?? null,
        scan: (table, where = {}, limit = null) => rows({ table, where, limit }),
        query: (table, sql, ...parameters) => rows({ table, sql, parameters }),
    };
    globalThis.console = {
        debug: (...values) => log("debug", values),
        log: (...values) => log("info", values),
        info: (...values) => log("info", values),
        warn: (...values) => log("warning", values),
        error: (...values) => log("error", values),
    };

    // The clock is the time of the event, and chance begins anew with each event, so that a replay repeats.
    let now = 0;
    let chance = 1;
    const RealDate = Date;
    globalThis.Date = class Date extends RealDate {
        constructor(...parts) {
            if (parts.length === 0) super(now);
            else super(...parts);
        }
        static now() {
            return now;
        }
    };
    Math.random = () => {
        chance = (chance + 0x6d2b79f5) | 0;
        let mixed = Math.imul(chance ^ (chance >>> 15), 1 | chance);
        mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };

    const failure = (error) => {
        const isError = error instanceof Error;
        const message = isError ? `${error.name}: ${error.message}` : text([error]);
        const place = /([^\s():]+):(\d+)(?::\d+)?\)?\s*$/m.exec((isError && error.stack) || "");
        return place ? { message, file: place[1], line: Number(place[2]) } : { message };
    };
    globalThis.__busbar_failure = (error) => stringify(failure(error));
    // A result as JSON, where the node does not read it itself.
    globalThis.__busbar_text = (result) => {
        try {
            return stringify(result) ?? "null";
        } catch (error) {
            return stringify({ error: failure(error) });
        }
    };
    // Events come in columns; `others` has the members of those whose payloads are no JSON, by their places.
    globalThis.__busbar_run = (process, topics, keys, times, tags, payloads, others) => {
        const results = parse(payloads);
        tags = tags === undefined ? null : parse(tags);
        others = others === undefined ? null : parse(others);
        for (let at = 0; at < results.length; at++) {
            const topic = topics[at];
            const key = keys[at];
            const time = times[at];
            const own = tags === null ? {} : tags[at];
            const payload = results[at];
            const event =
                key === undefined
                    ? { topic, time, tags: own, payload }
                    : { topic, key, time, tags: own, payload };
            const other = others === null ? undefined : others[at];
            if (other !== undefined) {
                delete event.payload;
                Object.assign(event, other);
            }
            now = Math.floor(time / 1000);
            chance = (time % 4294967296) | 0;
            try {
                const result = process(event);
                if (result !== null && typeof result === "object" && typeof result.then === "function")
                    throw new TypeError("process must not be async");
                results[at] = result;
            } catch (error) {
                results[at] = { error: failure(error) };
            }
        }
        return results;
    };
})();
