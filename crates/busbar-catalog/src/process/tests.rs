use std::collections::BTreeMap;

use busbar_bus::Span;
use proptest::prelude::*;

use super::{flow_file, flow_of, process_of};
use crate::diagnostic::Diagnostic;
use crate::flow::{
    FlowSpec, OutputChange, OutputSpec, OutputTarget, ProcessNames, Start, TestSpec,
};
use crate::flow_names::{mediations, node_names};
use crate::step::{
    AggregateSpec, DedupeSpec, MemberCount, RouteCase, RouteCondition, RouteDefault, RouteMatch,
    RouteSpec, StepSpec,
};
use crate::tree::Source;

/// Texts that XML, YAML or JSON write in a way of their own.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9_ ]{0,12}",
        "[a-z<>&'\"\\]\\\\:#{}\n\t 中é-]{1,20}".prop_map(|text| format!("x{text}x")),
        Just("n".to_owned()),
        Just("a ]]> b & c < d".to_owned()),
        Just("yes".to_owned()),
        Just("x\r\ny".to_owned()),
    ]
}

fn span() -> impl Strategy<Value = Span> {
    (1_i64..10_000).prop_map(|seconds| Span::from_micros(seconds * 1_000_000))
}

fn leaf() -> impl Strategy<Value = StepSpec> {
    prop_oneof![
        text().prop_map(StepSpec::Where),
        text().prop_map(StepSpec::Select),
        text().prop_map(StepSpec::Sql),
        "[a-z]{1,8}".prop_map(StepSpec::Script),
        (text(), span()).prop_map(|(by, within)| {
            let by = vec![by];
            StepSpec::Dedupe(DedupeSpec {
                name: None,
                by,
                within,
            })
        }),
        (text(), span(), text()).prop_map(|(by, within, select)| {
            StepSpec::Aggregate(AggregateSpec {
                name: Some("kept".to_owned()),
                by: vec![by],
                count: Some(MemberCount("3".to_owned())),
                when: None,
                within,
                reopen: true,
                select: Some(select),
                members: None,
            })
        }),
    ]
}

/// What a case leads to, of outputs `o0` to `o2`.
fn leads() -> impl Strategy<Value = Option<Vec<String>>> {
    let names = proptest::sample::subsequence(vec!["o0", "o1", "o2"], 0..3);
    proptest::option::of(names.prop_map(|names| names.into_iter().map(str::to_owned).collect()))
}

fn route(
    inner: impl Strategy<Value = StepSpec> + Clone + 'static,
) -> impl Strategy<Value = StepSpec> {
    let steps = proptest::collection::vec(inner, 0..3);
    let case = (
        proptest::option::of("[a-z]{1,6}"),
        text(),
        steps.clone(),
        leads(),
    );
    let case = case.prop_map(|(name, when, steps, to)| RouteCase {
        name,
        when: RouteCondition::Sql(when),
        steps,
        to,
    });
    let default =
        proptest::option::of((steps, leads()).prop_map(|(steps, to)| RouteDefault { steps, to }));
    let cases = proptest::collection::vec(case, 1..4);
    (cases, default, any::<bool>()).prop_map(|(cases, default, all)| {
        StepSpec::Route(RouteSpec {
            name: None,
            matching: match all {
                true => RouteMatch::All,
                false => RouteMatch::First,
            },
            cases,
            default,
        })
    })
}

fn step() -> impl Strategy<Value = StepSpec> {
    leaf().prop_recursive(3, 16, 3, |inner| prop_oneof![inner.clone(), route(inner)])
}

fn flow() -> impl Strategy<Value = FlowSpec> {
    let outputs = (text(), any::<bool>(), proptest::option::of(text()));
    let outputs = outputs.prop_map(|(topic, retain, key)| {
        let output = |name: &str, target| OutputSpec {
            name: Some(name.to_owned()),
            target,
            key: None,
            retain: false,
            change: None,
        };
        let topic = OutputSpec {
            key,
            retain,
            ..output("o0", OutputTarget::Topic(topic))
        };
        let stream = OutputTarget::Stream {
            stream: "s".to_owned(),
            topic: Some("a/${b}".to_owned()),
        };
        // It has no name, and is known by its target.
        let table = OutputSpec {
            name: None,
            change: Some(OutputChange {
                change: "change".to_owned(),
                unchanged: Some("unchanged".to_owned()),
                newer: Some(("changed".to_owned(), true)),
            }),
            ..output("", OutputTarget::Table("o2".to_owned()))
        };
        vec![topic, output("o1", stream), table]
    });
    let from = proptest::sample::subsequence(vec!["a", "b", "c"], 1..4);
    let parts = (
        proptest::option::of(text()),
        from,
        proptest::collection::vec(step(), 0..5),
        outputs,
        any::<bool>(),
        proptest::option::of(text()),
    );
    parts.prop_map(|(description, from, steps, to, enabled, test)| FlowSpec {
        description,
        from: from.into_iter().map(str::to_owned).collect(),
        start: match enabled {
            true => Start::Earliest,
            false => Start::Latest,
        },
        steps,
        to,
        tests: test
            .into_iter()
            .map(|name| TestSpec {
                name: Some(name),
                given: Vec::new(),
                expect: Vec::new(),
                outputs: BTreeMap::new(),
                dead: None,
                answers: BTreeMap::new(),
            })
            .collect(),
        process: None,
        enabled,
    })
}

