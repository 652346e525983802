//! Encryption: whose certificate is taken, whose is not, and what is said then.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use busbar_connector::{Polled, Written};
use busbar_event::{Class, Error};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::runtime::Runtime;

use crate::kafka_server::KafkaTestServer;
use crate::peers::Broker;
use crate::ports::free_port;
use crate::servers::{own_postgres, own_redis};
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::{eventually, spec};
use crate::{service_context, sink_context, source_context};

/// An authority, and a server's certificate for some names that it has signed, as files.
pub struct Site {
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Site {
    pub fn new(names: &[&str]) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
                .expect("a certificate")
        };
        let (ours, other) = (authority("ours"), authority("another"));
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("parameters");
        let server = params.signed_by(&key, &ours).expect("a certificate");
        write("ca.pem", ours.pem());
        write("other.pem", other.pem());
        write("server.pem", server.pem());
        write("server.key", key.serialize_pem());
        write("empty.pem", "no certificate\n".to_owned());
        Site {
            folder,
            runtime: Runtime::new().expect("a runtime"),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn broker(&self) -> Broker {
        let path = self.path().display();
        Broker::with(&format!(
            "allow_anonymous true\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n"
        ))
    }

    fn write(&self, kind: &str, options: &str) -> Result<Written, Error> {
        let registry = busbar_connect::registry();
        let connector = registry.get(kind).expect("it is registered");
        let text = format!("{kind}: {{ {options} }}\n");
        self.runtime.block_on(async {
            let mut sink = connector
                .sink(&spec(&text), sink_context(self.path()))
                .await?;
            sink.write(&delivery("t", &numbered(0..3), 3)).await
        })
    }
}

/// Refused for good, with the peer's address and, behind it, why.
fn refused(written: Result<Written, Error>, why: &str) {
    let error = written.expect_err("refused");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Configuration, "connect.tls-refused"),
        "{error}"
    );
    let told = error.to_string();
    assert!(
        told.contains(why) && told.contains("127.0.0.1") || told.contains("localhost"),
        "{told}"
    );
}

#[test]
fn a_bridge_trusts_whom_it_is_told_to() {
    let site = Site::new(&["localhost"]);
    let broker = site.broker();
    let port = broker.port;
    let publish = |host: &str, tls: &str| {
        site.write(
            "mqtt",
            &format!("address: '{host}:{port}', publish: a, tls: {tls}"),
        )
    };
    publish("localhost", "{ ca: ca.pem }").expect("written");
    // Signed by nobody who is trusted.
    refused(publish("localhost", "{ ca: other.pem }"), "UnknownIssuer");
    refused(publish("localhost", "{}"), "UnknownIssuer");
    // For another name than the one that was asked for.
    refused(publish("127.0.0.1", "{ ca: ca.pem }"), "not valid for name");
    for (ca, file) in [("empty.pem", "empty.pem"), ("nothing.pem", "nothing.pem")] {
        let error = publish("localhost", &format!("{{ ca: {ca} }}")).expect_err("unusable");
        assert_eq!(
            (error.class(), error.code()),
            (Class::Configuration, "connect.tls-ca")
        );
        assert!(error.to_string().contains(file), "{error}");
    }
    // Without encryption, where it is due, nothing is promised.
    let error = site
        .write("mqtt", &format!("address: 'localhost:{port}', publish: a"))
        .expect_err("not encrypted");
    assert_eq!(error.class(), Class::Transient, "{error}");
}

