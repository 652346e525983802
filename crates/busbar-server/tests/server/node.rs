//! Starting, stopping, and what a node says of itself.

use std::collections::BTreeSet;

use crate::support::{World, config, project, runtime, start};
use serde_json::{Value, json};

#[test]
fn each_failure_to_start_has_its_code_and_one_line() {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let refuse = |config, exit: u8, code: &str| {
        let error = start(&runtime, folder.path(), config, None).err().unwrap();
        assert_eq!(error.exit_code(), exit, "{error}");
        let busbar_server::StartError::Node(node) = &error else {
            panic!("{error}");
        };
        assert_eq!(node.code(), code, "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        error.to_string()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut used = config();
    used.http.listen = taken.local_addr().unwrap().to_string();
    assert!(refuse(used, 69, "server.port-in-use").contains("http.listen"));
    let mut used = config();
    used.mqtt.listen = taken.local_addr().unwrap().to_string();
    assert!(refuse(used, 69, "gateway.port-in-use").contains("mqtt.listen"));
    let mut nonsense = config();
    nonsense.http.listen = "not an address".into();
    let error = start(&runtime, folder.path(), nonsense, None)
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 78);
    let mut open = config();
    open.http.listen = "0.0.0.0:0".into();
    refuse(open, 78, "server.needs-users");
    let mut open = config();
    open.mqtt.listen = "[::]:0".into();
    refuse(open, 78, "server.needs-users");
    let mut unwritable = config();
    std::fs::write(folder.path().join("a-file"), "").unwrap();
    unwritable.data.dir = "a-file/data".into();
    refuse(unwritable, 73, "server.data-unwritable");
    let mut tls = config();
    tls.http.tls_cert = Some("none.pem".into());
    tls.http.tls_key = Some("none.pem".into());
    refuse(tls, 78, "gateway.tls-certificate");
    let node = start(&runtime, folder.path(), config(), None).unwrap();
    refuse(config(), 75, "log.locked");
    runtime.block_on(node.shutdown());
    std::fs::write(folder.path().join("data/VERSION"), "busbar-data 99\n").unwrap();
    refuse(config(), 76, "log.version");
}

#[test]
fn a_node_may_be_reached_from_elsewhere_once_there_is_a_user() {
    let mut world = World::new(&[]);
    let new = json!({"name":"ann","password":"a-good-password","role":"admin"});
    assert_eq!(world.post("/api/v1/users", &new).status, 201);
    world.stop();
    let mut open = config();
    open.http.listen = "0.0.0.0:0".into();
    let node = start(&world.runtime, world.folder.path(), open, None).unwrap();
    assert!(node.is_ready());
    world.runtime.block_on(node.shutdown());
}

#[test]
fn a_restart_keeps_events_the_project_and_its_history() {
    let mut world = World::new(&[("streams/meter.yaml", "topics: meter/#\n")]);
    for n in 0..10 {
        world.publish("meter/m1/x", json!(n));
    }
    world.restart();
    assert_eq!(world.sql("select count(*) from meter"), json!([[10]]));
    world.publish("meter/m1/x", json!(10));
    assert_eq!(world.get_json("/api/v1/streams/meter")["end"], 11);
    let files = world.get_json("/api/v1/project");
    assert_eq!(files["files"]["streams/meter.yaml"], "topics: meter/#\n");
    let history = world.get_json("/api/v1/history");
    assert_eq!(
        history["versions"].as_array().unwrap().len(),
        1,
        "the same project is no new version"
    );
}

#[test]
fn every_route_is_described_and_answers() {
    let world = World::new(&[]);
    let document = world.get_json("/api/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    let mut operations = 0;
    let mut ids = BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "two operations are called {id}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let within = path.contains(&format!("{{{name}}}"));
                let place = if within { "path" } else { "query" };
                assert_eq!(parameter["in"], place, "{method} {path}: {name}");
            }
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{method} {path} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.len() >= 2 && responses.contains_key("default"),
                "{method} {path}"
            );
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                let name = part.trim_end_matches('}');
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(
                    parameters
                        .iter()
                        .any(|parameter| parameter["name"] == name && parameter["in"] == "path"),
                    "{method} {path} does not describe {name}"
                );
            }
            // Live ones are tested elsewhere; they answer for as long as one listens.
            if ["/api/v1/events", "/api/v1/live", "/api/v1/tail"].contains(&path.as_str())
                && method == "get"
            {
                continue;
            }
            let asked = path
                .replace("{language}", "en")
                .replace("{name}", "none")
                .replace("{id}", "none");
            let answer = world.request(&method.to_uppercase(), &asked, &[], b"");
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_ne!(answer.status, 500, "{method} {path}: {answer:?}");
            // The list of all messages holds this code too, and is no refusal.
            assert!(
                answer.status != 404 || !answer.body.contains("server.unknown-route"),
                "{method} {path}"
            );
        }
    }
    assert!(operations >= 40, "{operations} {ids:#?}");
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name} is not described"
        );
    }
    assert_eq!(world.get("/api/v1/nothing").code(), "server.unknown-route");
    assert_eq!(
        world.request("DELETE", "/api/v1/streams", &[], b"").status,
        405
    );
}

