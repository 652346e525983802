//! The row of `soap`, and a service that takes rows.

use std::net::TcpListener;

use crate::peers::Web;
use crate::ports::free_port;
use crate::subjects::{Subject, Taker};
use crate::world::eventually;

/// The files in the folder of the connections of these tests.
pub const FILES: [(&str, &str); 5] = [
    ("rows.wsdl", include_str!("wsdl/rows.wsdl")),
    ("ward.wsdl", include_str!("wsdl/ward.wsdl")),
    ("desk.wsdl", include_str!("wsdl/desk.wsdl")),
    ("parts/types.wsdl", include_str!("wsdl/types.wsdl")),
    ("parts/ward.xsd", include_str!("wsdl/ward.xsd")),
];

pub fn subject() -> Subject {
    Subject {
        kind: "soap",
        good: vec![
            "soap: { url: 'http://127.0.0.1:1/x' }\n",
            "soap: { url: 'https://127.0.0.1:1/x', version: '1.2', namespaces: { w: 'urn:w' }, headers: { A: { env: B } }, tls: { ca: ca.pem }, timeout: 5s }\n",
            "soap: { wsdl: rows.wsdl, user: { name: a, password: { env: B }, digest: true } }\n",
            "soap: { wsdl: ward.wsdl, port: Two }\n",
            "soap: { wsdl: ward.wsdl, version: '1.2', write: { method: Admit } }\n",
        ],
        wrong: vec![
            ("soap: {}\n", "soap"),
            ("soap: { url: /only/a/path }\n", "/only/a/path"),
            ("soap: { url: 'http://a', version: '2' }\n", "2"),
            ("soap: { url: 'http://a', timeout: 1h }\n", "1h"),
            ("soap: { url: 'http://a', headers: { Host: b } }\n", "Host"),
            ("soap: { url: 'http://a', port: One }\n", "One"),
            ("soap: { wsdl: row.wsdl }\n", "row.wsdl"),
            ("soap: { wsdl: ward.wsdl, port: Three }\n", "Three"),
            ("soap: { wsdl: rows.wsdl, version: '1.2' }\n", "rows.wsdl"),
            (
                "soap: { wsdl: rows.wsdl, write: { method: GetRow } }\n",
                "GetRow",
            ),
        ],
        secret: vec![
            "soap: { url: 'http://127.0.0.1:PORT/x?token=SECRET', wsdl: rows.wsdl, write: { method: PutRow }, headers: { Authorization: Bearer SECRET }, user: { name: a, password: SECRET } }\n",
        ],
        supply: None,
        taker: Some(|| Box::new(Filed::new())),
    }
}

/// A service that keeps what it is sent.
struct Filed {
    port: u16,
    web: Option<Web>,
    before: Vec<crate::peers::Request>,
}

pub const TAKEN: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><PutRowResponse xmlns=\"urn:rows\"/></s:Body></s:Envelope>";

/// A fault as services send it.
pub fn fault(code: &str, said: &str) -> Vec<u8> {
    format!("<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>{code}</faultcode><faultstring>{said}</faultstring></s:Fault></s:Body></s:Envelope>").into_bytes()
}

impl Filed {
    fn new() -> Filed {
        let port = free_port();
        Filed {
            port,
            web: Some(serving(port)),
            before: Vec::new(),
        }
    }
}

fn serving(port: u16) -> Web {
    let web = Web::on(port);
    web.answer(|_| Some((200, "", TAKEN.into())));
    web
}

/// What stands in the element `note` of a request.
fn note(body: &str) -> String {
    let from = body.find("<note>").expect("a note") + 6;
    let to = body.find("</note>").expect("its end");
    let text = body[from..to].replace("&lt;", "<").replace("&gt;", ">");
    text.replace("&quot;", "\"").replace("&amp;", "&")
}

impl Taker for Filed {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "soap: {{ url: 'http://127.0.0.1:{}/rows', wsdl: rows.wsdl, write: {{ method: PutRow }} }}\n",
            self.port
        )
    }
    fn rows(&mut self) -> Vec<String> {
        let now = self.web.iter().flat_map(Web::requests);
        let all: Vec<_> = self.before.iter().cloned().chain(now).collect();
        let taken = all.iter().filter(|request| request.status == 200);
        taken.map(|request| note(&request.text())).collect()
    }
    fn go_away(&mut self) {
        if let Some(web) = self.web.take() {
            self.before.extend(web.requests());
            web.answer(|_| None);
        }
        // Until the listener has let go of the port.
        eventually("the end of the server", || {
            let bound = TcpListener::bind(("127.0.0.1", self.port));
            bound.map(drop).map_err(|why| why.to_string())
        });
    }
    fn come_back(&mut self) {
        self.web = Some(serving(self.port));
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        let web = self.web.as_ref().expect("a server");
        web.answer(move |request| match request.text().contains(word) {
            true => Some((500, "", fault("s:Client", "no such thing"))),
            false => Some((200, "", TAKEN.into())),
        });
        word.as_bytes().to_vec()
    }
}
