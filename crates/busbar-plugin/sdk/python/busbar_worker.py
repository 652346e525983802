"""Runs a plug-in in Python: reads batches of events from standard input and answers on standard output."""

import gc
import importlib.util
import json
import os
import sys

import busbar

decode = json.JSONDecoder().decode
encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), allow_nan=False).encode


def failure(error, folder):
    """An exception with the last place in the plug-in's own files."""
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    file, line = None, None
    if isinstance(error, SyntaxError) and error.filename:
        file, line, message = error.filename, error.lineno, f"{type(error).__name__}: {error.msg}"
    trace = error.__traceback__
    while trace is not None and not (isinstance(error, SyntaxError) and file):
        name = trace.tb_frame.f_code.co_filename
        # In compiled form the names of files are those within the folder.
        if name.startswith(folder) or not name.startswith(("/", "<")):
            file, line = name, trace.tb_lineno
        trace = trace.tb_next
    if file and file.startswith(folder):
        file = file[len(folder):]
    return {"message": message, "file": file, "line": line}


def load(main, folder, arrow):
    """What works on events: a function, and whether it takes whole batches."""
    sys.path.insert(0, folder)
    path = os.path.join(folder, main)
    loader = None
    if main.endswith(".pyc"):
        from importlib.machinery import SourcelessFileLoader

        with open(path, "rb") as compiled:
            if compiled.read(4) != importlib.util.MAGIC_NUMBER:
                version = "%d.%d" % sys.version_info[:2]
                raise ImportError(f"{main} was compiled by another Python than {version}, which runs here")
        loader = SourcelessFileLoader("main", path)
    spec = importlib.util.spec_from_file_location("main", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["main"] = module
    spec.loader.exec_module(module)
    if arrow:
        if not callable(getattr(module, "on_batch", None)):
            raise AttributeError(f"{main} does not define on_batch(batch), which \"arrow\" in plugin.yaml asks for")
        return module.on_batch, True
    if callable(getattr(module, "process_batch", None)):
        return module.process_batch, True
    if callable(getattr(module, "process", None)):
        return module.process, False
    if callable(getattr(module, "on_batch", None)):
        raise AttributeError(f"{main} defines on_batch(batch), for which plugin.yaml needs \"arrow\" with the columns that it reads")
    raise AttributeError(f"{main} defines neither process(event) nor process_batch(events)")


def events_of(columns):
    """The events of a batch in columns."""
    payloads = columns["payload"]
    keys, tags, others = columns.get("key"), columns.get("tags"), columns.get("others")
    heads = zip(columns["topic"], columns["time"], payloads)
    if keys is None:
        events = [{"topic": topic, "time": time, "tags": {}, "payload": payload} for topic, time, payload in heads]
    else:
        events = [
            {"topic": topic, "key": key, "time": time, "tags": {}, "payload": payload}
            for (topic, time, payload), key in zip(heads, keys)
        ]
        for event in events:
            if event["key"] is None:
                del event["key"]
    if tags is not None:
        for event, own in zip(events, tags):
            event["tags"] = own
    if others is not None:
        for at, other in others.items():
            event = events[int(at)]
            del event["payload"]
            event.update(other)
    return events


def main():
    # What the program prints goes to the log; only frames go to the node.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    source = os.fdopen(os.dup(0), "rb", buffering=1 << 18)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def send(data):
        view = memoryview(data)
        while view:
            view = view[out.write(view):]

    def write(frame):
        send(encode(frame).encode("utf-8", "replace") + b"\n")

    def receive():
        """The next frame; None where there is no more."""
        line = source.readline()
        if not line:
            return None
        frame = decode(line.decode())
        if "arrow_bytes" in frame:
            frame["arrow"] = source.read(frame["arrow_bytes"])
        return frame

    asked = 0

    def ask(request):
        nonlocal asked
        asked += 1
        write({"type": "rows", "id": asked, "request": request})
        while True:
            frame = receive()
            if frame is None:
                sys.exit()
            if frame["type"] == "rows" and frame["id"] == asked:
                if "error" in frame:
                    raise busbar.Failed(frame["error"])
                return frame["rows"]
            waiting.append(frame)

    waiting = []
    busbar._ask, busbar._write = ask, write
    start = receive()
    busbar.settings = start["settings"]
    folder = os.path.join(os.getcwd(), "")
    arrow = start.get("arrow", False)
    if arrow:
        # Its own allocators reserve far more than they use, which counts against the memory of a worker.
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        try:
            import busbar_arrow
        except ImportError as error:
            if (error.name or "").split(".")[0] != "pyarrow":
                raise
            write({"type": "failed", "lacks": "pyarrow"})
            return
    try:
        process, whole = load(start["main"], folder, arrow)
    except BaseException as error:
        write({"type": "failed", "error": failure(error, folder)})
        return
    # Batches make much garbage that is no cycle, so that looking for cycles often is of no use.
    gc.set_threshold(100_000, 50, 50)
    gc.freeze()
    write({"type": "ready", "protocol": 1, "credit": 2, "columns": True, "arrow": arrow})
    while True:
        if waiting:
            frame = waiting.pop(0)
        else:
            frame = receive()
            if frame is None:
                return
        kind = frame["type"]
        if kind == "batch" and arrow:
            batch = busbar_arrow.read(frame["arrow"])
            made, failed = busbar_arrow.run(process, batch, lambda error: failure(error, folder))
            result = {"type": "result", "id": frame["id"], "arrow_bytes": made.size}
            if failed:
                result["failed"] = failed
            write(result)
            send(made)
        elif kind == "batch":
            events = events_of(frame["columns"])
            # Whether each event comes out with another payload and nothing else.
            alone = not whole
            if whole:
                try:
                    results = list(process(events))
                    if len(results) != len(events):
                        raise ValueError(f"process_batch answered {len(results)} entries to {len(events)} events")
                except BaseException as error:
                    results = [{"error": failure(error, folder)}] * len(events)
            else:
                results = []
                add = results.append
                for event in events:
                    parts, topic, key, tags = len(event), event["topic"], event.get("key"), event["tags"]
                    untagged = not tags
                    try:
                        made = process(event)
                        # What is left out is that of the event, and need be neither written nor read.
                        if (
                            made is event
                            and len(made) == parts
                            and made["topic"] is topic
                            and made.get("key") is key
                            and made["tags"] is tags
                            and "payload" in made
                        ):
                            if untagged and not tags:
                                if alone:
                                    add(made["payload"])
                                    continue
                                made = {"payload": made["payload"]}
                            else:
                                made = {"tags": tags, "payload": made["payload"]}
                    except BaseException as error:
                        made = {"error": failure(error, folder)}
                    if alone:
                        # Those before were written as payloads alone.
                        results[:] = [{"payload": payload} for payload in results]
                        alone = False
                    add(made)
            try:
                write({"type": "result", "id": frame["id"], "payloads" if alone else "events": results})
            except (TypeError, ValueError, RecursionError):
                # One of them cannot be written as JSON: each is tried alone.
                if alone:
                    results = [{"payload": payload} for payload in results]
                for at, result in enumerate(results):
                    try:
                        encode(result)
                    except Exception as error:
                        results[at] = {"error": {"message": f"the result is no JSON: {error}"}}
                write({"type": "result", "id": frame["id"], "events": results})
        elif kind == "ping":
            write({"type": "pong"})
        elif kind == "stop":
            return


main()