#[test]
fn refusals_say_what_they_are_in_both_languages() {
    let world = World::new(&[]);
    let unknown = world.get("/api/v1/streams/none");
    assert_eq!(unknown.headers["content-type"], "application/json");
    let error = &unknown.json()["error"];
    assert_eq!(
        (&error["class"], &error["args"]["name"]),
        (&json!("permanent"), &json!("none"))
    );
    let says = |key: &str, word: &str| error[key].as_str().unwrap().contains(word);
    assert!(says("message", "there is no stream"), "{error}");
    assert!(says("message_zh", "没有"), "{error}");
    let new = json!({"name":"ann","password":"a-good-password","role":"admin"});
    assert_eq!(world.post("/api/v1/users", &new).status, 201);
    assert_eq!(
        world.get("/api/v1/streams").headers["www-authenticate"],
        "Bearer"
    );
}

#[test]
fn health_metrics_and_messages() {
    let world = World::new(&[]);
    world.publish("a", json!(1));
    assert_eq!(world.get_json("/healthz")["status"], "ok");
    assert_eq!(world.get_json("/readyz")["status"], "ok");
    let metrics = world.get("/metrics");
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    let mut typed = BTreeSet::new();
    for line in metrics.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(typed.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(typed.contains(name), "{line} has no type");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(
        metrics
            .body
            .contains("busbar_stream_events_total{stream=\"inbox\"} 1\n"),
        "{}",
        metrics.body
    );
    assert!(
        metrics
            .body
            .contains("busbar_http_events_accepted_total 1\n")
    );
    let zh = world.get_json("/api/v1/messages/zh");
    assert!(zh["server.port-in-use"].as_str().unwrap().contains("占用"));
    assert_eq!(world.get("/api/v1/messages/fr").status, 404);
}

#[test]
fn answers_tell_browsers_to_be_careful() {
    let world = World::new(&[]);
    for path in ["/", "/api/v1/overview", "/none.js"] {
        let headers = world.get(path).headers;
        assert!(
            headers["content-security-policy"].contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert!(headers.contains_key("cache-control"));
    }
    let overview = world.get("/api/v1/overview");
    assert_eq!(overview.headers["cache-control"], "no-store");
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/Cargo.toml",
        "//etc/passwd",
        "/assets/../../secret",
    ] {
        let answer = world.get(path);
        assert!(
            !answer.body.contains("root:") && !answer.body.contains("[package]"),
            "{path}"
        );
    }
}

#[test]
fn the_overview_and_the_live_feed_show_what_happens() {
    let world = World::new(&[("streams/meter.yaml", "topics: meter/#\n")]);
    let mut live = world.listen("/api/v1/live", &[]);
    assert_eq!(live.next().unwrap().kind, "live");
    for n in 0..50 {
        world.publish("meter/m1/x", json!(n));
    }
    let overview = world.until("/api/v1/overview", |overview| {
        overview["streams"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| s["name"] == "meter" && s["events"] == 50)
    });
    assert_eq!(overview["durability"], "fsync");
    assert!(overview["memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(overview["disk"]["free_bytes"].as_u64().unwrap() > 0);
    assert!(overview["budget"]["max_bytes"].as_u64().unwrap() > 0);
    let picture: Value = live.next().unwrap().json();
    assert!(picture["overview"]["history"]["in"].is_array() && picture["flows"].is_array());
    let rates = world.until("/api/v1/rates", |rates| {
        let line = rates["streams"]["meter"].as_array();
        line.is_some_and(|line| line.iter().any(|rate| rate.as_u64() > Some(0)))
    });
    assert_eq!(rates["step_s"], 1);
    assert!(rates["streams"]["inbox"].as_array().unwrap().len() <= 60);
}

#[test]
fn a_source_has_a_rate() {
    let world = World::new(&[(
        "connections/this-machine.yaml",
        "host:\n  every: 1s\n  read: [cpu, memory]\ntopic: host/${host}/${kind}\n",
    )]);
    world.until("/api/v1/connections", |answer| {
        let connection = &answer["connections"][0];
        connection["rate"].as_f64() >= Some(1.0) && connection["in"].as_u64() >= Some(2)
    });
}

#[test]
fn tls_is_spoken_where_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("key.pem"),
        pair.signing_key.serialize_pem(),
    )
    .unwrap();
    let mut secure = config();
    secure.http.tls_cert = Some("cert.pem".into());
    secure.http.tls_key = Some("key.pem".into());
    let runtime = runtime();
    let node = start(&runtime, folder.path(), secure, None).unwrap();
    let root = ureq::tls::Certificate::from_der(pair.cert.der()).to_owned();
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[root]))
        .build();
    let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
    let port = node.http_address().unwrap().port();
    let answer = agent
        .get(format!("https://localhost:{port}/healthz"))
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    assert!(answer.contains("ok"));
    let answer = agent
        .get(format!("https://localhost:{port}/"))
        .call()
        .unwrap();
    assert_eq!(
        answer.headers()["strict-transport-security"],
        "max-age=31536000"
    );
    // A browser that was logged in over TLS must not send the cookie without.
    let at = |path: &str| format!("https://localhost:{port}/api/v1/{path}");
    let new = json!({"name":"ann","password":"a-good-password","role":"admin"});
    agent.post(at("users")).send_json(&new).unwrap();
    let login = json!({"user":"ann","password":"a-good-password"});
    let session = agent.post(at("session")).send_json(&login).unwrap();
    let cookie = session.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    runtime.block_on(node.shutdown());
}

