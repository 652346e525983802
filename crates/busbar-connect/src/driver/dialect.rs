//! How each database writes SQL.

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::DriverTarget;
use crate::change::plan::Dialect;
use crate::{mysql, postgres};

/// What a connection's file may say of the database, where the driver's name for it says too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Dialect")]
pub enum DriverDialectName {
    /// IBM Db2.
    Db2,
    /// Apache Derby.
    Derby,
    /// Dameng.
    Dameng,
    /// Standard SQL only: rows are put in the place of others by an update and, where it finds none, an insert.
    Generic,
    /// H2.
    H2,
    /// HSQLDB.
    Hsqldb,
    /// MariaDB, MySQL, TiDB, OceanBase with its MySQL tenants.
    Mysql,
    /// Oracle, OceanBase with its Oracle tenants.
    Oracle,
    /// PostgreSQL, Kingbase.
    Postgres,
    /// SQLite.
    Sqlite,
    /// SQL Server.
    Sqlserver,
}

/// How a database writes SQL.
pub struct DriverDialect {
    pub name: DriverDialectName,
    pub plan: Dialect,
    replace: Replace,
    limit: Limiting,
}

/// How a row is put in the place of the one with its key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    /// `MERGE INTO t (…) KEY (…) VALUES (…)`
    MergeKey,
    /// `MERGE INTO t USING (SELECT ? AS c FROM DUAL) …`
    MergeDual,
    /// `MERGE INTO t USING (VALUES (CAST(? AS …))) …`
    MergeValues,
    /// The same with locks, without casts, and with a semicolon.
    MergeServer,
    /// `MERGE INTO t USING SYSIBM.SYSDUMMY1 ON c = ? …`
    MergeDummy,
    /// `INSERT … ON CONFLICT (…) DO UPDATE …`
    OnConflict,
    /// `INSERT … ON DUPLICATE KEY UPDATE …`
    OnDuplicate,
    /// Two statements.
    UpdateInsert,
}

/// How only some rows are asked for.
#[derive(Clone, Copy)]
enum Limiting {
    Limit,
    Fetch,
    OffsetFetch,
    /// The driver is told.
    None,
}

/// A statement, and which columns are its parameters.
pub struct DriverStatement {
    pub sql: String,
    pub parameters: Vec<usize>,
    /// Takes the rows that the first statement does not find.
    pub other: Option<(String, Vec<usize>)>,
}

/// Types of columns of tables that are made.
struct SqlTypes {
    boolean: &'static str,
    small: &'static str,
    int: &'static str,
    big: &'static str,
    double: &'static str,
    decimal: &'static str,
    /// Digits that a decimal number has at most.
    digits: u8,
    time: &'static str,
    bytes: &'static str,
    text: &'static str,
    key_bytes: &'static str,
    key_text: &'static str,
}

const STANDARD: SqlTypes = SqlTypes {
    boolean: "BOOLEAN",
    small: "SMALLINT",
    int: "INTEGER",
    big: "BIGINT",
    double: "DOUBLE PRECISION",
    decimal: "DECIMAL",
    digits: 38,
    time: "TIMESTAMP(6)",
    bytes: "BLOB",
    text: "CLOB",
    key_bytes: "VARBINARY(255) NOT NULL",
    key_text: "VARCHAR(255) NOT NULL",
};

const H2: SqlTypes = SqlTypes {
    bytes: "VARBINARY",
    text: "VARCHAR",
    ..STANDARD
};

const DERBY: SqlTypes = SqlTypes {
    digits: 31,
    time: "TIMESTAMP",
    key_bytes: "VARCHAR(255) FOR BIT DATA NOT NULL",
    ..STANDARD
};

const HSQLDB: SqlTypes = SqlTypes {
    bytes: "LONGVARBINARY",
    text: "LONGVARCHAR",
    ..STANDARD
};

const DB2: SqlTypes = SqlTypes {
    digits: 31,
    key_bytes: "VARCHAR(255) FOR BIT DATA NOT NULL",
    ..STANDARD
};

