//! Services that `call` steps ask: what goes out, which connections are used again, and answers that are made to hurt.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use busbar_catalog::CallSpec;
use busbar_connector::{CallForm, CallParts, Service, ServiceAnswer, ServiceRequest};
use busbar_event::{Class, Error};
use tokio::runtime::Runtime;

use crate::peers::Web;
use crate::ports::free_port;
use crate::service_context;
use crate::world::spec;

struct Called {
    service: Arc<dyn Service>,
    runtime: Runtime,
}

impl Called {
    fn at(text: &str) -> Called {
        let runtime = Runtime::new().expect("a runtime");
        let connection = spec(text);
        let registry = busbar_connect::registry();
        let connector = registry.get(&connection.kind).expect("it is registered");
        let context = service_context(std::path::Path::new("."));
        let service = runtime.block_on(connector.service(&connection, context));
        Called {
            service: service.expect("it opens"),
            runtime,
        }
    }

    fn ask(&self, path: &str) -> Result<ServiceAnswer, Error> {
        let request = ServiceRequest {
            method: "GET".into(),
            path: path.into(),
            ..ServiceRequest::default()
        };
        self.runtime.block_on(self.service.exchange(&request))
    }
}

fn form(text: &str, step: &str) -> Arc<dyn CallForm> {
    let connection = spec(text);
    let registry = busbar_connect::registry();
    let connector = registry.get(&connection.kind).expect("it is registered");
    let call: CallSpec = serde_json::from_str(step).expect("a step");
    let form = connector.call_form(&connection, &call);
    form.unwrap_or_else(|fault| panic!("{}", fault.error))
}

#[test]
fn a_request_is_what_the_step_and_the_connection_say() {
    let web = Web::new();
    let text = format!(
        "http: {{ url: 'http://127.0.0.1:{}/api/?key=k', headers: {{ Authorization: Bearer t, X-Site: north }} }}\n",
        web.port
    );
    let called = Called::at(&text);
    let form = form(
        &text,
        r#"{"connection":"a","method":"PUT","path":"/a","send":"*"}"#,
    );
    let request = form.request(CallParts {
        path: "/a/b%20c?x=1".into(),
        headers: vec![
            ("X-Site".into(), "south".into()),
            ("X-Own".into(), "1".into()),
        ],
        body: Some("{\"a\":1}".into()),
        ..CallParts::default()
    });
    let request = request.expect("a request");
    let answer = called.runtime.block_on(called.service.exchange(&request));
    assert_eq!(answer.expect("an answer").body, "taken");
    let came = web.requests().remove(0);
    assert_eq!(
        (
            came.method.as_str(),
            came.path.as_str(),
            came.text().as_str()
        ),
        ("PUT", "/api/a/b%20c?x=1&key=k", "{\"a\":1}")
    );
    for (name, value) in [
        ("host", format!("127.0.0.1:{}", web.port)),
        ("authorization", "Bearer t".into()),
        // The connection's headers are not a step's to change.
        ("x-site", "north".into()),
        ("x-own", "1".into()),
        ("content-type", "application/json".into()),
        ("content-length", "7".into()),
    ] {
        assert_eq!(came.headers.get(name), Some(&value), "{name}");
    }
}

