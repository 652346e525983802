//! Documents of columns, and the schemas that are derived from them, held against `xmllint`: it gives the same verdict as
//! the program's own validation. One test, because libxml2 is loaded into the process and reads its current folder.

#![allow(missing_docs)]

use std::path::Path;
use std::process::Command;

use arrow::array::{Array, BinaryArray, StructArray};
use busbar_catalog::xsd_of;
use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, SchemaSpec, XmlEncoder};
use busbar_xml::{NativeLibraries, XmlSchema};

/// What is said of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Valid,
    Invalid,
    /// It is not well-formed.
    Unreadable,
}

/// Path, type and whether the column is required.
const COLUMNS: [(&str, FieldType, bool); 11] = [
    ("@id", FieldType::Int, true),
    ("@ward", FieldType::Text, false),
    ("name", FieldType::Text, true),
    ("family.@kind", FieldType::Text, false),
    ("family.#text", FieldType::Text, false),
    ("stay.bed", FieldType::Int, false),
    ("stay.since", FieldType::Time, true),
    ("weight", FieldType::Float, false),
    ("alive", FieldType::Bool, false),
    ("tag[*]", FieldType::Json, false),
    ("note", FieldType::Json, false),
];

const ROWS: [&str; 6] = [
    r#"{"c0":1,"c2":"王小明","c6":"2026-11-29T08:00:00Z"}"#,
    r#"{"c0":-9223372036854775808,"c1":"内科 <3>","c2":"A & B","c3":"\"n\"","c4":" x ","c5":7,"c6":"1969-12-31T23:59:59.5Z","c7":-0.25,"c8":true,"c9":[1,2],"c10":"t"}"#,
    r#"{"c0":0,"c2":"]]>","c4":"y","c5":0,"c6":"2026-02-28T00:00:00.000001Z","c7":1e300,"c8":false,"c9":["a","b c"]}"#,
    r#"{"c0":12,"c2":"-","c3":"k","c6":"9999-12-31T23:59:59Z","c7":5,"c9":[]}"#,
    r#"{"c0":9223372036854775807,"c1":"","c2":"a\tb\nc","c4":"","c6":"2000-01-01T00:00:00Z","c7":1e-300}"#,
    r#"{"c0":3,"c2":"𠮷","c6":"2026-11-29T16:00:00+08:00","c8":true,"c9":[{"a":1}],"c10":{"b":[1,2]}}"#,
];

