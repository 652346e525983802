//! What `hbase` does when the other side is none, or behaves badly: a server that answers with given bytes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::path::Path;

use busbar_connector::{CellBytes, CellMutation};
use busbar_event::{Class, Error};

use crate::subjects::Subject;
use crate::world::{project, spec};

pub fn subject() -> Subject {
    Subject {
        kind: "hbase",
        good: vec![
            "hbase: { address: '127.0.0.1:9090' }\n",
            "hbase: { address: 'hbase.example:9090', framed: true, timeout: 5s, sessions: 2, tls: { ca: ca.pem } }\n",
        ],
        wrong: vec![
            ("hbase: { framed: true }\n", "address"),
            ("hbase: { address: hbase.example }\n", "hbase.example"),
            ("hbase: { address: 'a:0' }\n", "a:0"),
            ("hbase: { address: 'a:1', timeout: 0s }\n", "0s"),
            ("hbase: { address: 'a:1', sessions: 65 }\n", "65"),
            ("hbase: { address: 'a:1', framed: 3.5 }\n", "3.5"),
            ("hbase: { address: '${HOST}:1' }\n", "${HOST}:1"),
            (
                "hbase: { address: 'a:1', tls: { ca: ../../ca.pem } }\n",
                "{",
            ),
        ],
        secret: vec![],
        supply: None,
        taker: None,
    }
}

/// What becomes of a survey where the other side answers each call with these bytes, and then closes.
fn answered(answers: &'static [&'static [u8]], more: &str) -> Result<String, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept()?;
        let mut bytes = [0; 4096];
        for answer in answers {
            if socket.read(&mut bytes)? == 0 {
                break;
            }
            socket.write_all(answer)?;
        }
        // Whoever waits for more than an answer of length 0 waits; all others read the end. What is still
        // sent is read, since a socket that is closed before that resets the connection.
        if answers.last().is_none_or(|last| !last.is_empty()) {
            socket.shutdown(Shutdown::Write)?;
        }
        while socket.read(&mut bytes)? > 0 {}
        Ok::<(), std::io::Error>(())
    });
    let registry = busbar_connect::registry();
    let spec = spec(&format!(
        "hbase: {{ address: '127.0.0.1:{port}', {more} }}\n"
    ));
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let survey = runtime.block_on(connector.survey(&spec, Path::new("/").into(), false));
    survey.map(|survey| survey.server)
}

/// `getThriftServerType` answers TWO.
const TWO: &[u8] = b"\x80\x01\0\x02\0\0\0\x13getThriftServerType\0\0\0\0\x08\0\0\0\0\0\x02\0";
/// The same with its length before it.
const FRAMED_TWO: &[u8] =
    b"\0\0\0\x27\x80\x01\0\x02\0\0\0\x13getThriftServerType\0\0\0\0\x08\0\0\0\0\0\x02\0";
/// Its beginning.
const PART: &[u8] = b"\x80\x01\0\x02\0\0\0\x13getThr";
/// A server of the first kind.
const ONE: &[u8] = b"\x80\x01\0\x02\0\0\0\x13getThriftServerType\0\0\0\0\x08\0\0\0\0\0\x01\0";
/// A server that does not know the method.
const UNKNOWN: &[u8] = b"\x80\x01\0\x03\0\0\0\x13getThriftServerType\0\0\0\0\x0b\0\x01\0\0\0\x14Invalid method name!\x08\0\x02\0\0\0\x01\0";
/// No tables.
const NONE: &[u8] = b"\x80\x01\0\x02\0\0\0\x01n\0\0\0\0\x0f\0\0\x0c\0\0\0\0\0";
const FRAMED_NONE: &[u8] = b"\0\0\0\x16\x80\x01\0\x02\0\0\0\x01n\0\0\0\0\x0f\0\0\x0c\0\0\0\0\0";
/// HBase itself does not answer the server; this may be tried again.
const DOWN: &[u8] =
    b"\x80\x01\0\x02\0\0\0\x01n\0\0\0\0\x0c\0\x01\x0b\0\x01\0\0\0\x0aNo master.\x02\0\x02\x01\0\0";
/// A list of more values than any answer has.
const LARGE: &[u8] = b"\x80\x01\0\x02\0\0\0\x01n\0\0\0\0\x0f\0\0\x0c\x7f\xff\xff\xff";

