from datetime import datetime, timezone


def process(event):
    if event["tags"].get("quality") != "good":
        return None
    taken = datetime.fromtimestamp(event["time"] / 1e6, timezone.utc)
    reading = event["payload"]
    event["payload"] = {
        "gauge": reading["gauge"],
        "hour": taken.strftime("%Y-%m-%dT%H"),
        "taken": event["time"],
        "level_mm": reading["level_mm"],
    }
    return event