const ORACLE: SqlTypes = SqlTypes {
    boolean: "NUMBER(1)",
    small: "NUMBER(5)",
    int: "NUMBER(10)",
    big: "NUMBER(19)",
    double: "BINARY_DOUBLE",
    decimal: "NUMBER",
    key_bytes: "RAW(255) NOT NULL",
    key_text: "VARCHAR2(255 CHAR) NOT NULL",
    ..STANDARD
};

const DAMENG: SqlTypes = SqlTypes {
    boolean: "BIT",
    ..STANDARD
};

const SQLSERVER: SqlTypes = SqlTypes {
    boolean: "BIT",
    int: "INT",
    double: "FLOAT",
    time: "DATETIME2(6)",
    bytes: "VARBINARY(MAX)",
    text: "NVARCHAR(MAX)",
    key_text: "NVARCHAR(255) COLLATE Latin1_General_BIN2 NOT NULL",
    ..STANDARD
};

const SQLITE: SqlTypes = SqlTypes {
    time: "TIMESTAMP",
    text: "TEXT",
    key_text: "TEXT NOT NULL",
    key_bytes: "BLOB NOT NULL",
    ..STANDARD
};

impl SqlTypes {
    fn made_for(&self, from: &DataType, key: bool) -> String {
        use DataType as A;
        let plain = match from {
            A::Boolean => self.boolean,
            A::Int8 | A::Int16 | A::UInt8 => self.small,
            A::Int32 | A::UInt16 => self.int,
            A::Int64 | A::UInt32 => self.big,
            A::UInt64 => return format!("{}(20)", self.decimal),
            A::Float16 | A::Float32 | A::Float64 => self.double,
            A::Decimal128(precision, scale) | A::Decimal256(precision, scale)
                if *precision <= self.digits =>
            {
                return format!("{}({precision},{scale})", self.decimal);
            }
            A::Timestamp(..) => self.time,
            A::Date32 | A::Date64 => "DATE",
            A::Time32(_) | A::Time64(_) => "TIME",
            A::Dictionary(_, values) => return self.made_for(values, key),
            A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => match key {
                true => self.key_bytes,
                false => self.bytes,
            },
            _ if key => self.key_text,
            _ => self.text,
        };
        // Some want it said of a primary key.
        match key && !plain.ends_with("NOT NULL") {
            true => format!("{plain} NOT NULL"),
            false => plain.to_owned(),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// As the database would keep the name if it stood without quotes.
fn upper(name: &str) -> String {
    quoted(&name.to_uppercase())
}

fn ticked(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

const fn standard(
    name: DriverDialectName,
    made_for: fn(&DataType, bool) -> String,
    replace: Replace,
    limit: Limiting,
) -> DriverDialect {
    DriverDialect {
        name,
        plan: Dialect {
            identifier: upper,
            made_for,
            same: str::eq_ignore_ascii_case,
        },
        replace,
        limit,
    }
}

static DIALECTS: [DriverDialect; 11] = [
    standard(
        DriverDialectName::Db2,
        |from, key| DB2.made_for(from, key),
        Replace::MergeValues,
        Limiting::Fetch,
    ),
    standard(
        DriverDialectName::Derby,
        |from, key| DERBY.made_for(from, key),
        Replace::MergeDummy,
        Limiting::Fetch,
    ),
    standard(
        DriverDialectName::Dameng,
        |from, key| DAMENG.made_for(from, key),
        Replace::MergeDual,
        Limiting::Limit,
    ),
    DriverDialect {
        name: DriverDialectName::Generic,
        plan: Dialect {
            identifier: quoted,
            made_for: |from, key| STANDARD.made_for(from, key),
            same: str::eq_ignore_ascii_case,
        },
        replace: Replace::UpdateInsert,
        limit: Limiting::None,
    },
    standard(
        DriverDialectName::H2,
        |from, key| H2.made_for(from, key),
        Replace::MergeKey,
        Limiting::Fetch,
    ),
    standard(
        DriverDialectName::Hsqldb,
        |from, key| HSQLDB.made_for(from, key),
        Replace::MergeValues,
        Limiting::Fetch,
    ),
    DriverDialect {
        name: DriverDialectName::Mysql,
        plan: Dialect {
            identifier: ticked,
            made_for: mysql::made_for,
            same: str::eq_ignore_ascii_case,
        },
        replace: Replace::OnDuplicate,
        limit: Limiting::Limit,
    },
    standard(
        DriverDialectName::Oracle,
        |from, key| ORACLE.made_for(from, key),
        Replace::MergeDual,
        Limiting::Fetch,
    ),
    DriverDialect {
        name: DriverDialectName::Postgres,
        plan: Dialect {
            identifier: quoted,
            made_for: |from, _| postgres::made_for(from),
            same: str::eq_ignore_ascii_case,
        },
        replace: Replace::OnConflict,
        limit: Limiting::Limit,
    },
    DriverDialect {
        name: DriverDialectName::Sqlite,
        plan: Dialect {
            identifier: quoted,
            made_for: |from, key| SQLITE.made_for(from, key),
            same: str::eq_ignore_ascii_case,
        },
        replace: Replace::OnConflict,
        limit: Limiting::Limit,
    },
    DriverDialect {
        name: DriverDialectName::Sqlserver,
        plan: Dialect {
            identifier: quoted,
            made_for: |from, key| SQLSERVER.made_for(from, key),
            same: str::eq_ignore_ascii_case,
        },
        replace: Replace::MergeServer,
        limit: Limiting::OffsetFetch,
    },
];

impl DriverDialect {
    /// The dialect of a database: what the connection's file says, or what the driver calls it.
    pub fn of(said: Option<DriverDialectName>, product: &str) -> &'static DriverDialect {
        let name = said.unwrap_or(match product {
            "db2" => DriverDialectName::Db2,
            "derby" => DriverDialectName::Derby,
            "dm" => DriverDialectName::Dameng,
            "h2" => DriverDialectName::H2,
            "hsql" => DriverDialectName::Hsqldb,
            "microsoft" => DriverDialectName::Sqlserver,
            "mysql" => DriverDialectName::Mysql,
            "oracle" => DriverDialectName::Oracle,
            "postgres" => DriverDialectName::Postgres,
            "sqlite" => DriverDialectName::Sqlite,
            _ => DriverDialectName::Generic,
        });
        let found = DIALECTS.iter().find(|dialect| dialect.name == name);
        found.unwrap_or(&DIALECTS[3])
    }

    /// What ends a statement so that it is answered with so many rows at most; nothing where that needs an order.
    pub fn limit_alone(&self, rows: usize) -> String {
        match self.limit {
            Limiting::Limit | Limiting::Fetch => self.limited("", rows),
            Limiting::OffsetFetch | Limiting::None => String::new(),
        }
    }

    /// The name of something that is there, as it is.
    pub fn exact(&self, name: &str) -> String {
        match self.name {
            DriverDialectName::Mysql => ticked(name),
            _ => quoted(name),
        }
    }

    /// A table of a schema; one without a schema stands alone.
    pub fn table(&self, schema: &str, name: &str) -> String {
        match schema.is_empty() {
            true => self.exact(name),
            false => format!("{}.{}", self.exact(schema), self.exact(name)),
        }
    }

    /// A statement that is answered with so many rows at most.
    pub fn limited(&self, select: &str, rows: usize) -> String {
        match self.limit {
            Limiting::Limit => format!("{select} LIMIT {rows}"),
            Limiting::Fetch => format!("{select} FETCH FIRST {rows} ROWS ONLY"),
            Limiting::OffsetFetch => format!("{select} OFFSET 0 ROWS FETCH NEXT {rows} ROWS ONLY"),
            Limiting::None => select.to_owned(),
        }
    }

    /// A column whose values are ordered as texts by their bytes, where the database does not do so by itself.
    pub fn by_bytes(&self, column: &str) -> String {
        match self.name {
            DriverDialectName::Postgres => format!("CAST({column} AS text) COLLATE \"C\""),
            DriverDialectName::Mysql => format!("CAST(CONVERT({column}, CHAR) AS BINARY)"),
            DriverDialectName::Oracle => format!("NLSSORT({column}, 'NLS_SORT=BINARY')"),
            DriverDialectName::Sqlserver => format!("{column} COLLATE Latin1_General_BIN2"),
            _ => column.to_owned(),
        }
    }

    /// Adds a row.
    pub fn insert(&self, table: &str, columns: &[&DriverTarget]) -> DriverStatement {
        let (sql, parameters) = self.inserting(table, columns);
        DriverStatement {
            sql,
            parameters,
            other: None,
        }
    }

    fn inserting(&self, table: &str, columns: &[&DriverTarget]) -> (String, Vec<usize>) {
        let names = self.list(columns.iter().copied());
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO {table} ({names}) VALUES ({marks})");
        (sql, (0..columns.len()).collect())
    }

    /// Changes some columns of the row with a key; `None` where there is nothing to change.
    pub fn update(
        &self,
        table: &str,
        columns: &[&DriverTarget],
        key: &[usize],
        set: &[usize],
    ) -> Option<DriverStatement> {
        let set_list = self.pairs(columns, set, ", ");
        let same = self.pairs(columns, key, " AND ");
        (!set.is_empty()).then(|| DriverStatement {
            sql: format!("UPDATE {table} SET {set_list} WHERE {same}"),
            parameters: [set, key].concat(),
            other: None,
        })
    }

    /// Deletes the row with a key.
    pub fn delete(&self, table: &str, columns: &[&DriverTarget], key: &[usize]) -> DriverStatement {
        DriverStatement {
            sql: format!(
                "DELETE FROM {table} WHERE {}",
                self.pairs(columns, key, " AND ")
            ),
            parameters: key.to_vec(),
            other: None,
        }
    }

    /// Whether it is most often not by their bytes that the database tells texts apart.
    pub fn collates(&self) -> bool {
        use DriverDialectName as D;
        matches!(self.name, D::Mysql | D::Sqlserver | D::Generic)
    }

    /// Adds a row, or puts it in the place of the one with its key; `has_other_keys` where other columns tell rows apart, too.
    pub fn upsert(
        &self,
        table: &str,
        columns: &[&DriverTarget],
        key: &[usize],
        has_other_keys: bool,
    ) -> DriverStatement {
        let all: Vec<usize> = (0..columns.len()).collect();
        let rest: Vec<usize> = all.iter().copied().filter(|at| !key.contains(at)).collect();
        let name = |at: &usize| self.exact(&columns[*at].name);
        let names = self.list(columns.iter().copied());
        let keys = self.list(key.iter().map(|at| columns[*at]));
        let marks = vec!["?"; columns.len()].join(", ");
        let one = |sql: String, parameters: Vec<usize>| DriverStatement {
            sql,
            parameters,
            other: None,
        };
        let merged = |using: String, end: &str| {
            let same: Vec<_> = key
                .iter()
                .map(|at| format!("t.{0} = s.{0}", name(at)))
                .collect();
            let set: Vec<_> = rest
                .iter()
                .map(|at| format!("t.{0} = s.{0}", name(at)))
                .collect();
            let set = match set.is_empty() {
                true => String::new(),
                false => format!(" WHEN MATCHED THEN UPDATE SET {}", set.join(", ")),
            };
            let values: Vec<_> = all.iter().map(|at| format!("s.{}", name(at))).collect();
            format!(
                "MERGE INTO {table} {using} ON ({}){set} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({}){end}",
                same.join(" AND "),
                values.join(", ")
            )
        };
        // An update, and what adds the row where it finds none.
        let two = |missing: (String, Vec<usize>)| {
            let set = if rest.is_empty() { key } else { &rest };
            let set_list = self.pairs(columns, set, ", ");
            let same = self.pairs(columns, key, " AND ");
            DriverStatement {
                sql: format!("UPDATE {table} SET {set_list} WHERE {same}"),
                parameters: [set, key].concat(),
                other: Some(missing),
            }
        };
        match self.replace {
            Replace::MergeKey => one(
                format!("MERGE INTO {table} ({names}) KEY ({keys}) VALUES ({marks})"),
                all,
            ),
            Replace::MergeDual => {
                let select: Vec<_> = all.iter().map(|at| format!("? {}", name(at))).collect();
                let using = format!("t USING (SELECT {} FROM DUAL) s", select.join(", "));
                one(merged(using, ""), all)
            }
            // A parameter of which nothing says the type is refused, and not every type can stand in a cast.
            Replace::MergeValues if columns.iter().all(|column| castable(&column.shown)) => {
                let casts: Vec<_> = columns
                    .iter()
                    .map(|column| format!("CAST(? AS {})", column.shown))
                    .collect();
                let using = format!("AS t USING (VALUES ({})) AS s ({names})", casts.join(", "));
                one(merged(using, ""), all)
            }
            Replace::MergeServer => {
                let using = format!("WITH (HOLDLOCK) AS t USING (VALUES ({marks})) AS s ({names})");
                one(merged(using, ";"), all)
            }
            Replace::MergeDummy => {
                let same = key.iter().map(|at| format!("t.{} = ?", name(at)));
                let same = same.collect::<Vec<_>>().join(" AND ");
                let set = match rest.is_empty() {
                    true => String::new(),
                    false => format!(
                        " WHEN MATCHED THEN UPDATE SET {}",
                        self.pairs(columns, &rest, ", ")
                    ),
                };
                let sql = format!(
                    "MERGE INTO {table} AS t USING SYSIBM.SYSDUMMY1 ON {same}{set} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({marks})"
                );
                one(sql, [key, &rest, &all].concat())
            }
            Replace::OnConflict => {
                let set: Vec<_> = rest
                    .iter()
                    .map(|at| format!("{0} = EXCLUDED.{0}", name(at)))
                    .collect();
                let then = match set.is_empty() {
                    true => "NOTHING".to_owned(),
                    false => format!("UPDATE SET {}", set.join(", ")),
                };
                let sql = format!(
                    "INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({keys}) DO {then}"
                );
                one(sql, all)
            }
            // It would put the row in the place of one that has another key and is in the way.
            Replace::OnDuplicate if has_other_keys => {
                // Not every driver counts a row that was the same already.
                let same = self.pairs(columns, key, " AND ");
                let missing = format!(
                    "INSERT INTO {table} ({names}) SELECT {marks} FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {same})"
                );
                two((missing, [&all[..], key].concat()))
            }
            Replace::OnDuplicate => {
                // Where the key is all there is, nothing changes.
                let set = if rest.is_empty() { key } else { &rest };
                let set: Vec<_> = set
                    .iter()
                    .map(|at| format!("{0} = VALUES({0})", name(at)))
                    .collect();
                let sql = format!(
                    "INSERT INTO {table} ({names}) VALUES ({marks}) ON DUPLICATE KEY UPDATE {}",
                    set.join(", ")
                );
                one(sql, all)
            }
            Replace::MergeValues | Replace::UpdateInsert => two(self.inserting(table, columns)),
        }
    }

    fn list<'a>(&self, columns: impl Iterator<Item = &'a DriverTarget>) -> String {
        let names: Vec<_> = columns.map(|column| self.exact(&column.name)).collect();
        names.join(", ")
    }

    fn pairs(&self, columns: &[&DriverTarget], which: &[usize], between: &str) -> String {
        let pairs = which
            .iter()
            .map(|at| format!("{} = ?", self.exact(&columns[*at].name)));
        pairs.collect::<Vec<_>>().join(between)
    }
}

/// Whether a type, as a driver writes it, can be written in a cast.
fn castable(shown: &str) -> bool {
    let (name, measures) = shown.split_once('(').unwrap_or((shown, ""));
    let sized = !measures.is_empty();
    let short = matches!(
        name.to_uppercase().as_str(),
        "VARCHAR" | "CHARACTER VARYING" | "VARBINARY" | "BINARY VARYING" | "NVARCHAR"
    );
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b' ');
    plain && (sized || !short) && !shown.contains("()")
}
