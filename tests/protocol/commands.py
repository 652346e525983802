#!/usr/bin/env python3
"""The command line as people and programs use it: answers, refusals, logins, in both languages.

    commands.py BUSBAR

Each function whose name begins with `case_` is one case; a new case is a new function.
"""

import json
import re
import subprocess
import sys

from harness import PATIENCE_SECONDS, ROOT, main, wait_for

STREAM = "topics: gauge/+/rain\nformat: json\nschema:\n  site: text\n  level_mm: float\n"
FLOW = "from: rain\nsteps:\n  - where: level_mm >= 50\n  - select: site, level_mm\nto:\n  - topic: alarm/${site}/rain\n"
CHINESE = {"LC_ALL": "zh_CN.UTF-8"}


def case_mistakes_in_files_are_shown_where_they_are(world):
    wrong = {
        # What is wrong: the file's text, code, place, word below the caret, words in English and Chinese.
        "a column": (FLOW.replace("where: level_mm", "where: levl_mm"), "sql.unknown-column", "3:12",
                     ("did you mean level_mm?",), ("是否想写 level_mm",)),
        "a type": (FLOW.replace(">= 50", ">= 'x'"), "sql.types-differ", "3:12", ("float", "text"), ("类型",)),
        "a stream": (FLOW.replace("from: rain", "from: rian"), "catalog.unknown-stream", "1:7",
                     ("rian", "rain"), ("没有名为 rian 的流",)),
        "a circle": (FLOW.replace("alarm/${site}/rain", "gauge/${site}/rain"), "catalog.circle", "1:7",
                     ("would read its own output",), ("回到了自己的输入",)),
        "a key twice": ("from: rain\n" + FLOW, "catalog.duplicate-key", "2:1", ("is given twice",), ("重复",)),
        "a tab": (FLOW.replace("  - select", "\t- select"), "catalog.tab", "4:1", ("tab",), ("制表符",)),
        "a step": (FLOW.replace("where:", "wher:"), "catalog.unknown-step", "3:5", ("did you mean where?",),
                   ("是否想写 where",)),
        "a table": (FLOW.replace("topic: alarm/${site}/rain", "table: peaks"), "catalog.unknown-table", "6:12",
                    ("peaks",), ("peaks",)),
        "YAML": ("from: [rain\n", "catalog.yaml-bracket", "1:7", ("YAML",), ("YAML",)),
    }
    for what, (text, code, place, english, chinese) in wrong.items():
        project = world.project(streams__rain=STREAM, flows__a=text)
        got, out, err = world.run("check", project)
        assert got == 1 and out == "", (what, got, out, err)
        for word in (code, f"flows/a.yaml:{place}", "━", *english):
            assert word in err, (what, word, err)
        assert err.rstrip().endswith("Errors: 1"), (what, err)
        got, _, err = world.run("check", project, **CHINESE)
        assert got == 1 and all(word in err for word in chinese), (what, err)
        got, out, _ = world.run("check", project, "--json")
        [found] = json.loads(out)["diagnostics"]
        assert got == 1 and found["code"] == code and found["message_zh"], (what, found)
        # A project that does not check does not start, and says the same.
        got, _, err = world.run("run", project, BUSBAR_HTTP_LISTEN="off", BUSBAR_MQTT_LISTEN="off",
                                BUSBAR_DATA_DIR=world.folder / "data")
        assert got == 78 and code in err, (what, got, err)


def case_usage_errors_name_what_was_meant(world):
    for args, word in (
        (("chek",), "check"), (("check", "--jso"), "--json"), (("sql",), ("No query", "没有给出查询")),
        (("flows", "rollback", "a", "x"), "x"), (("top", "--twice"), "--twice"),
        (("sql", "select 1", "--csv", "--json"), "--csv"), (("top", "--node"), "--node"),
    ):
        english, chinese = word if isinstance(word, tuple) else (word, word)
        got, out, err = world.run(*args)
        assert got == 2 and out == "" and english in err, (args, got, err)
        got, out, err = world.run(*args, **CHINESE)
        assert got == 2 and out == "" and chinese in err, (args, got, err)
        assert any("\u4e00" <= letter <= "\u9fff" for letter in err), err
    got, _, err = world.run("sql", "select 1", "--node", "http://127.0.0.1:9")
    assert got == 69 and "busbar run" in err, (got, err)
    got, _, err = world.run("sql", "select 1", "--node", "http://127.0.0.1:9", **CHINESE)
    assert got == 69 and "没有节点应答" in err, (got, err)
    got, out, err = world.run("sql", "select 1", "--node", "http://127.0.0.1:9", "--json")
    assert got == 69 and json.loads(out)["error"]["code"] == "cli.node-unreachable" and err == "", (out, err)