#[test]
fn each_answer_that_is_none_has_its_error() {
    use Class::{Configuration, Permanent, Transient};
    let plain = answered(&[TWO, NONE], "framed: false");
    assert_eq!(plain.expect("a server"), "HBase, Thrift 2");
    let framed = answered(&[FRAMED_TWO, FRAMED_NONE], "framed: true");
    assert_eq!(framed.expect("a server"), "HBase, Thrift 2");
    let cases: [(&'static [&'static [u8]], &str, Class, &str); 9] = [
        (&[], "framed: false", Transient, "hbase.closed"),
        (&[PART], "framed: false", Transient, "hbase.closed"),
        (&[b""], "timeout: 1s", Transient, "hbase.silent"),
        (
            &[b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            "framed: false",
            Transient,
            "hbase.strange",
        ),
        (&[FRAMED_TWO], "framed: false", Transient, "hbase.strange"),
        (
            &[ONE],
            "framed: false",
            Configuration,
            "hbase.other-service",
        ),
        (
            &[UNKNOWN],
            "framed: false",
            Configuration,
            "hbase.other-service",
        ),
        (&[TWO, DOWN], "framed: false", Transient, "hbase.for-now"),
        (&[TWO, LARGE], "framed: false", Permanent, "hbase.too-large"),
    ];
    for (answers, more, class, code) in cases {
        let error = answered(answers, more).expect_err("no server");
        assert_eq!((error.class(), error.code()), (class, code), "{answers:?}");
    }
}

#[test]
fn the_connection_of_a_wide_table_is_checked() {
    let table = |name: &str, connection: &str| {
        let text = format!("wide: {{ connection: {connection} }}\nkey: [k]\n");
        (format!("tables/{name}.yaml"), text)
    };
    let tables = [
        table("a", "hbase"),
        table("b", "web"),
        table("c", "cluster"),
    ];
    let mut files = vec![
        (
            "connections/cluster.yaml",
            "hbase: { address: '127.0.0.1:1' }\n",
        ),
        (
            "connections/web.yaml",
            "http: { url: 'http://127.0.0.1:1/' }\n",
        ),
    ];
    files.extend(tables.iter().map(|(path, text)| (&**path, &**text)));
    let bad = busbar_flow::check(&project(&files), &busbar_connect::registry());
    let said: Vec<_> = bad.iter().map(|bad| bad.error().code()).collect();
    assert_eq!(
        said,
        ["table.no-connection", "table.connection-kind"],
        "{bad:?}"
    );
}

/// A server with frames of 2 MB closes the connection of whoever sends a larger one, and does so each time.
#[test]
fn calls_that_a_framed_server_does_not_take_are_refused_with_its_setting() {
    const FRAME: usize = 2 << 20;
    const NOTHING: &[u8] = b"\0\0\0\x0e\x80\x01\0\x02\0\0\0\x01n\0\0\0\0\0";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket?;
            let mut length = [0; 4];
            while socket.read_exact(&mut length).is_ok() {
                let length = u32::from_be_bytes(length) as usize;
                if length > FRAME {
                    break;
                }
                std::io::copy(&mut (&mut socket).take(length as u64), &mut std::io::sink())?;
                socket.write_all(NOTHING)?;
            }
        }
        Ok::<(), std::io::Error>(())
    });
    let row = |key: &str, bytes: usize| CellMutation {
        key: key.into(),
        cells: vec![CellBytes {
            family: "f".into(),
            qualifier: b"q".to_vec(),
            time_ms: 1,
            value: vec![7; bytes],
        }],
        ..CellMutation::default()
    };
    let registry = busbar_connect::registry();
    let spec = spec(&format!(
        "hbase: {{ address: '127.0.0.1:{port}', framed: true }}\n"
    ));
    let connector = registry.get(&spec.kind).expect("registered");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let context = crate::service_context(Path::new("/"));
        let cells = connector.cells(&spec, context).await.expect("cells");
        // What fits one by one is split into calls that fit.
        let rows = [900_000, 900_000, 200_000, 1_900_000, 1_000].map(|bytes| row("a", bytes));
        cells.change("t", rows.to_vec()).await.expect("it is taken");
        for rows in [vec![row("a", FRAME)], vec![row("a", FRAME), row("b", 1)]] {
            let refused = cells.change("t", rows).await.expect_err("too large");
            assert_eq!(
                (refused.class(), refused.code()),
                (Class::Configuration, "hbase.frame")
            );
            assert!(refused.to_string().contains("max_frame_size_in_mb"));
        }
        cells.change("t", vec![row("a", 1)]).await.expect("small");
    });
}
