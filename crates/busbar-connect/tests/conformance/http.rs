//! Requests: their form, what each answer means, keys, and answers that are made to hurt.

use std::collections::BTreeSet;
use std::time::Instant;

use busbar_connector::{Delivery, RowSource, Sink, Written, deliver};
use busbar_event::{Class, Error};
use tokio::runtime::Runtime;

use crate::peers::{Request, Web};
use crate::ports::free_port;
use crate::sink_context;
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::spec;

struct Site {
    web: Web,
    sink: Box<dyn Sink>,
    runtime: Runtime,
}

impl Site {
    fn new(options: &str) -> Site {
        let web = Web::new();
        let text = format!(
            "http: {{ url: 'http://127.0.0.1:{}/in?a=b', {options} }}\n",
            web.port
        );
        let runtime = Runtime::new().expect("a runtime");
        let registry = busbar_connect::registry();
        let connector = registry.get("http").expect("it is registered");
        let context = sink_context(std::path::Path::new("."));
        let sink = runtime
            .block_on(connector.sink(&spec(&text), context))
            .expect("it opens");
        Site { web, sink, runtime }
    }
    fn write(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        self.runtime.block_on(self.sink.write(delivery))
    }
    fn answers(&self, status: u16) {
        self.web
            .answer(move |_| Some((status, "", b"because".to_vec())));
    }
    fn only(&self) -> Request {
        let mut requests = self.web.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

#[test]
fn a_batch_is_one_array_one_body_of_lines_or_a_request_for_each_event() {
    let rows = delivery("t", &["{\"a\":\n1}", "text", "3"], 7);
    let mut array = Site::new("headers: { X-Site: north, Content-Type: application/vnd.x }");
    array.write(&rows).expect("written");
    let request = array.only();
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/in?a=b")
    );
    assert_eq!(request.text(), "[{\"a\": 1},\"text\",3]");
    assert_eq!(request.headers["x-site"], "north");
    assert_eq!(
        request.headers["content-type"], "application/vnd.x",
        "the file's wins"
    );

    let mut lines = Site::new("body: ndjson, method: PUT");
    lines.write(&rows).expect("written");
    let request = lines.only();
    assert_eq!(request.method, "PUT");
    assert_eq!(request.headers["content-type"], "application/x-ndjson");
    assert_eq!(request.text(), "{\"a\": 1}\n\"text\"\n3\n");

    let mut single = Site::new("body: event");
    single
        .write(&delivery("t", &[&b"{}"[..], b"text", b"\xff"], 7))
        .expect("written");
    let requests = single.web.requests();
    let sent: Vec<_> = requests
        .iter()
        .map(|r| (r.headers["content-type"].as_str(), r.body.as_slice()))
        .collect();
    let expected: [(&str, &[u8]); 3] = [
        ("application/json", b"{}"),
        ("text/plain; charset=utf-8", b"text"),
        ("application/octet-stream", b"\xff"),
    ];
    assert_eq!(sent, expected);
    assert_eq!(single.web.connections(), 1, "one connection serves all");
}

#[test]
fn each_answer_has_its_class() {
    for (status, class) in [
        (408, Class::Transient),
        (429, Class::Transient),
        (500, Class::Transient),
        (503, Class::Transient),
        (301, Class::Configuration),
        (401, Class::Configuration),
        (403, Class::Configuration),
        (404, Class::Configuration),
    ] {
        let mut site = Site::new("");
        site.answers(status);
        let error = site
            .write(&delivery("t", &numbered(0..2), 2))
            .expect_err("refused");
        assert_eq!(error.class(), class, "{status}");
        assert_eq!(error.code(), "connect.http-refused");
        let args: Vec<_> = error
            .args()
            .iter()
            .map(|(_, value)| value.as_str())
            .collect();
        assert!(
            args.contains(&"because") && args.contains(&status.to_string().as_str()),
            "{args:?}"
        );
        assert!(
            !args.iter().any(|value| value.contains("a=b")),
            "the query may hold a token: {args:?}"
        );
    }
    for status in [400, 409, 413, 422] {
        let mut site = Site::new("");
        site.answers(status);
        let written = site
            .write(&delivery("t", &numbered(0..2), 2))
            .expect("an answer");
        let classes: Vec<_> = written
            .rejected
            .iter()
            .map(|(row, e)| (*row, e.class()))
            .collect();
        assert_eq!(
            classes,
            [(0, Class::Permanent), (1, Class::Permanent)],
            "{status}"
        );
    }
    for status in [200, 201, 202, 204] {
        let mut site = Site::new("");
        site.web.answer(move |_| Some((status, "", Vec::new())));
        site.write(&delivery("t", &numbered(0..2), 2))
            .expect("written");
    }
}

/// The pause is what the answer asks for, not what the back-off would be, and nothing is lost by it.
#[test]
fn an_answer_that_asks_for_patience_gets_it() {
    const MOST: u128 = 120_000;
    for (status, header, least, most) in [
        (429, "Retry-After: 2\r\n", 2000, MOST),
        (503, "Retry-After: 2\r\n", 2000, MOST),
        // What it says means nothing: tried again long before that.
        (503, "Retry-After: soon\r\n", 0, MOST),
        (500, "Retry-After: 600\r\n", 0, MOST),
    ] {
        let web = Web::new();
        let mut asked: Option<Instant> = None;
        let paused = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let noted = std::sync::Arc::clone(&paused);
        web.answer(move |_| match asked {
            None => {
                asked = Some(Instant::now());
                Some((status, header, Vec::new()))
            }
            Some(at) => {
                *noted.lock() = Some(at.elapsed());
                Some((200, "", Vec::new()))
            }
        });
        let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(folder.path().join("in")).expect("a folder");
        std::fs::write(folder.path().join("in/a.ndjson"), "{}\n").expect("written");
        let world = crate::world::World::new(folder);
        let sink = format!("http: {{ url: 'http://127.0.0.1:{}/' }}\n", web.port);
        world.apply(&[
            ("streams/in.yaml", "topics: in/#\n"),
            (
                "connections/files.yaml",
                "file: { read: in/*.ndjson }\ntopic: in/x\n",
            ),
            ("connections/web.yaml", &sink),
            ("flows/f.yaml", "from: in\nto: [{ connection: web }]\n"),
        ]);
        let pause = crate::world::eventually("the second try", || {
            (*paused.lock()).ok_or_else(|| format!("{:?}", web.requests()))
        });
        let millis = pause.as_millis();
        assert!(
            (least..most).contains(&millis),
            "{status} {header}: {millis} ms"
        );
    }
}

#[test]
fn a_peer_that_hangs_or_hangs_up_is_tried_again() {
    let mut site = Site::new("timeout: 300ms");
    site.web.answer(|_| {
        crate::world::rest(1500);
        Some((200, "", Vec::new()))
    });
    // An answer that is waited for would be none that fails.
    let error = site.write(&delivery("t", &["1"], 1)).expect_err("too late");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Transient, "connect.http-unreachable")
    );

    let mut site = Site::new("");
    site.web.answer(|_| None);
    let error = site.write(&delivery("t", &["1"], 1)).expect_err("hung up");
    assert_eq!(error.class(), Class::Transient);

    let text = format!("http: {{ url: 'http://127.0.0.1:{}' }}\n", free_port());
    let registry = busbar_connect::registry();
    let context = sink_context(std::path::Path::new("."));
    let error = site.runtime.block_on(async {
        let connector = registry.get("http").expect("it is registered");
        let mut sink = connector
            .sink(&spec(&text), context)
            .await
            .expect("it opens");
        sink.write(&delivery("t", &["1"], 1))
            .await
            .expect_err("nobody there")
    });
    assert_eq!(error.class(), Class::Transient);
}

