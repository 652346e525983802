//! Rows of a table in the order of its key, as two tables are compared by them.

use busbar_event::Error;

use crate::Work;

/// Which rows are read, and how.
#[derive(Clone, Debug)]
pub struct TableRead {
    /// The schema or database of the table.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The columns whose values are read; those of the key come first.
    pub columns: Vec<ReadColumn>,
    /// How the columns of the key are ordered, from the first.
    pub key: Vec<KeyOrder>,
}

/// A column that is read.
#[derive(Clone, Debug)]
pub struct ReadColumn {
    /// Its name.
    pub name: String,
    /// Whether its values are bytes, which are read as hexadecimal digits.
    pub bytes: bool,
}

/// How the values of a key's column are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// As numbers.
    Number,
    /// As the bytes of their text.
    Text,
}

/// A row: the text of each value.
pub type TextRow = Vec<Option<String>>;

/// Rows in the order of their key, of one state of the table.
pub trait OrderedRows: Send {
    /// The next rows, some thousand at most; none when there are no more.
    ///
    /// # Errors
    /// As [`crate::Source::poll`].
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>>;
}
