//! Style sheets and schemas in their worker, which is this program itself.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use busbar_event::Error;
use busbar_plugin::{
    GivenEvent, NoTables, Package, Plugin, PluginLanguage, PluginSpec, XML_WORKER, run_xml_worker,
    template,
};
use futures::executor::block_on;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(XML_WORKER) {
        return run_xml_worker(&arguments.next().unwrap_or_default());
    }
    if let Err(error) = busbar_xml::NativeLibraries::load(true) {
        // The full proof installs all languages.
        assert!(
            std::env::var_os("BUSBAR_ALL_LANGUAGES").is_none(),
            "{error}"
        );
        eprintln!("{error}");
        return ExitCode::SUCCESS;
    }
    let tests: &[(&str, fn())] = &[
        (
            "what_a_new_plugin_consists_of_passes_its_tests",
            what_a_new_plugin_consists_of_passes_its_tests,
        ),
        ("style_sheets_make_documents", style_sheets_make_documents),
        (
            "style_sheets_reach_their_own_folder_and_nothing_else",
            style_sheets_reach_their_own_folder_and_nothing_else,
        ),
        (
            "faults_of_style_sheets_have_file_and_line",
            faults_of_style_sheets_have_file_and_line,
        ),
        (
            "the_examples_of_the_recommendation_give_their_results",
            the_examples_of_the_recommendation_give_their_results,
        ),
        ("document_types_are_refused", document_types_are_refused),
        (
            "a_style_sheet_without_end_is_ended",
            a_style_sheet_without_end_is_ended,
        ),
        (
            "a_style_sheet_that_takes_too_much_memory_is_ended",
            a_style_sheet_that_takes_too_much_memory_is_ended,
        ),
        (
            "documents_that_the_library_alone_would_take_are_refused",
            documents_that_the_library_alone_would_take_are_refused,
        ),
        (
            "a_document_that_is_looked_up_is_as_it_was_for_each_event",
            a_document_that_is_looked_up_is_as_it_was_for_each_event,
        ),
        (
            "documents_are_held_against_schemas",
            documents_are_held_against_schemas,
        ),
        (
            "faults_of_schemas_have_file_and_line",
            faults_of_schemas_have_file_and_line,
        ),
        (
            "documents_in_gb18030_come_out_in_gb18030",
            documents_in_gb18030_come_out_in_gb18030,
        ),
    ];
    for (name, test) in tests {
        let began = Instant::now();
        test();
        println!(
            "test {name} ... ok ({:.1} s)",
            began.elapsed().as_secs_f64()
        );
    }
    println!(
        "test result: ok. {} passed; 0 failed; 0 ignored",
        tests.len()
    );
    ExitCode::SUCCESS
}

fn package(spec: &str, files: &[(&str, &str)]) -> Package {
    let spec: PluginSpec = serde_saphyr::from_str(spec).unwrap();
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Package {
        spec,
        files: files.collect(),
    }
}

fn start(package: &Package) -> Result<(Plugin, tempfile::TempDir), Error> {
    let folder = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(
        "xml",
        package,
        &folder.path().join("run"),
        Arc::new(NoTables),
        Arc::new(|| 0),
    )?;
    Ok((plugin, folder))
}

fn styled(body: &str) -> String {
    format!(
        "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform' xmlns:exsl='http://exslt.org/common' xmlns:str='http://exslt.org/strings' extension-element-prefixes='exsl str'>\n<xsl:output omit-xml-declaration='yes'/>\n{body}\n</xsl:stylesheet>"
    )
}

fn style_sheet(body: &str) -> (Plugin, tempfile::TempDir) {
    start(&package("language: xslt", &[("main.xsl", &styled(body))]))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What comes of payloads: `payload`, with tags before it if there are any, or `failed …`.
fn worked(plugin: &Plugin, payloads: &[&[u8]], tags: &[(&str, &str)]) -> Vec<String> {
    let mut events = plugin.events();
    for payload in payloads {
        let event = GivenEvent {
            topic: "his/adt",
            key: None,
            time: 7,
            payload,
        };
        events.push(&event, tags.iter().copied());
    }
    let worked = block_on(plugin.give(0, events).worked()).unwrap();
    let mut lines: BTreeMap<usize, String> = BTreeMap::new();
    for (at, row) in worked.answers.rows().enumerate() {
        let payload = row.payload.map_or("own".into(), String::from_utf8_lossy);
        let tags: String = worked
            .answers
            .tags(at)
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        lines.insert(row.event, format!("{tags}{}", payload.trim_end()));
    }
    for (event, failure) in worked.answers.failed() {
        let place = match (&failure.file, failure.line) {
            (Some(file), Some(line)) => format!("{file}:{line} "),
            _ => String::new(),
        };
        lines.insert(event, format!("failed {place}{}", failure.message));
    }
    for (first, count, error) in &worked.lost {
        assert_eq!(*count, 1);
        lines.insert(*first, format!("lost {}", error.code()));
    }
    lines.into_values().collect()
}

fn what_a_new_plugin_consists_of_passes_its_tests() {
    for language in [PluginLanguage::Xslt, PluginLanguage::Xsd] {
        let mut files: BTreeMap<String, String> = template(language)
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text))
            .collect();
        let spec = files.remove("plugin.yaml").unwrap();
        let spec: PluginSpec = serde_saphyr::from_str(&spec).unwrap();
        start(&Package { spec, files }).unwrap_or_else(|error| panic!("{language:?}: {error}"));
    }
}

