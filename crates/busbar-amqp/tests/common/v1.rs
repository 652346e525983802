//! A client of AMQP 1.0 by the byte, and what the server says in words.

use busbar_amqp::v1::encode::{ListWriter, performative, put_value};
use busbar_amqp::v1::message::V1Message;
use busbar_amqp::v1::value::{ItemReader, TypedReader, TypedValue};
use busbar_amqp::v1::{SASL_HEADER, V1_HEADER, encode, split};
use busbar_gateway::ConnId;

use super::Node;

/// A frame with a performative and a payload.
pub fn frame(code: u8, fields: impl FnOnce(&mut ListWriter<'_>), payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::frame(0, 0, &mut out, |out| {
        encode::put_described(code, out, fields);
        out.extend_from_slice(payload);
    });
    out
}

pub fn open(container: &str, frame_bytes_max: u32) -> Vec<u8> {
    let mut out = Vec::new();
    performative(0x10, 0, &mut out, |l| {
        l.text(container).null().uint(frame_bytes_max);
    });
    out
}

pub fn begin(window: u32) -> Vec<u8> {
    frame(
        0x11,
        |l| {
            l.null().uint(0).uint(window).uint(1000);
        },
        &[],
    )
}

/// What a link is attached with beside its address.
#[derive(Clone, Copy, Default)]
pub struct LinkWishes<'a> {
    pub durable: bool,
    pub dynamic: bool,
    pub settled: bool,
    pub capability: Option<&'a str>,
}

fn terminus(l: &mut ListWriter<'_>, code: u8, address: Option<&str>, asked: LinkWishes<'_>) {
    l.described(code, |l| {
        l.text_or_null(address).uint(u32::from(asked.durable) * 2);
        l.symbol_or_null(asked.durable.then_some("never")).null();
        l.flag(asked.dynamic).null();
        if code == 0x28 {
            l.null().null().null().null();
        }
        l.symbol_or_null(asked.capability);
    });
}

pub fn receiver(handle: u32, name: &str, address: Option<&str>, asked: LinkWishes<'_>) -> Vec<u8> {
    frame(
        0x12,
        |l| {
            l.text(name).uint(handle).flag(true);
            l.value(&TypedValue::Ubyte(u8::from(asked.settled))).null();
            terminus(l, 0x28, address, asked);
            terminus(l, 0x29, None, LinkWishes::default());
        },
        &[],
    )
}

pub fn sender(handle: u32, name: &str, address: Option<&str>, asked: LinkWishes<'_>) -> Vec<u8> {
    frame(
        0x12,
        |l| {
            l.text(name).uint(handle).flag(false).null().null();
            terminus(l, 0x28, None, LinkWishes::default());
            terminus(l, 0x29, address, asked);
            l.null().null().uint(0);
        },
        &[],
    )
}

pub fn credit(handle: u32, count: u32, credit: u32, drain: bool) -> Vec<u8> {
    session_flow(0, 1_000_000, Some((handle, count, credit, drain)))
}

pub fn session_flow(next: u32, window: u32, link: Option<(u32, u32, u32, bool)>) -> Vec<u8> {
    frame(
        0x13,
        |l| {
            l.uint(next).uint(window).uint(0).uint(1000);
            if let Some((handle, count, credit, drain)) = link {
                l.uint(handle).uint(count).uint(credit).null().flag(drain);
            }
        },
        &[],
    )
}

/// A message whose body is text in an amqp-value.
pub fn message(text: &str) -> Vec<u8> {
    let mut out = b"\x00\x53\x70\xc0\x02\x01\x41\x00\x53\x77".to_vec();
    put_value(&TypedValue::Text(text), &mut out);
    out
}

pub fn transfer(handle: u32, delivery: Option<u32>, more: bool, payload: &[u8]) -> Vec<u8> {
    frame(
        0x14,
        |l| {
            l.uint(handle);
            match delivery {
                Some(n) => l.uint(n).value(&TypedValue::Binary(&n.to_be_bytes())),
                None => l.null().null(),
            };
            l.null().flag(false).flag(more);
        },
        payload,
    )
}

/// A disposition of a receiver that settles.
pub fn settle(first: u32, last: u32, code: u8, fields: &[bool]) -> Vec<u8> {
    frame(
        0x15,
        |l| {
            l.flag(true).uint(first).uint(last).flag(true);
            l.described(code, |l| {
                for on in fields {
                    l.flag(*on);
                }
            });
        },
        &[],
    )
}

pub fn detach(handle: u32, closed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode::detach(0, handle, closed, None, &mut out);
    out
}

/// SASL, `open` and `begin`.
pub fn hello(container: &str, frame_bytes_max: u32, window: u32) -> Vec<u8> {
    let mut out = SASL_HEADER.to_vec();
    encode::frame(1, 0, &mut out, |out| {
        encode::put_described(0x41, out, |l| {
            l.symbol("PLAIN")
                .value(&TypedValue::Binary(b"\0guest\0guest"));
        });
    });
    out.extend_from_slice(V1_HEADER);
    out.extend(open(container, frame_bytes_max));
    out.extend(begin(window));
    out
}

