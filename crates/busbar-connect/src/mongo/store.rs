//! Documents as rows: looked up by their keys, and read one after another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};
use busbar_connector::{
    ColumnType, Found, KeyedLayout, KeyedStore, PoolUse, SessionPool, SqlRows, TextColumns, Work,
};
use busbar_event::{Class, Error, time};

use super::MongoRows;
use super::bson::{BsonDocument, BsonValue, BsonWriter};
use super::failure::MongoFailure;
use super::json::{object_id, scalar_text, write_value};
use super::limits::{BATCH_FIRST, BATCH_MAX, FIND_KEYS_MAX};
use super::link::{MongoAnswer, MongoLink, MongoServer};

/// The documents of a database that a connection's file names.
pub struct MongoStore {
    server: Arc<MongoServer>,
    pool: Arc<SessionPool<MongoLink>>,
    tables: BTreeMap<String, Arc<StoredRows>>,
}

/// Documents of one collection.
struct StoredRows {
    collection: String,
    schema: SchemaRef,
    kinds: Vec<ColumnType>,
    /// Places of the columns of the key, and whether their texts are ObjectIds.
    key: Vec<(usize, bool)>,
}

impl StoredRows {
    fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    /// Adds a condition on a column of the key; none where no document can have this value.
    fn condition(
        &self,
        part: usize,
        column: &ArrayRef,
        row: usize,
        out: &mut BsonWriter,
    ) -> Option<Vec<u8>> {
        let (at, is_id) = self.key[part];
        let name = self.name(at);
        if column.is_null(row) {
            return None;
        }
        Some(match column.data_type() {
            DataType::Boolean => {
                let value = column.as_boolean().value(row);
                out.bool(name, value);
                value.to_string().into_bytes()
            }
            DataType::Int64 => {
                let value = column.as_primitive::<Int64Type>().value(row);
                out.long(name, value);
                value.to_string().into_bytes()
            }
            DataType::Float64 => {
                let value = column.as_primitive::<Float64Type>().value(row);
                out.double(name, value);
                value.to_string().into_bytes()
            }
            DataType::Timestamp(..) => {
                let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
                if micros.rem_euclid(1_000) != 0 {
                    return None;
                }
                out.date(name, micros.div_euclid(1_000));
                time::text(micros).into_bytes()
            }
            DataType::Binary => {
                let value = column.as_binary::<i32>().value(row);
                out.binary(name, 0, value);
                value.to_vec()
            }
            _ => {
                let text = column.as_string::<i32>().value(row);
                match is_id {
                    true => out.object_id(name, object_id(text)?),
                    false => out.text(name, text),
                }
                match is_id {
                    true => text.to_ascii_lowercase().into_bytes(),
                    false => text.as_bytes().to_vec(),
                }
            }
        })
    }

    /// What a document has in a column, as [`TextColumns`] takes it.
    fn text(&self, document: BsonDocument<'_>, column: usize) -> Option<Vec<u8>> {
        let value = document.get(self.name(column))?;
        let kind = self.kinds[column];
        Some(match (kind, value) {
            (_, BsonValue::Null | BsonValue::Old) => return None,
            (ColumnType::Binary, BsonValue::Binary(_, bytes)) => bytes.to_vec(),
            // Whole numbers are often kept as floating-point ones.
            #[allow(clippy::cast_possible_truncation, reason = "it was compared")]
            (ColumnType::Int, BsonValue::Double(number))
                if number.fract() == 0.0 && number.abs() < 9e15 =>
            {
                (number as i64).to_string().into_bytes()
            }
            (ColumnType::Float, BsonValue::Double(number)) => number.to_string().into_bytes(),
            (ColumnType::Json, value) => json_bytes(value),
            (_, BsonValue::Document(_) | BsonValue::Array(_)) => json_bytes(value),
            (_, value) => scalar_text(value)?.into_bytes(),
        })
    }

    /// The text of a document's key, to find the row that asked for it.
    fn key_of(&self, document: BsonDocument<'_>) -> Option<Vec<Vec<u8>>> {
        self.key
            .iter()
            .map(|(column, is_id)| {
                let text = self.text(document, *column)?;
                Some(match self.kinds[*column] {
                    // Numbers are the same whatever their width.
                    ColumnType::Float => {
                        let number: f64 = std::str::from_utf8(&text).ok()?.parse().ok()?;
                        number.to_string().into_bytes()
                    }
                    _ if *is_id => text.to_ascii_lowercase(),
                    _ => text,
                })
            })
            .collect()
    }

