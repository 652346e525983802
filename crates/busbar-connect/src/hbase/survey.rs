//! What is on the other side: that it is a Thrift server of the second kind, and its tables.

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::{Class, Error};

use super::calls::{self, FOREVER_S, THRIFT_2};
use super::failure::told;
use super::limits::SURVEYED_TABLES_MAX;
use super::link::HbaseServer;

/// Looks at the server, and at its tables where they are asked for: their families are their columns.
///
/// # Errors
/// As [`HbaseServer::open`]. *Configuration*: the server is another one.
pub async fn survey(server: &HbaseServer, tables: bool) -> Result<Survey, Error> {
    let mut link = server.open().await?;
    let answer = link.call(&calls::server_type()).await?;
    let fault = |fault| told(fault, &server.address, "");
    if calls::read_i32(&answer).map_err(fault)? != THRIFT_2 {
        let error = Error::new(Class::Configuration, "hbase.other-service");
        return Err(error
            .with("address", &server.address)
            .with("said", "\"Thrift 1\""));
    }
    // The server answers before it has found HBase itself.
    let answer = link.call(&calls::table_names()).await?;
    calls::read_count(&answer).map_err(fault)?;
    let mut survey = Survey {
        server: "HBase, Thrift 2".to_owned(),
        tables: Vec::new(),
    };
    if !tables {
        return Ok(survey);
    }
    let answer = link.call(&calls::describe_all()).await?;
    let found = calls::read_all_described(&answer).map_err(fault)?;
    for table in found.into_iter().take(SURVEYED_TABLES_MAX) {
        let families = table.families.iter().map(|family| SurveyedColumn {
            name: String::from_utf8_lossy(&family.name).into_owned(),
            kind: match family.ttl_s {
                FOREVER_S => format!("VERSIONS => {}", family.versions),
                ttl => format!("VERSIONS => {}, TTL => {ttl}", family.versions),
            },
            key: false,
            required: false,
        });
        survey.tables.push(SurveyedTable {
            schema: table.namespace,
            name: table.name,
            rows: None,
            columns: families.collect(),
        });
    }
    survey
        .tables
        .sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(survey)
}
