use busbar_bus::{Bus, BusOptions};
use busbar_catalog::{Bundle, Project};
use busbar_gateway::Open;
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};

use super::*;

const SECOND: Micros = 1_000_000;

/// A thread's connections with `idle: 10s`, and one that is open since 0.
fn one_connection(dir: &std::path::Path) -> (TcpSessions, ConnId) {
    let text = "protocol: tcp\nlisten: 127.0.0.1:0\ntopic: a\nacknowledge: true\nidle: 10s\n";
    let files = [("gateways/g.yaml".to_owned(), text.to_owned())].into();
    let (mut project, bad) = Project::parse(Bundle { files });
    assert!(bad.is_empty(), "{bad:?}");
    let spec = project.gateways.remove("g").expect("a gateway").spec;
    let log = Log::open(
        Arc::new(OsDisk),
        dir,
        LogOptions::default(),
        Arc::new(SystemClock),
    );
    let bus = Bus::open(log.expect("a log"), BusOptions::default()).expect("a bus");
    let shared = TcpShared {
        name: "g".into(),
        framing: Framing::new(&busbar_catalog::FrameSpec::Line),
        rules: FrameRules::new(&spec).expect("rules"),
        frame_bytes_max: 1024,
        login: None,
        allow: Vec::new(),
        acknowledge: true,
        idle_us: spec.idle.as_micros(),
        pace_us: 0,
        admissions: Arc::new(Admissions::new(10, 10)),
        counters: Arc::default(),
        log_lines: Throttle::default(),
    };
    let log = BusLog::new(bus, 1024, Arc::new(|| {}), Arc::new(|| {}));
    let mut sessions = TcpSessions::new(log, Arc::new(shared));
    let id = sessions.open(None.into(), false, 0).expect("room");
    sessions.authenticated(id, Ok(Arc::new(Open)), 0);
    (sessions, id)
}

/// Ticks once a second.
fn pass(sessions: &mut TcpSessions, seconds: std::ops::Range<Micros>) {
    for second in seconds {
        sessions.tick(second * SECOND);
    }
}

#[test]
fn a_client_that_waits_for_its_answer_is_not_idle() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut sessions, id) = one_connection(dir.path());
    sessions.input(id, b"1\n", 0);
    // Its event is on the way to the disk, as far as this thread knows.
    pass(&mut sessions, 0..60);
    assert!(!sessions.was_refused(id));
    while sessions.output(id).is_empty() {
        sessions.turn(60 * SECOND);
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    assert_eq!(sessions.output(id), b"ok\n");
    // From its answer on the silence is its own.
    pass(&mut sessions, 60..69);
    assert!(!sessions.was_refused(id));
    pass(&mut sessions, 69..72);
    assert!(sessions.was_refused(id));
}