#[test]
fn readiness_names_a_thread_that_has_ended() {
    let world = World::new(&[]);
    assert_eq!(
        world.get_json("/readyz"),
        json!({"status":"ok","writable":true})
    );
    let watched = world.node().supervisor().watch("mqtt-7");
    let thread = std::thread::spawn(move || {
        let _watched = watched;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    let answer = world.get("/readyz");
    let expected = json!({"status":"failed","writable":true,"failed":["mqtt-7"]});
    assert_eq!((answer.status, answer.json()), (503, expected));
    assert_eq!(world.get("/healthz").status, 200);
    let metrics = world.get("/metrics").body;
    assert!(metrics.contains("\nbusbar_failed_threads 1\n"), "{metrics}");
    assert!(metrics.contains("\nbusbar_ready 0\n"), "{metrics}");
}

#[test]
fn the_data_folder_is_for_the_user_of_the_node_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    // One of an earlier version, which left it to the umask.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("tables")).unwrap();
    let old = data.join("tables/old.db-journal");
    std::fs::write(&old, "").unwrap();
    for path in [&data, &data.join("tables")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o644)).unwrap();
    let runtime = runtime();
    let files = [
        ("streams/meter.yaml", "topics: meter/#\n"),
        ("tables/kept.yaml", "relational: {}\n"),
    ];
    let node = start(&runtime, folder.path(), config(), Some(project(&files))).unwrap();
    let mut open = vec![data.clone()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let meta = std::fs::metadata(&path).unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        let mode = meta.permissions().mode() & 0o777;
        assert_eq!(mode, expected, "{} has mode {mode:o}", path.display());
        seen += 1;
        if meta.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    assert!(seen > 10, "{seen}");
    assert!(data.join("tables/kept.db").exists());
    runtime.block_on(node.shutdown());
}
