# Called for each event. What it returns comes out: an event, a list of events, or None.
# event: a dict of topic, key, time (microseconds since 1970), tags, payload
def process(event):
    payload = event.get("payload")
    if not isinstance(payload, dict) or "value" not in payload:
        return None
    payload["value"] *= 2
    return event