fn style_sheets_make_documents() {
    let (plugin, _folder) = style_sheet(
        r#"<xsl:param name="site"/><xsl:param name="topic"/><xsl:param name="none" select="'-'"/>
        <xsl:key name="by" match="item" use="@kind"/>
        <xsl:template match="/"><out site="{$site}" topic="{$topic}" none="{$none}">
          <xsl:for-each select="key('by', 'b')"><xsl:sort select="@n" data-type="number" order="descending"/>
            <v><xsl:number value="position()" format="I"/>:<xsl:value-of select="format-number(@n, '#,##0.00')"/></v></xsl:for-each>
          <xsl:for-each select="str:tokenize(//list)"><t><xsl:value-of select="."/></t></xsl:for-each>
        </out></xsl:template>"#,
    );
    let document = r#"<r><item kind="b" n="7"/><item kind="a" n="8"/><item kind="b" n="1234.5"/><list>x y</list></r>"#;
    let expected = r#"site=a'"b <out site="a'&quot;b" topic="his/adt" none="-"><v>I:1,234.50</v><v>II:7.00</v><t>x</t><t>y</t></out>"#;
    let found = worked(&plugin, &[document.as_bytes(); 2], &[("site", "a'\"b")]);
    let expected = expected.strip_prefix("site=a'\"b ").unwrap();
    assert_eq!(found, [expected, expected]);
    // What is no document is refused before the library sees it.
    let bomb = "<!DOCTYPE r [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]><r>&b;</r>";
    assert_eq!(
        worked(
            &plugin,
            &[
                b"<r>",
                bomb.as_bytes(),
                b"{\"n\":1}",
                &[0xff, 0xfe, 0xff],
                document.as_bytes()
            ],
            &[]
        )[..3],
        [
            "failed Line 1, column 4: the XML document ends before an element, a comment or a quotation mark is closed",
            "failed Line 1, column 1: XML documents with a document type (<!DOCTYPE) are refused",
            "failed Line 1, column 1: an XML document has one root element and no text beside it",
        ]
    );
}

