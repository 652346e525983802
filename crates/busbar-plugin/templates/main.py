# Called for each event. What it returns comes out: an event, a list of events, or None.
# event: a dict of topic, key, time (microseconds since 1970), tags, payload
def process(event):
    payload = event.get("payload")
    if not isinstance(payload, dict) or "value" not in payload:
        return None
    payload["value"] *= 2
    return event


# For many events a second there is a function over whole batches, with `arrow: { value: float }` in plugin.yaml in place of
# process(event) and with pyarrow on the machine:
#
# import pyarrow.compute as pc
#
# def on_batch(batch):  # columns: topic, key, time, tags, value, and _row, which says of which event a row is
#     batch = batch.filter(pc.is_valid(batch["value"]))
#     at = batch.schema.get_field_index("value")
#     return batch.set_column(at, "value", pc.multiply(batch["value"], 2))
