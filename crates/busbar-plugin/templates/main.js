// Called for each event. What it returns comes out: an event, a list of events, or nothing.
// event: { topic, key, time (microseconds since 1970), tags, payload }
export default function process(event) {
    if (event.payload?.value === undefined) return;
    event.payload.value *= 2;
    return event;
}