    /// Which fields are asked for.
    fn projection(&self, columns: &[usize], find: &mut BsonWriter) {
        find.open("projection");
        let mut all: Vec<usize> = columns.to_vec();
        all.extend(self.key.iter().map(|(column, _)| *column));
        all.sort_unstable();
        all.dedup();
        let mut names: Vec<&str> = all.iter().map(|column| self.name(*column)).collect();
        names.sort_unstable();
        let mut last = "";
        for name in names {
            // A field and one within it cannot both be asked for.
            let within = !last.is_empty()
                && name
                    .strip_prefix(last)
                    .is_some_and(|rest| rest.starts_with('.'));
            if !within {
                find.int(name, 1);
                last = name;
            }
        }
        if !all.iter().any(|column| self.name(*column) == "_id") {
            find.int("_id", 0);
        }
        find.close();
    }

    fn push(
        &self,
        document: BsonDocument<'_>,
        columns: &[usize],
        made: &mut TextColumns,
    ) -> Result<(), Error> {
        let texts: Vec<_> = columns
            .iter()
            .map(|column| self.text(document, *column))
            .collect();
        made.push(texts.iter().map(Option::as_deref))
    }
}

fn json_bytes(value: BsonValue<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_value(value, &mut out);
    out
}

impl MongoStore {
    pub(super) fn new(
        name: &str,
        server: MongoServer,
        sessions: u16,
        tables: &BTreeMap<String, MongoRows>,
    ) -> MongoStore {
        let rows = |(name, options): (&String, &MongoRows)| {
            let columns = &options.columns;
            let fields: Vec<_> = columns
                .iter()
                .map(|one| one.kind.field(&one.name))
                .collect();
            let key = options.key.iter().filter_map(|key| {
                let at = columns.iter().position(|one| one.name == *key)?;
                Some((at, options.object_ids.contains(key)))
            });
            let rows = StoredRows {
                collection: options.collection.clone(),
                schema: Arc::new(Schema::new(fields)),
                kinds: columns.iter().map(|one| one.kind).collect(),
                key: key.collect(),
            };
            (name.clone(), Arc::new(rows))
        };
        MongoStore {
            tables: tables.iter().map(rows).collect(),
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        }
    }

    fn rows(&self, name: &str) -> Result<&Arc<StoredRows>, Error> {
        self.tables
            .get(name)
            .ok_or_else(|| Error::new(Class::Configuration, "mongodb.no-table").with("table", name))
    }

    /// The answer to a command. A session that was lost while it was not used is replaced by a new one, where the command may be
    /// sent again.
    async fn ask(
        &self,
        command: &[u8],
        collection: &str,
        again: bool,
    ) -> Result<MongoAnswer, Error> {
        loop {
            let mut session = self.pool.take(|| self.server.open()).await?;
            let told = |failed: MongoFailure| failed.told(self.server.doing(collection, "find"));
            match session.session.run(command, None).await {
                Ok(answer) => {
                    session.give_back();
                    return Ok(answer);
                }
                Err(failed @ MongoFailure::Refused(_)) => {
                    let error = told(failed);
                    // One that is not the primary any more is of no use.
                    if error.class() != Class::Transient {
                        session.give_back();
                    }
                    return Err(error);
                }
                Err(failed) => {
                    // The others were opened to the same server.
                    self.pool.forget();
                    if session.is_new || !again {
                        return Err(told(failed));
                    }
                }
            }
        }
    }

    async fn find_rows(
        &self,
        rows: &StoredRows,
        keys: &[ArrayRef],
        columns: &[usize],
    ) -> Result<Found, Error> {
        let count = keys.first().map_or(0, |column| column.len());
        let mut made = TextColumns::new(Arc::new(rows.schema.project(columns).map_err(of_arrow)?));
        let mut places = vec![None; count];
        let mut next = 0_u32;
        let all: Vec<usize> = (0..count).collect();
        for part in all.chunks(FIND_KEYS_MAX) {
            let mut asked: HashMap<Vec<Vec<u8>>, Vec<usize>> = HashMap::new();
            let mut find = self.server.command("find", &rows.collection);
            find.open("filter");
            find.open_array("$or");
            for row in part {
                let mut condition = BsonWriter::new();
                let texts = keys
                    .iter()
                    .enumerate()
                    .map(|(at, column)| rows.condition(at, column, *row, &mut condition));
                let Some(texts) = texts.collect::<Option<Vec<_>>>() else {
                    continue;
                };
                let known = asked.len().to_string();
                let same = asked.entry(texts).or_default();
                if same.is_empty() {
                    find.document(&known, &condition.finish());
                }
                same.push(*row);
            }
            find.close();
            find.close();
            if asked.is_empty() {
                continue;
            }
            rows.projection(columns, &mut find);
            let mut cursor = FoundCursor::begin(find, rows.collection.clone());
            while let Some(answer) = cursor.next(self).await? {
                for document in documents(&answer) {
                    let key = rows.key_of(document);
                    let Some(numbers) = key.as_ref().and_then(|key| asked.get(key)) else {
                        // Another value that the server compares as the same.
                        continue;
                    };
                    if numbers.iter().any(|row| places[*row].is_some()) {
                        let names = rows.key.iter().map(|(at, _)| rows.name(*at));
                        return Err(Error::new(Class::Configuration, "mongodb.key-twice")
                            .with("collection", &rows.collection)
                            .with("key", names.collect::<Vec<_>>().join(", ")));
                    }
                    rows.push(document, columns, &mut made)?;
                    for row in numbers {
                        places[*row] = Some(next);
                    }
                    next += 1;
                }
            }
        }
        Ok(Found {
            rows: made.finish()?,
            places: UInt32Array::from(places),
        })
    }
}

