//! A table's rows in the order of its key, read a page at a time.

use busbar_connector::{KeyOrder, TextRow};

use super::{Failed, SqlAnswer, SqlSession};

/// Rows of one state of a table.
pub struct KeyedPages<S> {
    pub session: S,
    /// How columns of the key are compared: as they are written in SQL.
    key: Vec<(String, KeyOrder)>,
    sql: PageSql,
    /// The key of the last row; none before the first one.
    last: Option<Vec<Option<String>>>,
    done: bool,
}

/// Makes a statement of the condition of rows behind the last one, with its `WHERE`, and of the order.
pub type PageStatement = Box<dyn Fn(&str, &str) -> String + Send + Sync>;

/// How a page is asked for.
pub struct PageSql {
    /// Rows of a page.
    pub rows: usize,
    /// How its statement is made.
    pub statement: PageStatement,
    /// A text of the key as it is written in SQL, in the order of its characters.
    pub text: fn(&str) -> String,
}

impl<S: SqlSession> KeyedPages<S> {
    pub fn new(session: S, key: Vec<(String, KeyOrder)>, sql: PageSql) -> KeyedPages<S> {
        KeyedPages {
            session,
            key,
            sql,
            last: None,
            done: false,
        }
    }

    /// The next page; without rows behind the last one.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn read(&mut self) -> Result<Vec<TextRow>, Failed<S::Said>> {
        if self.done {
            return Ok(Vec::new());
        }
        let order: Vec<_> = self.key.iter().map(|(key, _)| key.clone()).collect();
        let condition = match &self.last {
            None => String::new(),
            Some(last) => {
                let last = self.key.iter().zip(last).map(|((_, order), value)| {
                    value.as_deref().map(|value| match order {
                        KeyOrder::Number => value.to_owned(),
                        KeyOrder::Text => (self.sql.text)(value),
                    })
                });
                format!("WHERE {}", behind(&order, &last.collect::<Vec<_>>()))
            }
        };
        let sql = (self.sql.statement)(&condition, &order.join(", "));
        let answer = self.session.run(&sql).await?.into_iter().next();
        let rows = answer.map(SqlAnswer::into_rows).unwrap_or_default();
        let text = |value: Option<bytes::Bytes>| {
            value.map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let rows = rows.into_iter();
        let rows: Vec<TextRow> = rows
            .map(|row| row.into_iter().map(text).collect())
            .collect();
        self.done = rows.len() < self.sql.rows;
        self.last = rows.last().map(|row| row[..self.key.len()].to_vec());
        Ok(rows)
    }
}

/// The condition of what is behind these values in the order of these expressions, in which NULL comes first. `(a, b) > (1, 2)`
/// would not use an index, nor do all databases know it.
pub fn behind(order: &[String], last: &[Option<String>]) -> String {
    let same = |at: usize| match &last[at] {
        Some(value) => format!("{} = {value}", order[at]),
        None => format!("{} IS NULL", order[at]),
    };
    let more = |at: usize| match &last[at] {
        Some(value) => format!("{} > {value}", order[at]),
        None => format!("{} IS NOT NULL", order[at]),
    };
    let ways = (0..order.len()).map(|at| {
        let mut all: Vec<_> = (0..at).map(same).collect();
        all.push(more(at));
        format!("({})", all.join(" AND "))
    });
    ways.collect::<Vec<_>>().join(" OR ")
}
