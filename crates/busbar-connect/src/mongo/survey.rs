//! What is on the other side: the server's version, and collections with the fields of some of their documents.

use std::collections::BTreeMap;

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::Error;

use super::bson::{BsonDocument, BsonValue, BsonWriter};
use super::failure::MongoFailure;
use super::limits::{SAMPLED_DOCUMENTS, SAMPLED_FIELDS_MAX, SURVEYED_MAX};
use super::link::{MongoLink, MongoServer};

/// Databases of the server's own.
const OWN: [&str; 3] = ["admin", "config", "local"];

/// Looks at the server, and at its collections where they are asked for.
///
/// # Errors
/// *Transient* without an answer, *configuration* where the server refuses.
pub async fn survey(server: &MongoServer, tables: bool) -> Result<Survey, Error> {
    let mut link = server.open().await?;
    let told = |failed: MongoFailure| failed.told(server.doing("-", "listCollections, find"));
    let mut about = BsonWriter::new();
    about.int("buildInfo", 1);
    about.text("$db", &server.database);
    let answer = link.run(&about.finish(), None).await.map_err(told)?;
    let version = answer.document().text("version").unwrap_or("?").to_owned();
    let mut survey = Survey {
        server: format!("MongoDB {version}"),
        tables: Vec::new(),
    };
    if !tables {
        return Ok(survey);
    }
    for database in databases(server, &mut link).await.map_err(told)? {
        let mut list = BsonWriter::new();
        list.int("listCollections", 1);
        list.text("$db", &database);
        list.bool("nameOnly", true);
        list.bool("authorizedCollections", true);
        list.open("cursor");
        list.int("batchSize", i32::try_from(SURVEYED_MAX).unwrap_or(i32::MAX));
        list.close();
        let answer = link.run(&list.finish(), None).await.map_err(told)?;
        let names = answer.document().documents("cursor.firstBatch");
        let mut names: Vec<String> = names
            .filter_map(|one| one.text("name").map(str::to_owned))
            .filter(|name| !name.starts_with("system."))
            .collect();
        names.sort();
        for name in names {
            if survey.tables.len() >= SURVEYED_MAX {
                return Ok(survey);
            }
            let table = collection(&mut link, &database, name).await;
            survey.tables.push(table.map_err(told)?);
        }
    }
    Ok(survey)
}

/// The databases that the user may see; that of the connection alone where the server does not say.
async fn databases(
    server: &MongoServer,
    link: &mut MongoLink,
) -> Result<Vec<String>, MongoFailure> {
    let mut list = BsonWriter::new();
    list.int("listDatabases", 1);
    list.text("$db", "admin");
    list.bool("nameOnly", true);
    list.bool("authorizedDatabases", true);
    let own = server.database.to_string();
    let answer = match link.run(&list.finish(), None).await {
        Ok(answer) => answer,
        Err(MongoFailure::Refused(_)) => return Ok(vec![own]),
        Err(failed) => return Err(failed),
    };
    let names = answer.document().documents("databases");
    let names = names.filter_map(|one| one.text("name").map(str::to_owned));
    let mut names: Vec<_> = names
        .filter(|name| !OWN.contains(&name.as_str()) || *name == own)
        .collect();
    names.sort();
    Ok(names)
}

async fn collection(
    link: &mut MongoLink,
    database: &str,
    name: String,
) -> Result<SurveyedTable, MongoFailure> {
    let mut count = BsonWriter::new();
    count.text("count", &name);
    count.text("$db", database);
    // A view may have no number without being read, and a user no right to it.
    let rows = match link.run(&count.finish(), None).await {
        Ok(answer) => answer.document().number("n"),
        Err(MongoFailure::Refused(_)) => None,
        Err(failed) => return Err(failed),
    };
    let mut sample = BsonWriter::new();
    sample.text("find", &name);
    sample.text("$db", database);
    sample.int("limit", SAMPLED_DOCUMENTS);
    sample.bool("singleBatch", true);
    let mut columns = Vec::new();
    match link.run(&sample.finish(), None).await {
        Ok(answer) => fields(
            answer.document().documents("cursor.firstBatch"),
            &mut columns,
        ),
        Err(MongoFailure::Refused(_)) => {}
        Err(failed) => return Err(failed),
    }
    Ok(SurveyedTable {
        schema: database.to_owned(),
        name,
        rows: rows.and_then(|rows| u64::try_from(rows).ok()),
        columns,
    })
}

/// The fields of documents in the order in which they are first there, with all types that they have.
fn fields<'a>(
    documents: impl Iterator<Item = BsonDocument<'a>>,
    columns: &mut Vec<SurveyedColumn>,
) {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for document in documents {
        for element in document.elements() {
            let Some(word) = word(element.value) else {
                continue;
            };
            match places.get(&*element.name) {
                Some(at) => {
                    let kind = &mut columns[*at].kind;
                    if !kind.split(", ").any(|known| known == word) {
                        *kind = format!("{kind}, {word}");
                    }
                }
                None if columns.len() < SAMPLED_FIELDS_MAX => {
                    let name = element.name.into_owned();
                    places.insert(name.clone(), columns.len());
                    columns.push(SurveyedColumn {
                        kind: word.to_owned(),
                        key: name == "_id",
                        name,
                        required: false,
                    });
                }
                None => {}
            }
        }
    }
}

/// A type as MongoDB calls it in `$type`; none for a value that is not there.
fn word(value: BsonValue<'_>) -> Option<&'static str> {
    Some(match value {
        BsonValue::Null | BsonValue::Old => return None,
        BsonValue::Double(_) => "double",
        BsonValue::Text(_) | BsonValue::NotText(_) => "string",
        BsonValue::Document(_) => "object",
        BsonValue::Array(_) => "array",
        BsonValue::Binary(..) => "binData",
        BsonValue::ObjectId(_) => "objectId",
        BsonValue::Bool(_) => "bool",
        BsonValue::Date(_) => "date",
        BsonValue::Regex(..) => "regex",
        BsonValue::Code(_) => "javascript",
        BsonValue::Int(_) => "int",
        BsonValue::Timestamp(_) => "timestamp",
        BsonValue::Long(_) => "long",
        BsonValue::Decimal(_) => "decimal",
        BsonValue::MinKey => "minKey",
        BsonValue::MaxKey => "maxKey",
    })
}
