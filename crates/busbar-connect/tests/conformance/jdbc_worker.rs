//! What becomes of JDBC drivers that do harm.

use std::process::Command;
use std::sync::Arc;

use busbar_connector::{Sink, SinkContext};
use busbar_event::{Class, Error};

use crate::driver_worker::workers;
use crate::postgres_sink::{ints, rows, texts};
use crate::world::{eventually, spec};

/// A driver that does harm when it is asked for a connection.
const HARM: &str = r#"
import java.io.*; import java.sql.*; import java.util.*;
public class Harm implements Driver {
    public boolean acceptsURL(String url) { return url.startsWith("jdbc:harm:"); }
    public Connection connect(String url, Properties properties) throws SQLException {
        try {
            FileOutputStream out = new FileOutputStream(FileDescriptor.out);
            switch (url.substring(10)) {
                case "rubbish": out.write("hello\n".getBytes()); break;
                case "stranger": out.write("{\"type\":\"answer\",\"id\":4711,\"result\":{}}\n".getBytes()); break;
                case "twice": for (int i = 0; i < 2; i++) out.write("{\"type\":\"answer\",\"id\":2,\"result\":{\"product\":\"x\"}}\n".getBytes()); break;
                case "shape": out.write("{\"type\":\"answer\",\"id\":2,\"result\":[1]}\n".getBytes()); break;
                case "ready": out.write("{\"type\":\"ready\",\"protocol\":1}\n".getBytes()); break;
                case "endless": byte[] bytes = new byte[1 << 20]; Arrays.fill(bytes, (byte) 'x'); while (true) out.write(bytes);
                case "exit": System.err.println("no more of hunter2-secret"); System.exit(7);
                case "memory": List<byte[]> all = new ArrayList<>(); while (true) all.add(new byte[1 << 20]);
                case "hang": while (true) try { Thread.sleep(1000000); } catch (InterruptedException e) { }
                case "print": System.out.println("{\"type\":\"pong\"}"); throw new SQLException("no hunter2-secret today", "08001");
            }
            Thread.sleep(600000);
        } catch (IOException | InterruptedException e) { throw new SQLException(e); }
        return null;
    }
    public int getMajorVersion() { return 1; } public int getMinorVersion() { return 0; } public boolean jdbcCompliant() { return false; }
    public DriverPropertyInfo[] getPropertyInfo(String u, Properties p) { return new DriverPropertyInfo[0]; }
    public java.util.logging.Logger getParentLogger() { return null; }
}
"#;

#[test]
fn a_driver_that_does_harm_is_contained() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("Harm.java");
    std::fs::write(&source, HARM).expect("written");
    let classes = folder.path().join("classes");
    let made = Command::new("javac")
        .arg("-d")
        .arg(&classes)
        .arg(&source)
        .status();
    assert!(made.expect("javac").success());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let registry = busbar_connect::registry();
    let connector = registry.get("jdbc").expect("registered");
    let delivery = rows(1, vec![("n", ints(&[1])), ("note", texts(&["x"]))]);
    let open = |mode: &str| -> Error {
        // Where nothing but the time ends it, that is short; else a slow machine would be taken for a driver that hangs.
        let timeout = match mode {
            "hang" | "twice" => "1s",
            _ => "5m",
        };
        let text = format!(
            "jdbc: {{ driver: classes, class: Harm, url: 'jdbc:harm:{mode}', password: hunter2-secret, memory: 64MiB, timeout: {timeout}, write: {{ table: t }} }}\n"
        );
        let context = SinkContext {
            name: "x".into(),
            project_dir: folder.path().into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: delivery.rows.schema(),
        };
        let opened: Result<Box<dyn Sink>, Error> =
            runtime.block_on(connector.sink(&spec(&text), context));
        opened.err().expect(mode)
    };
    for (mode, code) in [
        ("rubbish", "driver.rubbish"),
        ("stranger", "driver.rubbish"),
        ("twice", ""),
        ("shape", "driver.rubbish"),
        ("ready", "driver.rubbish"),
        ("endless", "driver.rubbish"),
        ("exit", "driver.ended"),
        ("memory", "driver.ended"),
        ("hang", "driver.hangs"),
        ("print", "driver.unreachable"),
    ] {
        let failed = open(mode);
        assert_eq!(failed.class(), Class::Transient, "{mode}: {failed}");
        if !code.is_empty() {
            assert_eq!(failed.code(), code, "{mode}: {failed}");
        }
        let shown = format!("{failed} {failed:?}");
        assert!(!shown.contains("hunter2"), "{mode}: {shown}");
    }
    eventually("the end of all of them", || {
        match workers(folder.path()).len() {
            0 => Ok(()),
            n => Err(format!("{n} workers")),
        }
    });
    // A class that is not there, and one that is no driver.
    for (class, part) in [
        ("NoSuch", "NoSuch"),
        ("java.lang.Object", "java.lang.Object"),
    ] {
        let text = format!(
            "jdbc: {{ driver: classes, class: {class}, url: 'jdbc:harm:x', write: {{ table: t }} }}\n"
        );
        let context = SinkContext {
            name: "x".into(),
            project_dir: folder.path().into(),
            clock: Arc::new(busbar_log::SystemClock),
            schema: delivery.rows.schema(),
        };
        let refused = runtime.block_on(connector.sink(&spec(&text), context));
        let refused = refused.err().expect(class);
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Configuration, "jdbc.driver")
        );
        assert!(refused.to_string().contains(part), "{refused}");
    }
}