#[test]
fn a_huge_answer_is_not_read() {
    let mut site = Site::new("timeout: 5s");
    site.web.answer(|_| Some((200, "", vec![b'x'; 64 << 20])));
    site.write(&delivery("t", &["1"], 1))
        .expect("what it says does not matter");
    site.web
        .answer(|_| Some((400, "X: y\r\n", vec![0xff; 64 << 20])));
    let written = site.write(&delivery("t", &["2"], 2)).expect("an answer");
    assert_eq!(written.rejected.len(), 1);
    let said: usize = written.rejected[0]
        .1
        .args()
        .iter()
        .map(|(_, v)| v.len())
        .sum();
    assert!(said < 1000, "{said}");
}

#[test]
fn a_request_that_is_sent_again_has_its_key_and_no_other_has() {
    let mut site = Site::new("");
    let mut left = 2;
    site.web.answer(move |_| {
        left -= 1;
        Some((if left >= 0 { 503 } else { 200 }, "", Vec::new()))
    });
    let rows = delivery("t", &numbered(0..4), 4);
    while site.write(&rows).is_err() {}
    site.write(&delivery("t", &numbered(0..4), 8))
        .expect("written");
    let keys: Vec<_> = site.web.requests().iter().map(key).collect();
    assert_eq!(keys.len(), 4);
    assert!(
        keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3],
        "{keys:?}"
    );

    // Parts of a batch that is split are different requests, be they equally long and alike.
    let mut site = Site::new("");
    site.web
        .answer(|request| match request.text().contains("bad") {
            true => Some((400, "", Vec::new())),
            false => Some((200, "", Vec::new())),
        });
    let mut same = vec!["1"; 64];
    same[37] = "\"bad\"";
    let whole = delivery("t", &same, 64);
    let no_wait = |error| std::future::ready(Err(error));
    let delivering = deliver(site.sink.as_mut(), &whole, no_wait);
    let outcome = site.runtime.block_on(delivering).expect("delivered");
    assert_eq!(outcome.rejected.len(), 1);
    let requests = site.web.requests();
    let keys: BTreeSet<_> = requests.iter().map(key).collect();
    assert_eq!(keys.len(), requests.len(), "a key came twice");
    let ones = requests.iter().filter(|r| r.status == 200);
    let ones: usize = ones.map(|r| r.text().matches('1').count()).sum();
    assert_eq!(ones, 63);
    // So are slices of a delivery that others cut.
    for range in [0..2, 2..4] {
        site.write(&whole.slice(range)).expect("written");
    }
    let requests = site.web.requests();
    let last: Vec<_> = requests[requests.len() - 2..].iter().map(key).collect();
    assert_ne!(last[0], last[1]);
    // A row that was made from one event has the same in whatever delivery it comes; the next one of that event has its own.
    let rows = [(3, 0), (3, 1), (4, 0)];
    let row = |(offset, before)| RowSource { offset, before };
    for (rows, position) in [(&rows[..], 9), (&rows[1..], 5)] {
        let sources = rows.iter().copied().map(row).collect();
        let whole = Delivery {
            sources: Some(sources),
            ..delivery("t", &vec!["1"; rows.len()], position)
        };
        for at in 0..rows.len() {
            site.write(&whole.slice(at..at + 1)).expect("written");
        }
    }
    let requests = site.web.requests();
    let last: Vec<_> = requests[requests.len() - 5..].iter().map(key).collect();
    assert_eq!(last[1..3], last[3..]);
    assert_eq!(BTreeSet::from_iter(&last).len(), 3);
}