/// Names for the parts of a flow, such as people give.
fn named(flow: &FlowSpec, begin: &str) -> ProcessNames {
    let of = |part: &str, count: usize| {
        let names = (0..count).map(|n| format!("{begin}{part} <{n}> & \""));
        names.collect()
    };
    ProcessNames {
        ins: of("入", flow.from.len()),
        mediations: of("m", mediations(flow).len()),
        outs: of("o", flow.to.len()),
    }
}

/// A file can say the flow: what a route in the middle must not say and the like is not asked for.
fn is_allowed(flow: &FlowSpec) -> bool {
    let text = serde_json::to_string(flow).unwrap();
    let checked = Source::parse("", &text).and_then(|source| {
        let spec: FlowSpec = source.read()?;
        crate::parse::check_flow(&spec, &source)
    });
    checked.is_ok()
}

proptest! {
    #[test]
    fn a_flow_is_the_same_behind_its_process(flow in flow(), names in proptest::option::of("[a-z]{1,4}")) {
        let mut flow = flow;
        flow.process = names.map(|begin| named(&flow, &begin));
        prop_assume!(is_allowed(&flow));
        let xml = process_of("p", &flow).unwrap();
        let (name, back) = flow_of("p.xml", &xml).map_err(|wrong| TestCaseError::fail(format!("{wrong:?}\n{xml}")))?;
        prop_assert_eq!(name, "p");
        prop_assert_eq!(&back, &flow, "{}", xml);
        // And a process is the same behind its flow.
        prop_assert_eq!(process_of("p", &back).unwrap(), xml);
        // The file of the flow says the same.
        let source = Source::parse("", &flow_file(&flow)).unwrap();
        prop_assert_eq!(source.read::<FlowSpec>().unwrap(), flow);
    }

    #[test]
    fn no_document_breaks_the_reader(text in "[<>/a-z=\"!& \\[\\]?-]{0,80}") {
        let _ = flow_of("p.xml", &text);
    }
}

/// A process of the given parts.
fn document(ins: &str, mediations: &str, outs: &str) -> String {
    format!(
        "<esbprocess name=\"p\">\n<inendpoints>\n{ins}\n</inendpoints>\n<mediations>\n{mediations}\n</mediations>\n\
         <outendpoints>\n{outs}\n</outendpoints>\n</esbprocess>\n"
    )
}

const IN: &str =
    "<inendpoint name=\"i\" stream=\"s\"><outbounds><nexthop>m</nexthop></outbounds></inendpoint>";
const OUT: &str = "<outendpoint name=\"o\" topic=\"t\"/>";

fn mediation(name: &str, next: &str) -> String {
    format!(
        "<mediation name=\"{name}\" step=\"where\"><config>a &gt; 1</config><outbounds><nexthop>{next}</nexthop></outbounds></mediation>"
    )
}

fn refused(text: &str) -> (String, usize) {
    let wrong: Diagnostic = flow_of("p.xml", text).expect_err(text);
    (wrong.error().code().to_owned(), wrong.line_column().0)
}

#[test]
fn a_process_written_by_hand_becomes_a_flow() {
    let text = document(
        "<inendpoint name=\"patients\" stream=\"patient\" replyto=\"answers\"><outbounds><nexthop>adults</nexthop></outbounds></inendpoint>",
        "<mediation name=\"adults\" step=\"where\"><inbounds><inbound>patients</inbound></inbounds>\
         <config>age &gt;= 18</config><outbounds><nexthop>ward</nexthop></outbounds></mediation>\n\
         <mediation name=\"ward\" step=\"route\"><outbounds>\
         <outbound case=\"north\"><rule>ward = 'n'</rule><nexthop>narrow</nexthop></outbound>\
         <outbound default=\"true\"><nexthop>answers</nexthop></outbound></outbounds></mediation>\n\
         <mediation name=\"narrow\" step=\"dedupe\"><config>{ by: [id], within: 1h }</config>\
         <outbounds><nexthop>north</nexthop><nexthop>answers</nexthop></outbounds></mediation>",
        "<outendpoint name=\"north\" topic=\"north/${id}\"/>\n<outendpoint name=\"answers\" table=\"seen\"/>",
    );
    let (name, flow) = flow_of("p.xml", &text).unwrap();
    assert_eq!(name, "p");
    let expected = "\
        from: [patient]\nsteps:\n  - where: age >= 18\n  - route:\n      cases:\n        - name: north\n          \
        when: ward = 'n'\n          steps: [{ dedupe: { by: [id], within: 1h } }]\n          to: ['north/${id}', replyto]\n      \
        default: { to: [replyto] }\nto:\n  - topic: north/${id}\n  - { table: seen, name: replyto }\n\
        process: { in: [patients], mediations: [adults, ward, narrow], out: [north, answers] }\n";
    let expected: FlowSpec = Source::parse("", expected).unwrap().read().unwrap();
    assert_eq!(flow, expected);
    let nodes = node_names(&flow);
    let of = |id: &str| nodes.get(id).map(String::as_str);
    assert_eq!(
        [of("from:patient"), of("step:1"), of("step:2"), of("to:1")],
        [
            Some("patients"),
            Some("ward"),
            Some("narrow"),
            Some("answers")
        ]
    );
}

