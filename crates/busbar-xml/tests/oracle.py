#!/usr/bin/env python3
"""Makes cases/generated.jsonl: expressions at random, with what libxml2 (by way of lxml) says of each.

    pip install lxml && python3 crates/busbar-xml/tests/oracle.py

Each line: the expression, and the type and value of its result, or that it is refused.
"""
import json, math, pathlib, random
from lxml import etree

HERE = pathlib.Path(__file__).parent / "cases"
NAMES = {"w": "urn:water", "p": "urn:plain", "x": "urn:extra"}
DOCUMENT = etree.parse(HERE / "document.xml", etree.XMLParser(resolve_entities=False))
R = random.Random(20261129)
AXES = ["ancestor", "ancestor-or-self", "attribute", "child", "descendant", "descendant-or-self", "following",
        "following-sibling", "namespace", "parent", "preceding", "preceding-sibling", "self"]
TAGS = ["station", "name", "level", "note", "b", "list", "item", "v", "w:level", "w:stations", "p:station", "x:name",
        "w:*", "x:*", "*", "*", "node()", "node()", "text()", "comment()", "processing-instruction()",
        "processing-instruction('do')", "id", "unit", "n", "w:kind", "xml:lang", "x", "w"]


def nodes(d):
    kind = R.random()
    if d <= 0 or kind < 0.12:
        return R.choice(["//*", "//@*", "//text()", "/*/station", "//level", "/", ".", "//v", "/descendant::node()", "//station/@id"])
    if kind < 0.2:
        return f"({nodes(d - 1)} | {nodes(d - 1)})"
    if kind < 0.25:
        return f"({nodes(d - 1)})[{predicate(d - 1)}]"
    if kind < 0.28:
        return R.choice(["id('s3')", "id(//station/@id)", "id('s3 s1')"])
    if kind < 0.36:
        return nodes(d - 1).rstrip("/") + "//" + step(d - 1)
    start = R.choice(["/", "//", "", nodes(d - 1).rstrip("/") + "/", "//station/", "//item/", "//level/"])
    return start + "/".join(step(d - 1) for _ in range(R.choice([1, 1, 2, 3])))


def step(d):
    kind = R.random()
    if kind < 0.07:
        return R.choice([".", ".."])
    if kind < 0.17:
        return "@" + R.choice(["*", "id", "unit", "n", "w:kind", "xml:lang", "a", "x:a", "node()"])
    text = R.choice(AXES) + "::" if kind < 0.6 else ""
    text += R.choice(TAGS)
    while R.random() < 0.3:
        text += f"[{predicate(d - 1)}]"
    return text


def predicate(d):
    return R.choice([lambda: str(R.randint(0, 4)), lambda: "last()", lambda: "position() mod 2 = 1", lambda: f"last() - {R.randint(0, 2)}",
                     lambda: f"position() < {R.randint(1, 4)}", lambda: truth(d), lambda: truth(d), lambda: nodes(min(d, 1)), lambda: "@id", lambda: ". = 'two'"])()


def number(d):
    if d <= 0:
        return R.choice(["0", "1", "2", "3.5", ".5", "7.", "-1", "-0.5", "0.25", "count(//v)", "number('x')", "1 div 0"])
    return R.choice([
        lambda: f"{number(d - 1)} {R.choice(['+', '-', '*', 'div', 'mod'])} {number(d - 1)}",
        lambda: f"({number(d - 1)})", lambda: f"-{number(d - 1)}", lambda: f"--{number(d - 1)}", lambda: f"count({nodes(d - 1)})", lambda: f"sum({nodes(d - 1)})",
        lambda: f"number({anything(d - 1)})", lambda: f"floor({number(d - 1)})", lambda: f"ceiling({number(d - 1)})",
        lambda: f"round({number(d - 1)})", lambda: f"string-length({text(d - 1)})", lambda: f"number()", lambda: "string-length()"])()


def text(d):
    if d <= 0:
        return R.choice(["'a'", "''", "\"two\"", "'水位'", "' a  b '", "'12.5'", "'-7'", "'NaN'", "name(//x:name)", "string(//note)"])
    return R.choice([
        lambda: f"string({anything(d - 1)})", lambda: f"concat({text(d - 1)}, {anything(d - 1)})", lambda: f"substring({text(d - 1)}, {number(0)})",
        lambda: f"substring({text(d - 1)}, {number(0)}, {number(0)})", lambda: f"substring-before({text(d - 1)}, {text(0)})",
        lambda: f"substring-after({text(d - 1)}, {text(0)})", lambda: f"normalize-space({text(d - 1)})", lambda: "normalize-space()",
        lambda: f"translate({text(d - 1)}, 'abot', 'ABO')", lambda: f"local-name({nodes(d - 1)})", lambda: f"name({nodes(d - 1)})",
        lambda: f"namespace-uri({nodes(d - 1)})", lambda: "local-name()", lambda: "string()"])()


def truth(d):
    if d <= 0:
        return R.choice(["true()", "false()", "lang('en')", "lang('zh')", "not(.)", "boolean('')"])
    return R.choice([
        lambda: f"{anything(d - 1)} {R.choice(['=', '!=', '<', '<=', '>', '>='])} {anything(d - 1)}",
        lambda: f"{anything(d - 1)} {R.choice(['=', '!=', '<', '>='])} {anything(d - 1)}",
        lambda: f"{truth(d - 1)} and {truth(d - 1)}", lambda: f"{truth(d - 1)} or {truth(d - 1)}", lambda: f"not({anything(d - 1)})",
        lambda: f"boolean({anything(d - 1)})", lambda: f"contains({text(d - 1)}, {text(0)})", lambda: f"starts-with({anything(d - 1)}, {text(0)})"])()


def anything(d):
    return R.choice([nodes, nodes, number, text, truth])(d)


def broken(expression):
    """An expression with a character too many, too few or another one."""
    at = R.randrange(len(expression))
    letter = R.choice("()[]/@.:*|,'=<+-x1 ")
    return R.choice([expression[:at] + expression[at + 1:], expression[:at] + letter + expression[at:], expression[:at] + letter + expression[at + 1:]])


def shown(node):
    if isinstance(node, tuple):
        return f"xmlns:{node[0] or ''}={node[1]}"
    if isinstance(node, etree._ElementUnicodeResult):
        return f"@{node.attrname}={node}" if node.is_attribute else f"#text={node}"
    if isinstance(node, etree._Comment):
        return f"#comment={node.text}"
    if isinstance(node, etree._ProcessingInstruction):
        return f"?{node.target}={node.text}"
    return f"{node.tag}={node.xpath('string()')}"


def result(expression):
    try:
        found = DOCUMENT.xpath(expression, namespaces=NAMES)
    except etree.XPathError:
        return ["refused"]
    if isinstance(found, bool):
        return ["truth", found]
    if isinstance(found, float):
        return ["number", str(found) if math.isnan(found) or math.isinf(found) else found]
    if isinstance(found, str):
        return ["text", str(found)]
    return ["nodes", len(found), [shown(node)[:80] for node in found][:12]]


def main():
    seen = set()
    with open(HERE / "generated.jsonl", "w") as file:
        while len(seen) < 4000:
            expression = anything(R.choice([1, 2, 2, 3]))
            is_broken = R.random() < 0.15
            if is_broken:
                expression = broken(expression)
            if len(expression) > 160 or expression in seen:
                continue
            found = result(expression)
            # libxml2 looks a function up only when it calls it, and takes a call without its last bracket.
            if is_broken and found != ["refused"]:
                continue
            seen.add(expression)
            file.write(json.dumps([expression, found], ensure_ascii=False) + "\n")


main()