#[test]
fn messages_go_both_ways_encrypted() {
    let site = Site::new(&["localhost"]);
    let broker = site.broker();
    let text = format!(
        "mqtt: {{ address: 'localhost:{}', subscribe: ['a'], tls: {{ ca: ca.pem }} }}\n",
        broker.port
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("mqtt").expect("it is registered");
    let texts = site.runtime.block_on(async {
        let mut source = connector
            .source(&spec(&text), source_context(site.path()))
            .await
            .expect("it opens");
        // The subscription holds.
        while !matches!(source.poll().await, Ok(Polled::Idle(_))) {}
        let text = format!(
            "mqtt: {{ address: 'localhost:{}', publish: a, client_id: out, tls: {{ ca: ca.pem }} }}\n",
            broker.port
        );
        let mut sink = connector
            .sink(&spec(&text), sink_context(site.path()))
            .await
            .expect("it opens");
        // More than one record of encryption, and more than one window.
        let rows = delivery("t", &numbered(0..5000), 5000);
        let (written, texts) = tokio::join!(sink.write(&rows), async {
            let mut texts = Vec::new();
            while texts.len() < 5000 {
                if let Polled::Batch(polling) = source.poll().await.expect("the connection lives") {
                    let payloads = polling.batch.payloads();
                    for row in 0..polling.batch.rows() {
                        texts.push(String::from_utf8_lossy(payloads.value(row)).into_owned());
                    }
                    let busbar_connector::Position::Receipt(number) = polling.position else {
                        panic!("{:?}", polling.position);
                    };
                    source.committed("", number);
                }
            }
            texts
        });
        assert!(written.expect("written").rejected.is_empty());
        texts
    });
    assert_eq!(texts, numbered(0..5000));
}

#[test]
fn a_web_service_is_trusted_or_not() {
    let site = Site::new(&["localhost"]);
    let port = free_port();
    serve(site.path(), port);
    let post = |host: &str, tls: &str| {
        site.write(
            "http",
            &format!("url: 'https://{host}:{port}/?token=secret', timeout: 5s{tls}"),
        )
    };
    post("localhost", ", tls: { ca: ca.pem }").expect("written");
    refused(
        post("localhost", ", tls: { ca: other.pem }"),
        "UnknownIssuer",
    );
    refused(post("localhost", ""), "UnknownIssuer");
    refused(
        post("127.0.0.1", ", tls: { ca: ca.pem }"),
        "not valid for name",
    );
    let error = post("localhost", "").expect_err("refused");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let error = post("localhost", ", tls: { ca: empty.pem }").expect_err("unusable");
    assert_eq!(error.code(), "connect.tls-ca");
}

/// Both sides show certificates.
#[test]
fn a_kafka_broker_and_its_client_trust_each_other_or_not() {
    let site = Site::new(&["localhost"]);
    let read = |name: &str| std::fs::read(site.path().join(name)).expect("it is there");
    let both = [read("server.key"), read("server.pem")].concat();
    let ca = read("ca.pem");
    let server = KafkaTestServer::new(0, &[("keystore.pem", &both), ("ca.pem", &ca)]);
    let topic = server.topic(&server.peer(), 1, &serde_json::json!({}));
    let put = |host: &str, tls: &str| {
        site.write(
            "kafka",
            &format!(
                "brokers: ['{host}:{}'], tls: {tls}, write: {{ topic: {topic} }}",
                server.tls
            ),
        )
    };
    let own = "certificate: server.pem, key: server.key";
    put("localhost", &format!("{{ ca: ca.pem, {own} }}")).expect("written");
    refused(
        put("localhost", &format!("{{ ca: other.pem, {own} }}")),
        "UnknownIssuer",
    );
    refused(
        put("127.0.0.1", &format!("{{ ca: ca.pem, {own} }}")),
        "not valid for name",
    );
    // No certificate where one is wanted.
    let error = put("localhost", "{ ca: ca.pem }").expect_err("refused");
    let told = ["connect.tls-refused", "kafka.closed"];
    assert!(told.contains(&error.code()), "{error:?}");
    let error = put(
        "localhost",
        "{ ca: ca.pem, certificate: server.pem, key: server.pem }",
    );
    assert_eq!(error.expect_err("no key").code(), "connect.tls-key");
}

#[test]
fn a_redis_server_is_trusted_or_not() {
    let site = Site::new(&["localhost"]);
    let read = |name: &str| std::fs::read(site.path().join(name)).expect("it is there");
    let port = free_port();
    let settings = format!(
        "tls-port {port}\ntls-cert-file server.pem\ntls-key-file server.key\ntls-auth-clients no\ntls-ca-cert-file server.pem\n"
    );
    let (pem, key) = (read("server.pem"), read("server.key"));
    let files: [(&str, &[u8]); 3] = [
        ("redis.conf", settings.as_bytes()),
        ("server.pem", &pem),
        ("server.key", &key),
    ];
    let _server = own_redis(&files);
    let put = |host: &str, tls: &str| {
        site.write(
            "redis",
            &format!("address: '{host}:{port}', tls: {tls}, write: {{ key: 'a:${{n}}' }}"),
        )
    };
    put("localhost", "{ ca: ca.pem }").expect("written");
    refused(put("localhost", "{ ca: other.pem }"), "UnknownIssuer");
    refused(put("127.0.0.1", "{ ca: ca.pem }"), "not valid for name");
}

#[test]
fn a_service_that_is_called_is_trusted_or_not() {
    let site = Site::new(&["localhost"]);
    let port = free_port();
    serve(site.path(), port);
    let call = |host: &str, tls: &str| {
        let text = format!("http: {{ url: 'https://{host}:{port}/?token=secret'{tls} }}\n");
        let connection = spec(&text);
        let registry = busbar_connect::registry();
        let connector = registry.get("http").expect("it is registered");
        let request = busbar_connector::ServiceRequest {
            method: "POST".into(),
            body: "[1]".into(),
            ..Default::default()
        };
        site.runtime.block_on(async {
            let context = service_context(site.path());
            let service = connector.service(&connection, context).await?;
            let answer = service.exchange(&request).await?;
            assert_eq!(answer.status, 204);
            Ok(Written::default())
        })
    };
    call("localhost", ", tls: { ca: ca.pem }").expect("called");
    refused(
        call("localhost", ", tls: { ca: other.pem }"),
        "UnknownIssuer",
    );
    refused(call("localhost", ""), "UnknownIssuer");
    refused(
        call("127.0.0.1", ", tls: { ca: ca.pem }"),
        "not valid for name",
    );
    let error = call("localhost", "").expect_err("refused");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let error = call("localhost", ", tls: { ca: empty.pem }").expect_err("unusable");
    assert_eq!(error.code(), "connect.tls-ca");
}

#[test]
fn a_postgres_server_is_trusted_or_not() {
    let site = Site::new(&["localhost"]);
    let server = own_postgres();
    let database = server.database("create table t (n text)");
    let read = |name: &str| std::fs::read_to_string(site.path().join(name)).expect("it is there");
    // The server's own user writes them, to whom they have to belong.
    for name in ["server.pem", "server.key"] {
        let sql = format!(
            "copy (select unnest(string_to_array(trim('{}'), e'\\n'))) to program 'umask 077; cat >{name}'",
            read(name)
        );
        server.run(&database, &sql);
    }
    for setting in [
        "ssl_cert_file = 'server.pem'",
        "ssl_key_file = 'server.key'",
        "ssl = on",
    ] {
        server.run(&database, &format!("alter system set {setting}"));
    }
    server.run(&database, "select pg_reload_conf()");
    eventually("encryption", || {
        match server.run(&database, "show ssl").as_str() {
            "on" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let put = |host: &str, tls: &str| {
        site.write(
            "postgres",
            &format!(
                "address: '{host}:{}', database: {database}, user: postgres, password: secret, tls: {tls}, write: {{ table: made, create: true }}",
                server.port
            ),
        )
    };
    put("localhost", "{ ca: ca.pem }").expect("written");
    assert_eq!(server.run(&database, "select count(*) from made"), "3");
    refused(put("localhost", "{ ca: other.pem }"), "UnknownIssuer");
    refused(put("127.0.0.1", "{ ca: ca.pem }"), "not valid for name");
}

/// An encrypted web service that takes everything.
fn serve(folder: &Path, port: u16) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let read = |name: &str| std::fs::read(folder.join(name)).expect("it is there");
    let certificate = CertificateDer::from_pem_slice(&read("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a configuration");
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut session = rustls::ServerConnection::new(config).expect("a session");
                let mut stream = rustls::Stream::new(&mut session, &mut tcp);
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                while !request.ends_with(b"]") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => request.extend_from_slice(&piece[..read]),
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 Taken\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
}
