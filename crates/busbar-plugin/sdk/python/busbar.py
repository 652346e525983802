"""What a plug-in can ask of Busbar: settings, log lines, and rows of tables.

    import busbar

    def process(event):
        station = busbar.get("stations", id=event["payload"]["station"])
        event["tags"]["region"] = station["region"]
        return event
"""

settings = {}

_ask = None
_write = None


def log(message, level="info"):
    """Writes a line to the plug-in's log; `level` is debug, info, warning or error."""
    _write({"type": "log", "level": level, "message": str(message)})


def get(table, **where):
    """The row of a table whose columns have these values, as a dict; None if there is none."""
    rows = _ask({"table": table, "where": where, "limit": 1})
    return rows[0] if rows else None


def scan(table, limit=None, **where):
    """The rows of a table whose columns have these values, as a list of dicts."""
    return _ask({"table": table, "where": where, "limit": limit})


def query(table, sql, *parameters):
    """The rows of a query over the file of a relational table; `?` stands for the parameters in order."""
    return _ask({"table": table, "sql": sql, "parameters": list(parameters)})


class Failed(Exception):
    """Busbar could not answer a request."""