fn style_sheets_reach_their_own_folder_and_nothing_else() {
    let main = styled(
        r#"<xsl:include href="part/names.xsl"/>
        <xsl:template match="/r"><r><xsl:call-template name="of"/>,<xsl:value-of select="document('codes.xml')/codes/c[@n = current()/s]"/></r></xsl:template>"#,
    );
    let part = styled(r#"<xsl:template name="of">[<xsl:value-of select="s"/>]</xsl:template>"#);
    let codes = "<codes><c n='1'>男</c><c n='2'>女</c></codes>";
    let files = [
        ("main.xsl", main.as_str()),
        ("part/names.xsl", &part),
        ("codes.xml", codes),
    ];
    let (plugin, _folder) =
        start(&package("language: xslt", &files)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        worked(&plugin, &[b"<r><s>2</s></r>"], &[]),
        ["<r>[2],女</r>"]
    );

    for name in [
        "/etc/passwd",
        "file:///etc/passwd",
        "../../../../etc/passwd",
        "http://127.0.0.1:9/a.xml",
    ] {
        let (plugin, _folder) = style_sheet(&format!(
            r#"<xsl:template match="/"><r><xsl:value-of select="document('{name}')"/></r></xsl:template>"#
        ));
        let found = worked(&plugin, &[b"<r/>"], &[]);
        assert!(found[0].starts_with("failed "), "{name}: {found:?}");
    }
    let inside = tempfile::tempdir().unwrap();
    let target = inside.path().join("written.xml");
    let (plugin, _folder) = style_sheet(&format!(
        r#"<xsl:template match="/"><exsl:document href="{}"><r/></exsl:document></xsl:template>"#,
        target.display()
    ));
    let found = worked(&plugin, &[b"<r/>"], &[]);
    assert!(found[0].starts_with("failed "), "{found:?}");
    assert!(!target.exists());
}

fn faults_of_style_sheets_have_file_and_line() {
    let refused = |files: &[(&str, &str)]| {
        let error = start(&package("language: xslt", files)).err().unwrap();
        let of = |name: &str| {
            let mut arguments = error.args().iter();
            arguments
                .find(|(argument, _)| *argument == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        (of("file"), of("line"), error.to_string())
    };
    for (body, line) in [
        (
            r#"<xsl:template match="/"><xsl:value-of select="a["/></xsl:template>"#,
            "3",
        ),
        ("<xsl:template match='/'>\n<xsl:bad/>\n</xsl:template>", "4"),
        ("<xsl:template match='/'>\n\n</xsl:template", "6"),
        ("<xsl:include href='/etc/passwd'/>", "3"),
    ] {
        let (file, at, told) = refused(&[("main.xsl", &styled(body))]);
        assert_eq!((file.as_str(), at.as_str()), ("main.xsl", line), "{told}");
    }
    let (plugin, _folder) = style_sheet(
        "<xsl:template match='/r'>\n<xsl:if test='@stop'><xsl:message terminate='yes'>not today</xsl:message></xsl:if>\n<xsl:call-template name='again'/></xsl:template>\n<xsl:template name='again'><xsl:call-template name='again'/></xsl:template>",
    );
    let found = worked(&plugin, &[b"<r stop='1'/>", b"<r/>"], &[]);
    assert_eq!(found[0], "failed not today");
    assert!(found[1].starts_with("failed main.xsl:6 "), "{found:?}");
}

/// A case of the file below.
#[derive(serde::Deserialize)]
struct RecommendationCase {
    name: String,
    files: BTreeMap<String, String>,
    document: String,
    result: String,
}

/// The examples of the recommendation XSLT 1.0 with their results, as the tests of libxslt have them (`tests/REC`, MIT licence); those
/// whose documents have a document type are left out.
fn the_examples_of_the_recommendation_give_their_results() {
    let cases = include_str!("xslt/recommendation.jsonl").lines();
    let mut wrong: Vec<String> = Vec::new();
    for line in cases {
        let case: RecommendationCase = serde_json::from_str(line).unwrap();
        let spec = format!("language: xslt\nmain: {}.xsl", case.name);
        let files: Vec<(&str, &str)> = case
            .files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let found = match start(&package(&spec, &files)) {
            Ok((plugin, _folder)) => worked(&plugin, &[case.document.as_bytes()], &[]).remove(0),
            // A template of this name is there twice.
            Err(_) if case.name == "test-6.1" => continue,
            Err(error) => error.to_string(),
        };
        if found != case.result {
            wrong.push(format!(
                "{}: {found}\n-- not --\n{}",
                case.name, case.result
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn document_types_are_refused() {
    let typed = |body: &str| format!("<!DOCTYPE a [<!ENTITY b 'c'>]>\n{body}");
    let style = styled(
        r#"<xsl:include href="part.xsl"/><xsl:template match="/"><r><xsl:value-of select="document('codes.xml')"/></r></xsl:template>"#,
    );
    let part = styled("");
    let codes = "<codes>1</codes>";
    let started = |style: &str, part: &str, codes: &str| {
        let files = [
            ("main.xsl", style),
            ("part.xsl", part),
            ("codes.xml", codes),
        ];
        start(&package("language: xslt", &files))
    };
    let (plugin, _folder) = started(&style, &part, codes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(worked(&plugin, &[b"<r/>"], &[]), ["<r>1</r>"]);
    for (style, part) in [(typed(&style), part.clone()), (style.clone(), typed(&part))] {
        let error = started(&style, &part, codes).err().unwrap().to_string();
        assert!(error.contains("<!DOCTYPE"), "{error}");
    }
    let (plugin, _folder) =
        started(&style, &part, &typed(codes)).unwrap_or_else(|error| panic!("{error}"));
    let found = worked(&plugin, &[b"<r/>"], &[]);
    assert!(found[0].contains("<!DOCTYPE"), "{found:?}");
    let schema = typed("<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'/>");
    let error = start(&package("language: xsd", &[("main.xsd", &schema)]))
        .err()
        .unwrap();
    assert!(error.to_string().contains("<!DOCTYPE"), "{error}");
}

fn a_style_sheet_without_end_is_ended() {
    let body = r#"<xsl:template match="/r"><xsl:choose><xsl:when test="@long"><xsl:for-each select="//a"><xsl:for-each select="//a"><xsl:for-each select="//a"><xsl:for-each select="//a"><xsl:if test="count(//a[. = 'b']) = 1">x</xsl:if></xsl:for-each></xsl:for-each></xsl:for-each></xsl:for-each></xsl:when><xsl:otherwise><ok/></xsl:otherwise></xsl:choose></xsl:template>"#;
    let spec = "language: xslt\ntimeout: 5s";
    let (plugin, _folder) = start(&package(spec, &[("main.xsl", &styled(body))]))
        .unwrap_or_else(|error| panic!("{error}"));
    let long = format!("<r long='1'>{}</r>", "<a/>".repeat(2000));
    // In a thread of its own: a worker that nobody ends would hold this one for years.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let found = worked(&plugin, &[long.as_bytes(), b"<r/>"], &[]);
        // Nobody waits any more where the test has failed.
        let _ = tell.send((found, plugin));
    });
    let (found, plugin) = told.recv_timeout(PATIENCE).expect("it is ended");
    assert_eq!(found, ["lost plugin.timeout", "<ok/>"]);
    assert!(plugin.status().workers[0].deaths >= 2);
}

fn a_style_sheet_that_takes_too_much_memory_is_ended() {
    let body = r#"<xsl:template match="/r"><xsl:choose><xsl:when test="@large"><xsl:call-template name="grow"><xsl:with-param name="text" select="'0123456789abcdef'"/><xsl:with-param name="left" select="26"/></xsl:call-template></xsl:when><xsl:otherwise><ok/></xsl:otherwise></xsl:choose></xsl:template>
        <xsl:template name="grow"><xsl:param name="text"/><xsl:param name="left"/><xsl:choose><xsl:when test="$left = 0"><xsl:value-of select="string-length($text)"/></xsl:when><xsl:otherwise><xsl:call-template name="grow"><xsl:with-param name="text" select="concat($text, $text)"/><xsl:with-param name="left" select="$left - 1"/></xsl:call-template></xsl:otherwise></xsl:choose></xsl:template>"#;
    let spec = "language: xslt\nmemory: 64MiB";
    let (plugin, _folder) = start(&package(spec, &[("main.xsl", &styled(body))]))
        .unwrap_or_else(|error| panic!("{error}"));
    let found = worked(&plugin, &[b"<r large='1'/>", b"<r/>"], &[]);
    // Either the library is refused memory and says so, or the worker is ended.
    assert!(
        found[0].starts_with("failed ") || found[0].starts_with("lost plugin."),
        "{found:?}"
    );
    assert_eq!(found[1], "<ok/>");
}

fn documents_that_the_library_alone_would_take_are_refused() {
    let (plugin, _folder) = style_sheet(
        r#"<xsl:template match="/"><r><xsl:value-of select="count(//*)"/></r></xsl:template>"#,
    );
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    let wide = |count: usize| {
        let attributes: String = (0..count).map(|at| format!(" a{at}='1'")).collect();
        format!("<r{attributes}/>")
    };
    let refused = [
        "<a:r/>".to_owned(),
        "<r a:b='1'/>".to_owned(),
        "<r>&nope;</r>".to_owned(),
        "<r>\0</r>".to_owned(),
        "<!DOCTYPE r><r/>".to_owned(),
        "<!--\n--><!DOCTYPE r [<!ENTITY a 'b'>]><r>&a;</r>".to_owned(),
        "<r><a></r>".to_owned(),
        "<r/><r/>".to_owned(),
        nested(257),
        wide(257),
    ];
    let taken = [
        "<r><!-- <!DOCTYPE --></r>".to_owned(),
        "<?xml version='1.0' encoding='UTF-8'?><r>\u{6c34}</r>".to_owned(),
        nested(256),
        wide(256),
    ];
    let all: Vec<&[u8]> = refused
        .iter()
        .chain(&taken)
        .map(|text| text.as_bytes())
        .collect();
    let found = worked(&plugin, &all, &[]);
    for (text, found) in refused.iter().zip(&found) {
        assert!(found.starts_with("failed Line "), "{text}: {found}");
    }
    assert_eq!(
        found[refused.len()..],
        ["<r>1</r>", "<r>1</r>", "<r>256</r>", "<r>1</r>"]
    );
}

fn a_document_that_is_looked_up_is_as_it_was_for_each_event() {
    let main = styled(
        r#"<xsl:strip-space elements="codes"/><xsl:key name="code" match="c" use="@n"/>
        <xsl:template match="/r"><r>
          <xsl:for-each select="document('codes.xml')"><xsl:value-of select="key('code', '2')"/></xsl:for-each>
          <xsl:value-of select="concat(',', count(document('codes.xml')/codes/node()), ',', generate-id(document('codes.xml')/codes/c[1]) = generate-id(a))"/>
          <xsl:value-of select="concat(',', document('more.xml')/more)"/>
        </r></xsl:template>"#,
    );
    let files = [
        ("main.xsl", main.as_str()),
        (
            "codes.xml",
            "<codes> <c n='1'>男</c> <c n='2'>女</c> </codes>",
        ),
        ("more.xml", "<more>x</more>"),
    ];
    let (plugin, _folder) =
        start(&package("language: xslt", &files)).unwrap_or_else(|error| panic!("{error}"));
    let documents = [&b"<r><a/></r>"[..]; 4];
    assert_eq!(worked(&plugin, &documents, &[]), ["<r>女,2,false,x</r>"; 4]);
}

fn documents_are_held_against_schemas() {
    let main = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:w" xmlns="urn:w" elementFormDefault="qualified">
      <xs:include schemaLocation="types.xsd"/>
      <xs:element name="r"><xs:complexType><xs:sequence><xs:element name="level" type="Level" maxOccurs="3"/></xs:sequence></xs:complexType></xs:element>
    </xs:schema>"#;
    let types = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:w" xmlns="urn:w">
      <xs:simpleType name="Level"><xs:restriction base="xs:decimal"><xs:maxInclusive value="100"/></xs:restriction></xs:simpleType></xs:schema>"#;
    let files = [("main.xsd", main), ("types.xsd", types)];
    let good = "<?xml version='1.0'?><r xmlns='urn:w'><level>7</level></r>";
    let bad = "<r xmlns='urn:w'>\n<level>7</level>\n<level>700</level></r>";
    let (plugin, _folder) =
        start(&package("language: xsd", &files)).unwrap_or_else(|error| panic!("{error}"));
    let found = worked(
        &plugin,
        &[good.as_bytes(), bad.as_bytes(), b"<r", b"<r/>"],
        &[],
    );
    assert_eq!(found[0], "own");
    assert!(
        found[1].starts_with("failed line 3, /*/*[2]: ") && found[1].contains("700"),
        "{found:?}"
    );
    assert!(found[2].starts_with("failed Line 1, column 3"), "{found:?}");
    assert!(found[3].starts_with("failed line 1, /r: "), "{found:?}");
    let spec = "language: xsd\nsettings: { on_invalid: tag }";
    let (plugin, _folder) = start(&package(spec, &files)).unwrap_or_else(|error| panic!("{error}"));
    let found = worked(
        &plugin,
        &[good.as_bytes(), bad.as_bytes()],
        &[("site", "a")],
    );
    assert_eq!(found[0], "own");
    assert!(
        found[1].starts_with("site=a xml-error=line 3, /*/*[2]: ") && found[1].ends_with("own"),
        "{found:?}"
    );
}

fn faults_of_schemas_have_file_and_line() {
    for (text, line) in [
        (
            "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'>\n<xs:element name='r' type='xs:none'/></xs:schema>",
            "2",
        ),
        (
            "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'>\n\n<xs:element",
            "3",
        ),
        (
            "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema'>\n<xs:include schemaLocation='/etc/passwd'/></xs:schema>",
            "2",
        ),
    ] {
        let error = start(&package("language: xsd", &[("main.xsd", text)]))
            .err()
            .unwrap();
        let mut arguments = error.args().iter();
        let at = arguments
            .find(|(name, _)| *name == "line")
            .map(|(_, value)| value.as_str());
        assert_eq!(at, Some(line), "{error}");
    }
}

fn documents_in_gb18030_come_out_in_gb18030() {
    let (plugin, _folder) = start(&package(
        "language: xslt",
        &[(
            "main.xsl",
            "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'><xsl:output method='text' encoding='GB18030'/><xsl:template match='/'><xsl:value-of select='concat(string-length(.), .)'/></xsl:template></xsl:stylesheet>",
        )],
    ))
    .unwrap_or_else(|error| panic!("{error}"));
    // 水 is CB AE.
    let document = [
        b"<?xml version='1.0' encoding='GB18030'?><a>",
        &[0xcb, 0xae][..],
        b"</a>",
    ]
    .concat();
    let mut events = plugin.events();
    let event = GivenEvent {
        topic: "t",
        key: None,
        time: 0,
        payload: &document,
    };
    events.push(&event, [].into_iter());
    let worked = block_on(plugin.give(0, events).worked()).unwrap();
    let row = worked.answers.rows().next().unwrap();
    assert_eq!(row.payload, Some(&[b'1', 0xcb, 0xae][..]));
}