#[test]
fn xmllint_and_the_own_validation_give_the_same_verdicts() {
    if Command::new("xmllint").arg("--version").output().is_err() {
        // The full proof installs it.
        assert!(
            std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none(),
            "xmllint is not installed (libxml2-utils)"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    let libraries = NativeLibraries::load(false).unwrap_or_else(|error| panic!("{error}"));
    for namespace in [None, Some("urn:ward:<1>&\"2\"")] {
        std::fs::write("main.xsd", schema(namespace)).unwrap();
        let written = documents(namespace);
        let mut all = written.clone();
        let mut seed = 7;
        for document in &written {
            all.extend((0..60).map(|_| mutated(document, &mut seed)));
        }
        let own = XmlSchema::compile(&libraries, "main.xsd").unwrap_or_else(|e| panic!("{e:?}"));
        for document in &written {
            let faults = own.validate(document);
            assert_eq!(
                faults,
                Ok(Vec::new()),
                "what was written fits its schema: {document}"
            );
        }
        // What columns do not read is not valid: a moment without an offset, a required text without letters.
        for (part, other) in [("Z</since>", "</since>"), (">王小明</", "> </")] {
            assert!(written[0].contains(part), "{}", written[0]);
            let document = written[0].replace(part, other);
            assert_eq!(own_verdict(&own, &document), Verdict::Invalid, "{document}");
        }
        let own: Vec<Verdict> = all.iter().map(|text| own_verdict(&own, text)).collect();
        let peer = xmllint(folder.path(), &all);
        for ((text, own), peer) in all.iter().zip(&own).zip(&peer) {
            assert_eq!(own, peer, "{text}");
        }
        let valid = all.iter().zip(&own);
        let valid = valid.filter(|(_, own)| **own == Verdict::Valid);
        assert_eq!(
            refused(valid.map(|(text, _)| text.as_bytes()).collect()),
            [] as [&str; 0]
        );
        for verdict in [Verdict::Valid, Verdict::Invalid, Verdict::Unreadable] {
            let count = own[written.len()..]
                .iter()
                .filter(|of| **of == verdict)
                .count();
            assert!(count >= 10, "{verdict:?}: {count}");
        }
    }
}

fn columns() -> Vec<FieldSpec> {
    let columns = COLUMNS.iter().enumerate();
    let columns = columns.map(|(at, (path, field_type, required))| FieldSpec {
        path: Some((*path).to_owned()),
        required: *required,
        ..FieldSpec::new(format!("c{at}"), *field_type)
    });
    columns.collect()
}

fn schema(namespace: Option<&str>) -> String {
    xsd_of("patient", namespace, None, &columns()).unwrap_or_else(|error| panic!("{error}"))
}

/// Why documents are not read by the columns that their schema was derived from.
fn refused(documents: Vec<&[u8]>) -> Vec<String> {
    let schema = SchemaSpec(columns()).schema().unwrap();
    let all: Vec<usize> = (0..COLUMNS.len()).collect();
    let decoder = Decoder::new(&FormatSpec::Xml(Default::default()), &schema, &all);
    let decoded = decoder.unwrap().decode(&BinaryArray::from_vec(documents));
    let refused = decoded.rejected.iter();
    refused.map(|one| one.cause.to_string()).collect()
}

/// The rows as documents.
fn documents(namespace: Option<&str>) -> Vec<String> {
    let named = COLUMNS.iter().enumerate();
    let columns = named.map(|(at, (_, kind, _))| FieldSpec::new(format!("c{at}"), *kind));
    let schema = SchemaSpec(columns.collect()).schema().unwrap();
    let all: Vec<usize> = (0..COLUMNS.len()).collect();
    let rows = BinaryArray::from_vec(ROWS.map(str::as_bytes).to_vec());
    let decoder = Decoder::new(&FormatSpec::Json(Default::default()), &schema, &all);
    let decoded = decoder.unwrap().decode(&rows);
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected.len());
    let columns: StructArray = decoded.columns.into();
    let paths = COLUMNS.map(|(path, ..)| path);
    let encoder = XmlEncoder::new("patient", namespace, None, &paths).unwrap();
    let made = encoder.encode(&columns);
    assert!(made.refused.is_empty(), "{:?}", made.refused);
    assert_eq!(made.payloads.len(), ROWS.len());
    let texts = made.payloads.iter().flatten();
    texts
        .map(|text| String::from_utf8(text.to_vec()).unwrap())
        .collect()
}

/// A document with one of its parts, which begin with tags, left out, doubled, moved or filled with something else.
fn mutated(document: &str, seed: &mut u64) -> String {
    let mut random = |below: usize| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % below.max(1)
    };
    let starts: Vec<usize> = document.match_indices('<').map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([document.len()]);
    let mut parts: Vec<String> = starts
        .iter()
        .zip(ends)
        .map(|(from, to)| document[*from..to].to_owned())
        .collect();
    let at = random(parts.len());
    match random(6) {
        0 => drop(parts.remove(at)),
        1 => parts.insert(at, parts[at].clone()),
        2 => parts.insert(at, "<other/>".to_owned()),
        3 => parts[at].push('x'),
        4 => {
            // An element with its end.
            let open = (0..parts.len() - 1).filter(|at| parts[at + 1].starts_with("</"));
            let open: Vec<usize> = open.collect();
            if let Some(at) = open.get(random(open.len())) {
                parts.drain(*at..at + 2);
            }
        }
        _ => {
            let other = random(parts.len());
            parts.swap(at, other);
        }
    }
    parts.concat()
}

fn own_verdict(schema: &XmlSchema<'_>, document: &str) -> Verdict {
    match schema.validate(document) {
        Ok(faults) if faults.is_empty() => Verdict::Valid,
        Ok(_) => Verdict::Invalid,
        Err(_) => Verdict::Unreadable,
    }
}

/// What `xmllint` says of each: a line that a file validates or fails to, and neither of one that it cannot read. Without
/// `--noent` it takes an ampersand in the name of a namespace for `&#38;`.
fn xmllint(folder: &Path, documents: &[String]) -> Vec<Verdict> {
    let names: Vec<String> = (0..documents.len()).map(|at| format!("{at}.xml")).collect();
    for (name, document) in names.iter().zip(documents) {
        std::fs::write(folder.join(name), document).unwrap();
    }
    let run = Command::new("xmllint")
        .args(["--nonet", "--noent", "--noout", "--schema", "main.xsd"])
        .args(&names)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let lines: std::collections::HashSet<&str> = said.lines().collect();
    let verdict = |name: &String| match (
        lines.contains(&*format!("{name} validates")),
        lines.contains(&*format!("{name} fails to validate")),
    ) {
        (true, _) => Verdict::Valid,
        (_, true) => Verdict::Invalid,
        _ => Verdict::Unreadable,
    };
    names.iter().map(verdict).collect()
}