def case_shells_complete_commands_options_and_names(world):
    for shell in ("bash", "zsh", "fish", "elvish", "powershell"):
        got, out, _ = world.run("completions", shell)
        assert got == 0 and "BUSBAR_COMPLETE" in out, shell
    node = world.start(world.project(streams__rain=STREAM, flows__rain_alarm=FLOW))
    script = world.folder / "busbar.bash"
    script.write_text(world.run("completions", "bash")[1])
    (world.folder / "busbar").symlink_to(world.busbar)

    def complete(*words, **env):
        """What bash offers when Tab is pressed behind the last word."""
        line = " ".join(words)
        ask = f""". {script}; COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}
COMP_LINE={line!r}; COMP_POINT={len(line)}; COMP_TYPE=9
_clap_complete_busbar busbar {words[-1]!r} {words[-2]!r}; printf '%s\\n' "${{COMPREPLY[@]}}" """
        env = world.environment(PATH=f"{world.folder}:/usr/bin:/bin", **env)
        done = subprocess.run(["bash", "-c", ask], env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        return {found.strip() for found in done.stdout.split("\n")}

    at = {"BUSBAR_NODE": node.url}
    assert "dead-letters" in complete("busbar", "dea", **at)
    assert {"pause", "resume", "rollback"} <= complete("busbar", "flows", "", **at)
    assert "--dry-run" in complete("busbar", "apply", "--dr", **at)
    for words in (("flows", "pause", "ra"), ("replay", "ra"), ("dead-letters", "list", "--flow", "")):
        assert "rain-alarm" in complete("busbar", *words, **at), words
    assert "gauge/+/rain" in complete("busbar", "tap", "", **at)
    # The node that is typed goes before that of the environment; one that is not there offers nothing.
    dead = {"BUSBAR_NODE": "http://127.0.0.1:9"}
    assert "rain-alarm" in complete("busbar", "--node", node.url, "flows", "pause", "", **dead)
    assert "rain-alarm" not in complete("busbar", "flows", "pause", "", **dead)
    node.stop()


def case_schemas_are_printed(world):
    for kind in ("config", "stream", "flow", "table", "connection"):
        got, out, _ = world.run("schema", kind)
        assert got == 0 and "properties" in json.loads(out) or "$defs" in json.loads(out), kind


def case_every_command_has_help_in_both_languages(world):
    _, out, _ = world.run("--help")
    names = [line.split()[0] for line in out.split("Commands:")[1].split("Options:")[0].splitlines() if line.strip()]
    assert {"run", "check", "test", "apply", "pull", "sql", "tap", "top", "replay", "dead-letters", "doctor", "bench",
            "login", "logout"} <= set(names), names
    for name in names:
        if name == "help":
            continue
        got, out, _ = world.run(name, "--help")
        assert got == 0 and "Usage: busbar" in out, (name, out)
        for asked in ((name, "--help"), (name, "-h"), ("help", name)):
            got, out, _ = world.run(*asked, **CHINESE)
            assert got == 0 and "用法: busbar" in out and "选项:" in out and "Usage" not in out, (asked, out)
    # Whoever sets several variables is understood as by other programs.
    for env, chinese in (
        ({"LC_ALL": "", "LC_MESSAGES": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, True),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": "zh_CN.UTF-8"}, True),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, False),
        ({"LC_ALL": "C", "BUSBAR_LANG": "zh"}, True),
        ({"LC_ALL": "zh_CN.UTF-8", "BUSBAR_LANG": "en"}, False),
    ):
        _, out, _ = world.run("--help", **env)
        assert ("退出码" in out) == chinese and ("Exit codes" in out) != chinese, (env, out)


def case_groups_without_a_command_list(world):
    node = world.start(world.project(streams__rain=STREAM, flows__rain_alarm=FLOW))
    at = {"BUSBAR_NODE": node.url}
    for group, words in (
        ("flows", ("rain-alarm", "运行中")), ("dead-letters", ("No dead letters", "没有死信")),
        ("user", ("No users", "没有用户")), ("token", ("No tokens", "没有令牌")),
        ("apis", ("No APIs", "没有可调用的 API")),
    ):
        got, out, err = world.run(group, **at)
        assert got == 0 and words[0] in out and err == "", (group, out, err)
        got, out, err = world.run(group, **at, **CHINESE)
        assert got == 0 and words[1] in out and err == "", (group, out, err)
        got, out, _ = world.run(group, "--json", **at)
        whole = world.run(group, "list", "--json", **at)[1]
        assert got == 0 and json.loads(out).keys() == json.loads(whole).keys(), out
    got, _, err = world.run("flows", "pause", "nosuch", **at)
    assert got == 1 and "`busbar flows` lists them" in err, err
    for words in ({}, CHINESE):
        got, _, err = world.run("token", "add", "ci", **at, **words)
        assert got == 1 and "busbar user add" in err, (got, err)
    node.stop()


def case_apis_are_listed_and_described(world):
    api = "parameters: { site: text }\nquery: select level_mm from rain where site = $site\ndescription: Levels of a site\n"
    node = world.start(world.project(streams__rain=STREAM, apis__levels=api))
    at = {"BUSBAR_NODE": node.url}
    got, out, err = world.run("apis", **at)
    assert got == 0 and all(word in out for word in ("levels", "query", "Levels of a site")), (got, out, err)
    got, out, err = world.run("apis", **at, **CHINESE)
    assert got == 0 and "说明" in out, (got, out, err)
    got, out, err = world.run("apis", "describe", "levels", **at)
    parameters = json.loads(out)["paths"]["/apis/levels"]["get"]["parameters"]
    assert got == 0 and [parameter["name"] for parameter in parameters] == ["site"], (got, out, err)
    got, _, err = world.run("apis", "describe", "nosuch", **at)
    assert got != 0 and "nosuch" in err, (got, err)
    node.stop()


def case_queries_come_from_standard_input_too(world):
    node = world.start(world.project(streams__rain=STREAM))
    at = {"BUSBAR_NODE": node.url}
    got, out, _ = world.run("sql", "--csv", stdin="select 1 as a; -- ; nothing\nselect ';' as b;\n-- the end", **at)
    assert got == 0 and out == "a\n1\nb\n;\n", out
    got, out, _ = world.run("sql", "--json", stdin="select 1 as a; select 2 as a", **at)
    assert got == 0 and [json.loads(line) for line in out.splitlines()] == [[{"a": 1}], [{"a": 2}]], out
    got, out, err = world.run("sql", "--csv", stdin="select 1 as a; select nosuch; select 2 as a", **at)
    assert got == 78 and out == "a\n1\n" and "nosuch" in err, (got, out, err)
    got, _, err = world.run("sql", stdin="-- nothing\n", **at)
    assert got == 2 and "No query" in err, (got, err)
    got, out, err = world.run("sql", "values (1), (2), (3)", "--limit", "2", **at)
    assert got == 0 and len(out.splitlines()) == 3 and "raise --limit" in err, (out, err)
    node.stop()


def case_queries_are_typed_at_a_prompt(world):
    node = world.start(world.project(streams__rain=STREAM))
    # A query over two lines, a mistake that does not end it, a query that an empty line ends, and the end.
    out = world.type(("sql",), ("select 40\n", "+ 2 as sum;\n", "select levl_mm from rain;\n",
                                "select max(level_mm) as top from rain\n", "\n", "\x04"), BUSBAR_NODE=node.url)
    assert "sum" in out and "42" in out, out
    assert "did you mean level_mm?" in out, out
    assert "top" in out.split("did you mean")[1], out
    node.stop()


def case_output_that_nobody_reads_ends_quietly(world):
    node = world.start(world.project(streams__rain=STREAM))
    for level in range(200):
        node.publish({"topic": "gauge/g1/rain", "payload": {"site": "a", "level_mm": level}})
    for command in ("tap 'gauge/#' --from earliest", "sql 'select * from rain'", "schema flow", "--help", "flows"):
        done = subprocess.run(
            ["bash", "-c", f"{world.busbar} {command} | head -1"], env=world.environment(BUSBAR_NODE=node.url),
            capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0 and len(done.stdout.splitlines()) <= 1, (command, done)
        assert "panic" not in done.stderr and "ipe" not in done.stderr, (command, done.stderr)
    node.stop()


def case_reports_have_colour_at_terminals_only(world):
    project = world.project(streams__rain=STREAM, flows__a=FLOW.replace("where: level_mm", "where: levl_mm"))
    assert "\x1b[" not in world.run("check", project)[2]
    assert "\x1b[1m" in world.type(("check", project), ())
    assert "\x1b[1m" not in world.type(("check", project), (), NO_COLOR="1")


def case_top_fits_the_terminal(world):
    streams = {f"streams__s{n}": f"topics: s{n}/#\n" for n in range(40)}
    node = world.start(world.project(**streams))
    out = world.type(("top",), ("\x03",), BUSBAR_NODE=node.url)
    picture = out.split("\x1b[J")[0].replace("\x1b[K", "").replace("\x1b[H", "")
    lines = picture.splitlines()
    assert "more; a taller terminal" in picture and len(lines) < 24, picture
    assert all(len(line) <= 80 for line in lines), picture
    node.stop()


def case_a_query_that_is_wrong_is_marked(world):
    node = world.start(world.project(streams__rain=STREAM))
    for query, word, code, words in (
        ("select levl_mm from rain", "levl_mm", "sql.unknown-column", ("did you mean level_mm?", "━━━━━━━")),
        ("selec 1", "selec", "sql.unexpected", ("selec",)),
        ("select * from rian", "rian", "sql.unknown-relation", ("rian", "━━━━")),
        ("drop table rain", "drop", "sql.read-only", ("drop", "━━━━")),
    ):
        got, out, err = world.run("sql", query, BUSBAR_NODE=node.url)
        assert got == 78 and out == "" and code in err and all(word in err for word in words), (query, got, err)
        assert query in err and f"sql:1:{query.index(word) + 1}\n" in err, err
        got, out, err = world.run("sql", query, "--json", BUSBAR_NODE=node.url)
        assert got == 78 and json.loads(out)["error"]["code"] == code and err == "", (query, out, err)
    got, _, err = world.run("sql", "select levl_mm from rain", BUSBAR_NODE=node.url, **CHINESE)
    assert got == 78 and "是否想写 level_mm" in err, err
    node.stop()


def case_a_project_is_applied_compared_and_rolled_back(world):
    node = world.start(world.project())
    at = {"BUSBAR_NODE": node.url}
    # The wrong folder would take everything away.
    (world.folder / "nothing").mkdir()
    for more in ((), ("--dry-run",)):
        got, out, err = world.run("apply", world.folder / "nothing", *more, **at)
        assert got == 1 and out == "" and "busbar.toml" in err, (got, out, err)
    other = world.project("other", streams__rain=STREAM, flows__rain_alarm=FLOW)
    got, out, err = world.run("apply", other, "--dry-run", **at)
    assert got == 0 and "added    flows/rain-alarm.yaml" in out, (got, out, err)
    assert node.ask("GET", "/api/v1/flows").json()["flows"] == []
    got, out, err = world.run("apply", other, **at)
    assert got == 0 and "added    streams/rain.yaml" in out, (got, out, err)
    file = other / "flows/rain-alarm.yaml"
    file.write_text(FLOW.replace("50", "70"))
    got, out, err = world.run("apply", other, "--note", "higher", **at)
    assert got == 0 and "changed  flows/rain-alarm.yaml" in out, (got, out, err)
    got, out, _ = world.run("flows", "versions", "rain-alarm", **at)
    assert got == 0 and "higher" in out, out
    versions = json.loads(world.run("flows", "versions", "rain-alarm", "--json", **at)[1])["versions"]
    new, old = versions[0]["version"], versions[1]["version"]
    got, out, _ = world.run("flows", "diff", "rain-alarm", old, new, **at)
    assert got == 0 and "-  - where: level_mm >= 50" in out and "+  - where: level_mm >= 70" in out, out
    got, out, _ = world.run("flows", "diff", "rain-alarm", old, old, **at)
    assert got == 0 and "do not differ" in out, out
    got, out, err = world.run("flows", "rollback", "rain-alarm", old, **at)
    assert got == 0, (out, err)
    source = node.ask("GET", "/api/v1/flows/rain-alarm").json()["source"]
    assert "level_mm >= 50" in source, source
    file.write_text(FLOW.replace("level_mm >= 50", "nosuch > 1"))
    got, out, err = world.run("apply", other, **at)
    assert got == 1 and "nosuch" in err and "━━" in err, (got, err)
    got, out, _ = world.run("apply", other, "--json", **at)
    assert got == 1 and json.loads(out)["diagnostics"], out
    for action, state in (("pause", "paused"), ("resume", "running")):
        assert world.run("flows", action, "rain-alarm", **at)[0] == 0
        assert node.ask("GET", "/api/v1/flows/rain-alarm").json()["state"] == state
    got, _, err = world.run("flows", "diff", "rain-alarm", 1, 99, **at)
    assert got == 1 and "99" in err, err
    for level in range(60, 90):
        assert node.publish({"topic": "gauge/g1/rain", "payload": {"site": "a", "level_mm": level}}).status == 200
    got, out, err = world.run("replay", "rain-alarm", "--wait", **at)
    assert got == 0 and "has read all its input. Events read: 30," in out, (out, err)
    got, out, err = world.run("replay", "rain-alarm", "--wait", "--json", **at)
    assert got == 0 and isinstance(json.loads(out), dict) and err == "", (out, err)
    got, out, err = world.run("replay", "rain-alarm", "--from", "latest", "--wait", **at)
    assert got == 0 and "Events read: 0," in out, (out, err)
    got, _, err = world.run("replay", "nosuch", **at)
    assert got == 1 and "nosuch" in err, err
    # What is no longer in the folder is no longer on the node.
    file.unlink()
    got, out, err = world.run("apply", other, **at)
    assert got == 0 and "removed  flows/rain-alarm.yaml" in out, (got, out, err)
    assert node.ask("GET", "/api/v1/flows").json()["flows"] == []
    node.stop()


def case_what_runs_is_written_back_into_a_folder(world):
    node = world.start(world.project(streams__rain=STREAM, flows__rain_alarm=FLOW))
    at = {"BUSBAR_NODE": node.url}
    here = world.folder / "pulled"
    got, out, err = world.run("pull", here, "--dry-run", **at)
    assert got == 0 and "added    flows/rain-alarm.yaml" in out and not here.exists(), (got, out, err)
    got, out, err = world.run("pull", here, **at)
    assert got == 0 and "added    streams/rain.yaml" in out, (got, out, err)
    assert (here / "streams/rain.yaml").read_text() == STREAM
    assert (here / "flows/rain-alarm.yaml").read_text() == FLOW
    got, out, err = world.run("apply", here, "--dry-run", "--json", **at)
    assert got == 0 and json.loads(out)["changes"] == [], (got, out, err)
    # What was changed in the folder gives way; what only the folder has stays unless it is to be deleted.
    (here / "flows/rain-alarm.yaml").write_text(FLOW.replace("50", "70"))
    (here / "streams/snow.yaml").write_text(STREAM)
    got, out, err = world.run("pull", here, **at)
    assert got == 0 and "changed  flows/rain-alarm.yaml" in out and "streams/snow.yaml" in err, (got, out, err)
    assert (here / "flows/rain-alarm.yaml").read_text() == FLOW and (here / "streams/snow.yaml").exists()
    got, out, err = world.run("pull", here, "--delete", "--json", **at)
    assert got == 0 and json.loads(out)["changes"] == [{"path": "streams/snow.yaml", "kind": "removed"}], (got, out)
    assert not (here / "streams/snow.yaml").exists()
    got, out, err = world.run("pull", here, **at)
    assert got == 0 and "already holds" in out and err == "", (got, out, err)
    node.stop()


def case_dead_letters_are_listed_inspected_and_sent_again(world):
    node = world.start(world.project(streams__rain=STREAM, flows__rain_alarm=FLOW))
    at = {"BUSBAR_NODE": node.url}
    for payload in ({"site": "a", "level_mm": "deep"}, {"site": "a", "level_mm": 61}, "no object"):
        assert node.publish({"topic": "gauge/g1/rain", "payload": payload}).status == 200

    def listed(*args):
        return json.loads(world.run("dead-letters", "list", "--json", *args, **at)[1])["letters"]

    wait_for("both dead letters", lambda: len(listed()) == 2)
    other, letter = listed()
    assert other["code"] != letter["code"], (other, letter)
    assert listed("--limit", "1") == [other] and listed("--cause", letter["code"]) == [letter]
    assert listed("--flow", "rain-alarm") == [other, letter] and listed("--flow", "nosuch") == []
    got, out, _ = world.run("dead-letters", "groups", **at)
    assert got == 0 and "rain-alarm" in out and letter["code"] in out, out
    got, out, _ = world.run("dead-letters", "inspect", letter["id"], **at)
    assert got == 0 and '"deep"' in out and "rain/0@0" in out and letter["cause"] in out, out
    got, out, _ = world.run("dead-letters", "inspect", letter["id"], **at, **CHINESE)
    assert got == 0 and letter["cause_zh"] in out, out
    got, _, err = world.run("dead-letters", "inspect", "999", **at)
    assert got == 1 and "999" in err, err
    # One that is mistyped is named, and nothing is sent.
    got, out, err = world.run("dead-letters", "redrive", letter["id"], "999", **at)
    assert got == 1 and out == "" and "999" in err and "`busbar dead-letters` lists them" in err, (got, out, err)
    for args in (("--flow", "nosuch"), ("--cause", "nosuch")):
        got, out, _ = world.run("dead-letters", "redrive", *args, **at)
        assert got == 0 and "Events sent again: 0" in out, (args, out)
    got, out, err = world.run("dead-letters", "redrive", letter["id"], **at)
    assert got == 0 and "Events sent again: 1" in out and "died again: 1" in out, (out, err)
    assert other["id"] in [waiting["id"] for waiting in listed()]
    node.stop()


def case_a_message_is_found_followed_and_sent_again(world):
    alarms = "topics: alarm/+/rain\nformat: json\nschema: { site: text, level_mm: float }\n"
    node = world.start(world.project(streams__rain=STREAM, streams__alarms=alarms, flows__rain_alarm=FLOW))
    at = {"BUSBAR_NODE": node.url}
    for level in (12, 61):
        assert node.publish({"topic": "gauge/g1/rain", "key": f"k{level}", "payload": {"site": "a", "level_mm": level}}).status == 200

    def found(*args):
        return json.loads(world.run("trace", "find", "--json", *args, **at)[1])["events"]

    wait_for("the alarm", lambda: found("--stream", "alarms"))
    assert [event["offset"] for event in found("--key", "k12", "--stream", "rain")] == [0]
    assert len(found("gauge", "--limit", "1")) == 1
    got, out, err = world.run("trace", "find", "61", **at)
    assert got == 0 and "rain/0@1" in out and "alarms/0@0" in out, (out, err)
    got, out, _ = world.run("trace", "find", "nothing-has-this", **at, **CHINESE)
    assert got == 0 and "没有符合条件的消息" in out, out
    # What a condition leaves out, and what goes on to another stream.
    got, out, err = world.run("trace", "show", "rain/0@0", **at)
    assert got == 0 and "left out" in out and "did not come here" in out, (out, err)
    got, out, err = world.run("trace", "show", "rain/0@1", **at)
    assert got == 0 and "alarm/a/rain  alarms/0@0" in out and "rain-alarm, version 1" in out, (out, err)
    # The event that came of it is followed, too.
    assert out.count("alarms/0@0") == 2, out
    assert "left out" not in out and "被过滤" in world.run("trace", "show", "rain/0@0", **at, **CHINESE)[1], out
    got, out, _ = world.run("trace", "show", "rain/0@1", "--hops", "0", "--json", **at)
    traced = json.loads(out)
    assert len(traced["traces"]) == 1 and traced["left"] == 1, traced
    got, out, err = world.run("trace", "resend", "rain/0@0", "--flow", "rain-alarm", "--payload", '{"site":"b","level_mm":70}', **at)
    assert got == 0 and "Sent again: 1" in out, (out, err)
    wait_for("the second alarm", lambda: len(found("--stream", "alarms")) == 2)
    assert found("--stream", "alarms")[0]["topic"] == "alarm/b/rain"
    for place, code in (("rain", 2), ("rain/0@99", 1)):
        got, out, err = world.run("trace", "show", place, **at)
        assert got == code and out == "" and "rain" in err, (place, got, out, err)
    node.stop()


def case_a_login_is_kept_and_given_back(world):
    node = world.start(world.project(streams__rain=STREAM))
    at = {"BUSBAR_NODE": node.url}
    got, out, err = world.run("user", "add", "ann", stdin="short\n", **at)
    assert got == 1 and "8" in err, err
    assert world.run("user", "add", "ann", stdin="long-enough\n", **at)[0] == 0
    got, _, err = world.run("user", "list", **at)
    assert got == 77 and "busbar login" in err, err
    got, _, err = world.run("login", "ann", stdin="wrong-password\n", **at)
    assert got == 77, (got, err)
    got, out, err = world.run("login", "ann", stdin="long-enough\n", **at)
    assert got == 0 and "ann" in out, (out, err)
    kept = world.folder / "settings/busbar/logins.json"
    assert kept.stat().st_mode & 0o077 == 0, oct(kept.stat().st_mode)
    got, out, _ = world.run("user", "list", **at)
    assert got == 0 and "ann" in out, out
    # Somebody who may read one stream only.
    got, _, err = world.run("user", "add", "bob", "--role", "viewer", "--read", "stream:rain", "--subscribe", "gauge/#",
                            stdin="long-enough\n", **at)
    assert got == 0, err
    bob = {**at, "BUSBAR_USER": "bob", "BUSBAR_PASSWORD": "long-enough"}
    assert world.run("sql", "select count(*) from rain", **bob)[0] == 0
    got, _, err = world.run("sql", "select * from inbox", **bob)
    assert got == 77 and "inbox" in err, (got, err)
    got, _, err = world.run("flows", "pause", "x", **bob)
    assert got == 77, (got, err)
    assert world.run("user", "change", "bob", "--password", stdin="another-one\n", **at)[0] == 0
    assert world.run("sql", "select 1", **bob)[0] == 77
    bob["BUSBAR_PASSWORD"] = "another-one"
    got, token, err = world.run("token", "add", "ci", **bob)
    assert got == 0 and token.startswith("bbt_"), (token, err)
    got, out, _ = world.run("sql", "select count(*) from rain", "--csv", BUSBAR_TOKEN=token.strip(), **at)
    assert got == 0 and out.splitlines()[1] == "0", out
    # A name that is given goes before a token.
    assert world.run("sql", "select 1", BUSBAR_TOKEN="bbt_none", **bob)[0] == 0
    ann = {**at, "BUSBAR_USER": "ann", "BUSBAR_PASSWORD": "long-enough"}
    got, out, err = world.run("token", "add", "narrow", "--role", "operator", "--expires", "2999-01-01T00:00:00Z",
                              "--read", "stream:rain", "--json", **ann)
    made = json.loads(out)
    assert (made["role"], made["rules"]["read"]) == ("operator", ["stream:rain"]), made
    assert made["expires"].startswith("2999-01-01"), made
    assert world.run("user", "remove", "bob", **at)[0] == 0
    assert world.run("sql", "select 1", BUSBAR_TOKEN=token.strip(), **at)[0] == 77
    # One login at a time: what was kept before is worthless, and so is what is given back.
    first = json.loads(kept.read_text())[node.url]["token"]
    assert world.run("login", "ann", stdin="long-enough\n", **at)[0] == 0
    second = json.loads(kept.read_text())[node.url]["token"]
    assert world.run("user", "list", BUSBAR_TOKEN=first, **at)[0] == 77
    assert world.run("user", "list", BUSBAR_TOKEN=second, **at)[0] == 0
    assert world.run("logout", **at)[0] == 0
    assert world.run("user", "list", **at)[0] == 77
    assert world.run("user", "list", BUSBAR_TOKEN=second, **at)[0] == 77
    assert world.run("logout", **at)[0] == 1
    node.stop()


def case_flow_tests_tell_the_difference(world):
    tests = ("tests:\n  - given: [{ topic: gauge/g1/rain, payload: { site: a, level_mm: 62 } }]\n"
             "    expect: [{ site: b, level_mm: 62.0 }]\n")
    project = world.project(streams__rain=STREAM, flows__rain_alarm=FLOW + tests)
    got, out, err = world.run("test", project)
    assert got == 1 and re.search(r'1 +site +"b" +"a"', out), (got, out, err)
    got, out, _ = world.run("test", project, **CHINESE)
    assert got == 1 and re.search(r'行 +列 +应为 +实际\n +1 +site +"b" +"a"', out), out
    got, out, _ = world.run("test", project, "--json")
    assert got == 1 and json.loads(out)["tests"][0]["passed"] is False, out
    got, out, _ = world.run("test", ROOT / "examples/host-watch")
    assert got == 0, out
    # One flow's tests alone.
    (project / "flows/dry.yaml").write_text(FLOW.replace(">=", "<").replace("alarm", "dry"))
    got, out, _ = world.run("test", project, "--flow", "dry")
    assert got == 0 and "rain-alarm" not in out, out
    got, _, err = world.run("test", project, "--flow", "nosuch")
    assert got == 78 and "nosuch" in err, (got, err)
    (project / "flows/dry.yaml").write_text(FLOW.replace("level_mm", "levl_mm"))
    got, _, err = world.run("test", project)
    assert got == 78 and "levl_mm" in err, (got, err)


def case_events_are_tapped(world):
    node = world.start(world.project(streams__rain=STREAM))
    at = {"BUSBAR_NODE": node.url}
    for level in range(5):
        assert node.publish({"topic": "gauge/g1/rain", "payload": {"site": "a", "level_mm": level}}).status == 200
    got, out, _ = world.run("tap", "gauge/#", "--from=-2", "-n", "2", **at)
    assert got == 0, out
    assert [json.loads(line.split()[-1])["level_mm"] for line in out.splitlines()] == [3, 4], out
    got, out, _ = world.run("tap", "gauge/#", "--from", "earliest", "-n", "5", "--json", **at)
    assert [json.loads(line)["payload"]["level_mm"] for line in out.splitlines()] == [0, 1, 2, 3, 4], out
    octets = {"content-type": "application/octet-stream"}
    assert node.ask("POST", "/api/v1/events?topic=raw/1", b"\xff\x00", octets).status == 200
    got, out, _ = world.run("tap", "raw/#", "--from=-1", "-n", "1", **at)
    assert got == 0 and out.rstrip().endswith("/wA="), out
    got, _, err = world.run("tap", "gauge/#/rain", **at)
    assert got == 1 and "gauge/#/rain" in err, err
    got, out, _ = world.run("top", "--once", **at)
    assert got == 0 and "rain" in out, out
    node.stop()


def case_the_smallest_project_keeps_everything_in_the_inbox(world):
    node = world.start(ROOT / "examples/minimal")
    at = {"BUSBAR_NODE": node.url}
    event = {"topic": "gauge/g1/rain", "key": "k", "tags": {"site": "a"}, "payload": {"level_mm": 3}}
    assert node.publish(event).status == 200
    got, out, err = world.run("sql", "--json", "select topic, key, time, tags, payload from inbox", **at)
    [row] = json.loads(out)
    assert got == 0 and (row["topic"], row["key"]) == ("gauge/g1/rain", "k") and "a" in str(row["tags"]), (row, err)
    assert json.loads(row["payload"]) == {"level_mm": 3} and row["time"].endswith("Z"), row
    node.stop()


def case_a_new_plugin_works_is_deployed_and_rolled_back(world):
    flow = "from: rain\nsteps:\n  - script: twice\nto:\n  - topic: out/rain\n"
    project = world.project(streams__rain="topics: gauge/+/rain\nformat: json\n", flows__double=flow)
    got, out, err = world.run("plugin", "new", "twice", "--language", "python", "--dir", project)
    assert got == 0, (out, err)
    got, out, err = world.run("test", project, "--json")
    assert got == 0 and len(json.loads(out)["tests"]) == 2, (out, err)
    node = world.start(world.project("empty"))
    at = {"BUSBAR_NODE": node.url}

    def made(level):
        """What the plug-in that runs makes of a value."""
        assert node.publish({"topic": "gauge/g1/rain", "payload": {"value": level}}).status == 200
        query = "select payload from inbox where topic = 'out/rain'"

        def found():
            _, out, _ = world.run("sql", "--json", query, **at)
            values = [json.loads(row["payload"])["value"] for row in json.loads(out or "[]")]
            return [value for value in values if value in (2 * level, 3 * level)]

        return wait_for(f"what is made of {level}", found)

    got, out, err = world.run("apply", project, **at)
    assert got == 0, (out, err)
    assert made(10) == [20]
    main = project / "plugins/twice/main.py"
    first = main.read_text()
    # A version that does not load is refused with its place, and the one before goes on.
    main.write_text("def process(event):\n    return (\n")
    got, out, err = world.run("apply", project, **at)
    assert got != 0 and "main.py" in out + err and "2" in out + err, (got, out, err)
    assert made(100) == [200]
    # So is one that does not pass its tests; with other tests it is deployed, and the first comes back.
    main.write_text(first.replace("*= 2", "*= 3"))
    got, out, err = world.run("apply", project, **at)
    assert got != 0 and "payload.value" in out + err, (got, out, err)
    spec = project / "plugins/twice/plugin.yaml"
    spec.write_text("language: python\n")
    got, out, err = world.run("apply", project, **at)
    assert got == 0, (out, err)
    assert made(1000) == [3000]
    got, out, err = world.run("plugin", "rollback", "twice", "2", **at)
    assert got == 0, (out, err)
    assert made(10000) == [20000]
    node.stop()


def case_every_flow_of_the_examples_has_a_test(world):
    for project in sorted(path.parent for path in (ROOT / "examples").glob("*/busbar.toml")):
        got, out, err = world.run("test", project, "--json")
        assert got == 0, (project, out, err)
        tested = {test["flow"] for test in json.loads(out)["tests"]}
        there = {file.stem for file in project.glob("flows/*.yaml")}
        there |= {f"plugins/{file.parent.name}" for file in project.glob("plugins/*/plugin.yaml")}
        assert tested == there, (project, tested)


if __name__ == "__main__":
    sys.exit(main(dict(globals()), sys.argv[1]))
