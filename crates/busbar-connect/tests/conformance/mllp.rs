//! Which answers to HL7 messages count as what, and which messages are sent.

use busbar_connector::{Delivery, RowSource, Sink};
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::mllp_subject::{Receiver, subject, value};
use crate::ports::free_port;
use crate::sinks::{delivery, open};
use crate::subjects::numbered;

struct Sending {
    receiver: Receiver,
    sink: Box<dyn Sink>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Sending {
    fn new(options: &str) -> Sending {
        let receiver = Receiver::on(free_port());
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let address = format!("127.0.0.1:{}", receiver.port);
        let connection = format!("mllp: {{ address: '{address}', timeout: 100s{options} }}\n");
        let row = subject();
        let sink = open(&row, &connection, folder.path());
        let sink = runtime.block_on(sink).expect("it opens");
        Sending {
            receiver,
            sink,
            runtime,
            _folder: folder,
        }
    }

    fn write(&mut self, delivery: &Delivery) -> Result<Vec<(usize, String)>, (Class, String)> {
        let written = self.runtime.block_on(self.sink.write(delivery));
        match written {
            Ok(written) => Ok(written
                .rejected
                .into_iter()
                .map(|(row, why)| (row, why.to_string()))
                .collect()),
            Err(why) => Err((why.class(), why.to_string())),
        }
    }
}

const NOTE: &str = ", message: { MSH.9.1: ADT, MSH.9.2: A01, NTE.3: '${note}', NTE.1: '${n}' }";

#[test]
fn the_code_of_an_answer_says_what_becomes_of_a_message() {
    let mut sending = Sending::new(NOTE);
    let rows = |n: u64| delivery("rows", &numbered(n..n + 1), n + 1);
    for (n, (code, more, class, reason)) in [
        ("AA", "", None, ""),
        ("CA", "", None, ""),
        (
            "AE",
            "\rERR|||102^Data type error^HL70357|E||||bad birthday",
            Some(Class::Permanent),
            "bad birthday",
        ),
        (
            "AE",
            "\rERR|||207^Application internal error^HL70357^^^^^^no such patient|E",
            Some(Class::Permanent),
            "no such patient",
        ),
        ("AE", "|bad text", Some(Class::Permanent), "bad text"),
        ("CE", "", Some(Class::Permanent), "CE"),
        (
            "AR",
            "\rERR|||200^Unsupported message type",
            Some(Class::Permanent),
            "Unsupported message type",
        ),
        (
            "AR",
            "\rERR|||207^Application internal error",
            Some(Class::Transient),
            "Application internal error",
        ),
        ("CR", "\rERR|||206^locked", Some(Class::Transient), "locked"),
        ("XX", "", Some(Class::Transient), "something else"),
    ]
    .into_iter()
    .enumerate()
    {
        sending
            .receiver
            .answer(move |_| Some((code, more.to_owned())));
        let written = sending.write(&rows(n as u64));
        match (class, written) {
            (None, Ok(rejected)) => assert!(rejected.is_empty(), "{code}"),
            (Some(Class::Permanent), Ok(rejected)) => {
                assert_eq!(rejected.len(), 1, "{code}");
                assert!(rejected[0].1.contains(reason), "{rejected:?}");
            }
            (Some(expected), Err((class, why))) => {
                assert_eq!(class, expected, "{why}");
                assert!(why.contains(reason), "{why}");
            }
            (class, other) => panic!("{code}{more}: {class:?} {other:?}"),
        }
    }
}

#[test]
fn one_connection_serves_all_messages_and_a_retry_goes_on_where_it_was() {
    let mut sending = Sending::new(NOTE);
    let rows = delivery("rows", &numbered(0..10), 10);
    let mut left = 5;
    sending.receiver.answer(move |_| {
        left -= 1;
        match left {
            // After five messages the receiver hangs up once, having taken nothing.
            -1 => None,
            _ => Some(("AA", String::new())),
        }
    });
    let (class, _) = sending.write(&rows).expect_err("it hung up");
    assert_eq!(class, Class::Transient);
    assert_eq!(sending.receiver.taken().len(), 5);
    sending.write(&rows).expect("the rest");
    let taken = sending.receiver.taken();
    let notes: Vec<String> = taken.iter().map(|m| value(m, "NTE.3")).collect();
    assert_eq!(notes, numbered(0..10), "none twice, none missing");
    assert_eq!(sending.receiver.connections(), 2);
    // The control id of a row is its own, and the same when the row comes again.
    let ids = |messages: &[String]| -> Vec<String> {
        messages.iter().map(|m| value(m, "MSH.10")).collect()
    };
    let first = ids(&taken);
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), 10);
    sending.write(&rows).expect("again");
    assert_eq!(ids(&sending.receiver.taken()[10..]), first);
    // After a crash it comes in another delivery; where it was made from one event, that says which it is.
    let made_of = |events: std::ops::Range<u64>, position| Delivery {
        sources: Some(
            events
                .clone()
                .map(|offset| RowSource { offset, before: 0 })
                .collect(),
        ),
        ..delivery("rows", &numbered(events), position)
    };
    sending.write(&made_of(0..10, 10)).expect("before");
    sending.write(&made_of(4..7, 7)).expect("afterwards");
    let of_events = ids(&sending.receiver.taken()[20..]);
    assert_eq!(of_events[10..], of_events[4..7]);
    let part = made_of(0..10, 10).slice(8..10);
    sending.write(&part).expect("a part");
    assert_eq!(ids(&sending.receiver.taken()[33..]), of_events[8..10]);
}