#[test]
fn connections_are_used_again_and_one_that_is_closed_is_not() {
    let web = Web::new();
    let called = Called::at(&format!(
        "http: {{ url: 'http://127.0.0.1:{}' }}\n",
        web.port
    ));
    for number in 0..20 {
        let answer = called.ask(&format!("/{number}")).expect("an answer");
        assert_eq!(answer.status, 200);
    }
    assert_eq!(web.connections(), 1);
    // As many at a time as are asked for, each on a connection of its own.
    let requests: Vec<ServiceRequest> = (0..8)
        .map(|number| ServiceRequest {
            method: "GET".into(),
            path: format!("/{number}"),
            ..ServiceRequest::default()
        })
        .collect();
    called.runtime.block_on(async {
        let all = requests
            .iter()
            .map(|request| called.service.exchange(request));
        for answer in futures::future::join_all(all).await {
            assert_eq!(answer.expect("an answer").status, 200);
        }
    });
    assert!(
        (1..=8).contains(&web.connections()),
        "{}",
        web.connections()
    );
    // Closed without a word in the middle: no answer. Closed in between: nobody notices.
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    web.answer(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => None,
        _ => Some((200, "Connection: close\r\n", b"again".to_vec())),
    });
    let error = called.ask("/a").expect_err("no answer");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Transient, "connect.http-unreachable")
    );
    for _ in 0..5 {
        assert_eq!(called.ask("/a").expect("an answer").body, "again");
    }
}

#[test]
fn answers_that_hurt_are_errors_of_their_class() {
    const LARGE: usize = busbar_connect::limits::CALL_ANSWER_BYTES_MAX + 1;
    let web = Web::new();
    let called = Called::at(&format!(
        "http: {{ url: 'http://127.0.0.1:{}' }}\n",
        web.port
    ));
    web.answer(|request| {
        Some(match request.path.as_str() {
            "/large" => (200, "", vec![b'a'; LARGE]),
            "/large-refusal" => (400, "", vec![b'a'; LARGE]),
            _ => (200, "", b"fine".to_vec()),
        })
    });
    let error = called.ask("/large").expect_err("too large");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Permanent, "connect.call-answer-large")
    );
    assert_eq!(
        called.ask("/large-refusal").expect("its beginning").status,
        400
    );
    assert_eq!(called.ask("/fine").expect("an answer").body, "fine");
    // One that breaks off, one that is no HTTP, one without an end that is announced.
    for (said, code) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "connect.http-unreachable",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
            "connect.http-unreachable",
        ),
        ("220 mail.example ESMTP\r\n", "connect.http-unreachable"),
        ("", "connect.http-unreachable"),
    ] {
        let called = Called::at(&format!(
            "http: {{ url: 'http://127.0.0.1:{}' }}\n",
            says_once(said)
        ));
        let error = called.ask("/").expect_err(said);
        assert_eq!(
            (error.class(), error.code()),
            (Class::Transient, code),
            "{said}"
        );
    }
    let nobody = Called::at(&format!(
        "http: {{ url: 'http://127.0.0.1:{}' }}\n",
        free_port()
    ));
    let error = nobody.ask("/").expect_err("nobody listens");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Transient, "connect.http-unreachable")
    );
}

#[test]
fn a_service_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let called = Called::at(&format!(
        "http: {{ url: 'http://127.0.0.1:{port}', timeout: 100ms }}\n"
    ));
    let error = called.ask("/").expect_err("nobody answers");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Transient, "connect.call-timeout")
    );
}

#[test]
fn a_refusal_does_not_repeat_secrets() {
    let web = Web::new();
    web.answer(|request| {
        let said = format!("not with {:?} {}", request.headers, request.path);
        Some((403, "", said.into_bytes()))
    });
    let text = format!(
        "http: {{ url: 'http://127.0.0.1:{}/?key=hunter2-in-query', headers: {{ Authorization: Bearer hunter2-very-secret }} }}\n",
        web.port
    );
    let called = Called::at(&text);
    let answer = called.ask("/a").expect("an answer");
    let error = form(&text, r#"{"connection":"a"}"#)
        .answer(answer)
        .expect_err("refused");
    let told = format!(
        "{error} {error:?} {}",
        serde_json::to_string(&error).expect("JSON")
    );
    assert!(
        told.contains("not with") && told.contains("(hidden)"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
}

/// A port at which whoever connects is told this and left.
fn says_once(said: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let _ = stream.write_all(said.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // A socket that is closed before all was read resets the connection.
            while std::io::Read::read(&mut stream, &mut request).is_ok_and(|read| read > 0) {}
        }
    });
    port
}