fn key(request: &Request) -> String {
    request.headers["idempotency-key"].clone()
}

#[test]
fn what_was_taken_is_not_sent_again_when_the_rest_fails() {
    let mut site = Site::new("body: event");
    let mut count = 0;
    // Every fifth request fails: a batch that began anew each time would never end.
    site.web.answer(move |_| {
        count += 1;
        Some((if count % 5 == 0 { 503 } else { 200 }, "", Vec::new()))
    });
    let rows = delivery("t", &numbered(0..50), 50);
    let mut tries = 0;
    while site.write(&rows).is_err() {
        tries += 1;
        assert!(tries < 30, "it does not get on");
    }
    let requests = site.web.requests();
    let taken: Vec<_> = requests
        .iter()
        .filter(|r| r.status == 200)
        .map(Request::text)
        .collect();
    assert_eq!(taken, numbered(0..50));
}

#[test]
fn large_batches_are_several_requests() {
    let mut site = Site::new("");
    let big = format!("\"{}\"", "x".repeat(1 << 20));
    site.write(&delivery("t", &vec![big; 6], 6))
        .expect("written");
    let requests = site.web.requests();
    assert!(requests.len() > 1 && requests.iter().all(|r| r.body.len() < 5 << 20));
    let mut site = Site::new("");
    site.write(&delivery("t", &numbered(0..16_000), 16_000))
        .expect("written");
    let bodies: Vec<_> = site.web.requests().iter().map(Request::text).collect();
    assert_eq!(bodies.len(), 2);
    let rows = bodies.join(",").replace("],[", ",");
    assert_eq!(rows, format!("[{}]", numbered(0..16_000).join(",")));
}

#[test]
fn no_redirection_is_followed() {
    let elsewhere = Web::new();
    let mut site = Site::new("headers: { Authorization: secret }");
    let location: &'static str =
        Box::leak(format!("Location: http://127.0.0.1:{}/\r\n", elsewhere.port).into_boxed_str());
    site.web.answer(move |_| Some((307, location, Vec::new())));
    let error = site.write(&delivery("t", &["1"], 1)).expect_err("refused");
    assert_eq!(error.class(), Class::Configuration);
    assert_eq!(elsewhere.connections(), 0);
}