#[test]
fn an_answer_to_another_message_is_not_taken_for_this_ones() {
    let mut sending = Sending::new(NOTE);
    // A late answer to an earlier message comes before the right one, which refuses.
    sending.receiver.answer(|message| {
        let id = value(message, "MSH.10");
        let late = "=other\r\u{1c}\r\u{b}MSH|^~\\&|\rMSA|AE|";
        Some(("AA", format!("{late}{id}|no")))
    });
    let rejected = sending.write(&delivery("rows", &numbered(0..1), 1));
    let rejected = rejected.expect("an answer");
    assert!(
        rejected.len() == 1 && rejected[0].1.contains("no"),
        "{rejected:?}"
    );
}

#[test]
fn payloads_that_are_messages_are_sent_as_they_came() {
    let mut sending = Sending::new("");
    let good = "MSH|^~\\&|A||||||ADT^A01|M1|P|2.5\rPID|1||7\r";
    let rows = [
        good,
        "no message",
        "MSH|^~\\&|A||||||ADT^A01|M2|P|2.5\rPID|\u{1c}",
        "MSH|^~\\&|A||||||ADT^A01|M3|P|2.5|||NE|NE",
        "MSH|^~\\&|A||||||ADT^A01|M4|P|2.5|||AL|NE",
    ];
    let rejected = sending.write(&delivery("rows", &rows, 5)).expect("written");
    let at: Vec<usize> = rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!(at, [1, 2, 3], "{rejected:?}");
    assert_eq!(sending.receiver.taken(), [good, rows[4]]);
}

#[test]
fn messages_are_made_of_columns() {
    let message = ", zone: '+08:00', message: { MSH.9: 'ADT', PID.5.1: 'n ${n} at ${topic}', OBX.5: '${note}', ZZZ.1: 'x|y' }";
    let mut sending = Sending::new(message);
    sending
        .write(&delivery("a/b", &["one"], 1))
        .expect("written");
    let taken = sending.receiver.taken();
    for (path, expected) in [
        ("MSH.9", "ADT"),
        ("MSH.11", "P"),
        ("MSH.12", "2.5"),
        ("MSH.18", "UNICODE UTF-8"),
        ("PID.5.1", "n 0 at a/b"),
        ("OBX.5", "one"),
        ("ZZZ.1", "x|y"),
    ] {
        assert_eq!(value(&taken[0], path), expected, "{path}: {}", taken[0]);
    }
    assert!(value(&taken[0], "MSH.7").ends_with("+0800"));
    // A column that the rows do not have is found when the sink is opened.
    let folder = tempfile::tempdir().expect("a folder");
    let connection = "mllp: { address: '127.0.0.1:1', message: { PID.3: '${patient}' } }\n";
    let row = subject();
    let opened = sending
        .runtime
        .block_on(open(&row, connection, folder.path()));
    let why = opened.err().expect("refused");
    assert_eq!(
        (why.class(), why.code()),
        (Class::Configuration, "mllp.column")
    );
}

#[test]
fn messages_are_made_in_several_character_sets() {
    let message = ", charset: 'ISO IR6~ISO IR87', message: { PID.5.1: '${note}', PID.5.2: x }";
    let mut sending = Sending::new(message);
    let rows = delivery("a/b", &["山田", "한", "plain"], 3);
    let rejected = sending.write(&rows).expect("written");
    let taken = sending.receiver.taken();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(
        taken[0].contains("|ISO IR6~ISO IR87||ISO 2022-1994\r"),
        "{}",
        taken[0]
    );
    assert!(
        taken[0].contains("PID|||||\x1b$B;3ED\x1b(B^x\r"),
        "{}",
        taken[0]
    );
    assert_eq!(value(&taken[0], "PID.5.1"), "山田");
    assert_eq!(value(&taken[1], "PID.5.1"), "plain");
    // Hangul is in none of them.
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0].0, 1);
    assert!(rejected[0].1.contains("ISO IR87"), "{}", rejected[0].1);
}