fn documents(answer: &MongoAnswer) -> impl Iterator<Item = BsonDocument<'_>> {
    let document = answer.document();
    let first = document.documents("cursor.firstBatch");
    first.chain(document.documents("cursor.nextBatch"))
}

/// An answer that comes in pieces. It is read with any session of the pool, for the server keeps it for all of them.
struct FoundCursor {
    collection: String,
    command: Option<Vec<u8>>,
    /// Pieces have come: one that was sent and did not arrive is not sent again.
    begun: bool,
    /// The next piece is as large as this.
    batch: i32,
}

impl FoundCursor {
    fn begin(mut find: BsonWriter, collection: String) -> FoundCursor {
        find.int("batchSize", BATCH_FIRST);
        FoundCursor {
            collection,
            command: Some(find.finish()),
            begun: false,
            batch: BATCH_FIRST,
        }
    }

    async fn next(&mut self, store: &MongoStore) -> Result<Option<MongoAnswer>, Error> {
        let Some(command) = self.command.take() else {
            return Ok(None);
        };
        let answer = store.ask(&command, &self.collection, !self.begun).await?;
        self.begun = true;
        let id = answer.document().number("cursor.id").unwrap_or(0);
        if id != 0 {
            self.batch = (self.batch * 2).min(BATCH_MAX);
            let mut more = BsonWriter::new();
            more.long("getMore", id);
            more.text("collection", &self.collection);
            more.int("batchSize", self.batch);
            more.text("$db", &store.server.database);
            self.command = Some(more.finish());
        }
        Ok(Some(answer))
    }
}

impl KeyedStore for MongoStore {
    fn layout(&self, rows: &str) -> Option<KeyedLayout> {
        let rows = self.tables.get(rows)?;
        let key = rows
            .key
            .iter()
            .map(|(column, _)| rows.name(*column).to_owned());
        Some(KeyedLayout {
            schema: Arc::clone(&rows.schema),
            key: key.collect(),
        })
    }

    fn find<'a>(
        &'a self,
        rows: &'a str,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>> {
        Box::pin(async move { self.find_rows(self.rows(rows)?, keys, columns).await })
    }

    fn all<'a>(
        &'a self,
        rows: &'a str,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>> {
        Box::pin(async move {
            let rows = Arc::clone(self.rows(rows)?);
            let schema = rows.schema.project(columns).map_err(of_arrow)?;
            let mut find = self.server.command("find", &rows.collection);
            rows.projection(columns, &mut find);
            Ok(Box::new(MongoScan {
                store: self,
                columns,
                made: TextColumns::new(Arc::new(schema)),
                cursor: FoundCursor::begin(find, rows.collection.clone()),
                rows,
            }) as Box<dyn SqlRows + 'a>)
        })
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// All documents of a collection.
struct MongoScan<'a> {
    store: &'a MongoStore,
    rows: Arc<StoredRows>,
    columns: &'a [usize],
    made: TextColumns,
    cursor: FoundCursor,
}

impl SqlRows for MongoScan<'_> {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async move {
            loop {
                let Some(answer) = self.cursor.next(self.store).await? else {
                    return Ok(None);
                };
                for document in documents(&answer) {
                    self.rows.push(document, self.columns, &mut self.made)?;
                }
                if self.made.rows() > 0 {
                    return self.made.finish().map(Some);
                }
            }
        })
    }
}

fn of_arrow(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "database.rows").caused_by(cause)
}