impl Node {
    /// A connection of AMQP 1.0 with a session on channel 0.
    pub fn connect_v1(&mut self, container: &str) -> ConnId {
        let conn = self.open();
        self.send(conn, &hello(container, 65_536, 1_000_000));
        assert_eq!(
            self.said_v1(conn),
            ["SASL", "sasl 40", "outcome 0", "AMQP", "open", "begin"]
        );
        conn
    }

    /// What the server wrote, in words.
    pub fn said_v1(&mut self, conn: ConnId) -> Vec<String> {
        said(&self.output(conn))
    }
}

fn fault(f: &mut ItemReader<'_>) -> String {
    match f.value().expect("an error") {
        TypedValue::Described(0x1d, bytes) => {
            let TypedValue::List(items) = TypedReader::new(bytes).value().expect("a list") else {
                panic!("an error is a list");
            };
            items
                .reader()
                .text()
                .expect("a condition")
                .expect("one")
                .to_owned()
        }
        _ => String::new(),
    }
}

pub fn said(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    let mut message = Vec::new();
    while !bytes.is_empty() {
        if bytes.starts_with(SASL_HEADER) || bytes.starts_with(V1_HEADER) {
            all.push(if bytes[4] == 3 { "SASL" } else { "AMQP" }.to_owned());
            bytes = &bytes[8..];
            continue;
        }
        let (frame, len) = split(bytes, 1 << 20)
            .expect("a frame")
            .expect("a whole one");
        bytes = &bytes[len..];
        if frame.body.is_empty() {
            all.push("beat".to_owned());
            continue;
        }
        let mut r = TypedReader::new(frame.body);
        let (code, value) = r.described().expect("a performative");
        value.check().expect("a sound performative");
        let TypedValue::List(items) = value else {
            panic!("a performative is a list");
        };
        let mut f = items.reader();
        let mut number = || {
            f.number()
                .expect("a number")
                .map_or("-".to_owned(), |n| n.to_string())
        };
        let words = match code {
            0x10 => "open".to_owned(),
            0x11 => "begin".to_owned(),
            0x12 => {
                let name = f.text().expect("a name").expect("one").to_owned();
                let handle = f.uint().expect("a handle").expect("one");
                f.flag().expect("a role");
                f.number().expect("a mode");
                f.number().expect("a mode");
                let ends = [f.value(), f.value()].map(|end| match end.expect("an end") {
                    TypedValue::Described(_, bytes) => {
                        let TypedValue::List(items) =
                            TypedReader::new(bytes).value().expect("a list")
                        else {
                            panic!("an end is a list");
                        };
                        items
                            .reader()
                            .text()
                            .expect("an address")
                            .unwrap_or("-")
                            .to_owned()
                    }
                    _ => "none".to_owned(),
                });
                format!("attach {name} {handle} {} {}", ends[0], ends[1])
            }
            0x13 => {
                let window: Vec<String> = (0..4).map(|_| number()).collect();
                let (handle, count, credit) = (number(), number(), number());
                match handle.as_str() {
                    "-" => format!("flow {}", window[0]),
                    handle => format!("flow link {handle} {count} {credit}"),
                }
            }
            0x14 => {
                let (handle, delivery) = (number(), number());
                f.binary().expect("a tag");
                f.number().expect("a format");
                let settled = f.flag().expect("settled");
                let more = f.flag().expect("more");
                message.extend_from_slice(r.rest());
                let mut words = format!("transfer {handle} {delivery}");
                if settled {
                    words += " settled";
                }
                match more {
                    true => words += " more",
                    false => {
                        let bytes = std::mem::take(&mut message);
                        let text = V1Message::read(&bytes).expect("a message");
                        words += &format!(" {}", String::from_utf8_lossy(text.payload()));
                        // The attempts that failed, if the header says so.
                        let mut r = TypedReader::new(&bytes);
                        let (_, TypedValue::List(header)) = r.described().expect("a header") else {
                            panic!("a header is a list");
                        };
                        let mut f = header.reader();
                        (0..3).for_each(|_| drop(f.value()));
                        if !f.flag().expect("first-acquirer") {
                            words += &format!(" again {}", f.uint().expect("a count").unwrap_or(0));
                        }
                    }
                }
                words
            }
            0x15 => {
                f.flag().expect("a role");
                let first = f.number().expect("first").expect("one");
                let last = f.number().expect("last").unwrap_or(first);
                f.flag().expect("settled");
                match f.value().expect("a state") {
                    TypedValue::Described(0x24, _) => format!("accepted {first}-{last}"),
                    TypedValue::Described(0x25, bytes) => {
                        let TypedValue::List(items) =
                            TypedReader::new(bytes).value().expect("a list")
                        else {
                            panic!("a state is a list");
                        };
                        format!("rejected {first}-{last} {}", fault(&mut items.reader()))
                    }
                    other => format!("state {other:?}"),
                }
            }
            0x16 => {
                let handle = number();
                f.flag().expect("closed");
                format!("detach {handle} {}", fault(&mut f))
            }
            0x17 => format!("end {}", fault(&mut f)),
            0x18 => format!("close {}", fault(&mut f)),
            0x44 => format!("outcome {}", number()),
            code => format!("sasl {code:x}"),
        };
        all.push(words.trim_end().to_owned());
    }
    all
}