#[test]
fn steps_within_a_config_are_named_after_it() {
    let choice =
        "{ cases: [{ when: a = 1, steps: [{ where: b = 1 }, { where: c = 1 }] }], default: {} }";
    let text = document(
        IN,
        &format!(
            "<mediation name=\"m\" step=\"route\"><config>{choice}</config><outbounds><nexthop>o</nexthop></outbounds></mediation>"
        ),
        OUT,
    );
    let (_, flow) = flow_of("p.xml", &text).unwrap();
    let names = flow.process.clone().unwrap();
    assert_eq!(names.mediations, ["m", "m.1", "m.2"]);
    let again = flow_of("p.xml", &process_of("p", &flow).unwrap()).unwrap();
    assert_eq!(again.1, flow);
}

#[test]
fn names_of_a_file_are_checked() {
    let file = "from: [a]\nsteps: [{ where: b > 1 }]\nto: [{ table: t }]\nprocess: ";
    let of = |names: &str| {
        let source = Source::parse("f.yaml", &format!("{file}{names}\n")).unwrap();
        let spec: FlowSpec = source.read().unwrap();
        crate::parse::check_flow(&spec, &source).map_err(|wrong| wrong.error().code().to_owned())
    };
    assert_eq!(of("{ in: [i], mediations: [m], out: [o] }"), Ok(()));
    for (names, code) in [
        ("{ in: [i], mediations: [], out: [o] }", "process.names"),
        (
            "{ in: [i], mediations: [i], out: [o] }",
            "process.name-twice",
        ),
        ("{ in: [i], mediations: [m], out: [' o'] }", "process.name"),
        ("{ in: [''], mediations: [m], out: [o] }", "process.name"),
    ] {
        assert_eq!(of(names), Err(code.to_owned()), "{names}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let good = document(IN, &mediation("m", "o"), OUT);
    flow_of("p.xml", &good).unwrap();
    let cases = [
        (
            good.replace("<mediations>", "<!-- why -->"),
            "xml.end-tag",
            0,
        ),
        (
            good.replace("<mediations>\n", "<mediations>\n<!-- why -->"),
            "process.comment",
            6,
        ),
        (
            good.replace("<mediations>\n", "<mediations>\n<filter/>"),
            "process.unknown-element",
            6,
        ),
        (
            good.replace("step=", "stage=\"1\" step="),
            "process.unknown-attribute",
            6,
        ),
        (
            good.replace(" stream=\"s\"", ""),
            "process.misses-attribute",
            3,
        ),
        (
            format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{good}"),
            "xml.document-type",
            1,
        ),
        (
            good.replace("<nexthop>o<", "<nexthop>x<"),
            "process.no-endpoint",
            6,
        ),
        (
            good.replace("<nexthop>o<", "<nexthop>i<"),
            "process.hop-to-in",
            6,
        ),
        (document(IN, &mediation("m", "m"), OUT), "process.loop", 6),
        (
            document(
                IN,
                &format!("{}\n{}", mediation("m", "k"), mediation("k", "m")),
                OUT,
            ),
            "process.loop",
            7,
        ),
        (good.replace(OUT, ""), "process.no-out", 1),
        (good.replace(IN, ""), "process.no-in", 1),
        (good.replace("\"where\"", "\"filter\""), "process.config", 6),
        (good.replace("\"where\"", "\"dedupe\""), "process.config", 6),
        (
            good.replace(OUT, &format!("{OUT}\n{OUT}")),
            "process.name-twice",
            10,
        ),
        (
            good.replace(
                OUT,
                &format!("{OUT}\n<outendpoint name=\"q\" table=\"t\"/>"),
            ),
            "process.unreached",
            10,
        ),
        (
            good.replace("topic=\"t\"", "topic=\"t\" table=\"u\""),
            "process.out-endpoint",
            9,
        ),
        (good.replace("esbprocess", "process"), "process.root", 1),
        (
            good.replace("<mediations>\n", "<mediations>\nword"),
            "process.text",
            5,
        ),
        (
            document(
                IN,
                &format!("{}\n{}", mediation("m", "o"), mediation("k", "o")),
                OUT,
            ),
            "process.unreached",
            7,
        ),
        (
            good.replace(
                "<config>",
                "<inbounds><inbound>o</inbound></inbounds><config>",
            ),
            "process.inbound",
            6,
        ),
    ];
    for (text, code, line) in cases {
        let (found, at) = refused(&text);
        assert_eq!(found, code, "{text}");
        if line > 0 {
            assert_eq!(at, line, "{code}\n{text}");
        }
    }
    let deep = "<a>".repeat(100_000);
    assert!(flow_of("p.xml", &deep).is_err());
}
