use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_event::{Class, Error};
use busbar_log::Clock;
use parking_lot::RwLock;

use crate::limits::NAME_BYTES_MAX;
use crate::spec::{Engine, TableSpec};
use crate::{Hot, Relational, Table};

/// The tables of a node, by name.
///
/// ```text
/// <data>/tables/<name>.db     one SQLite file a relational table, with its -wal and -shm beside it
/// ```
pub struct Tables {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    open: RwLock<BTreeMap<String, Open>>,
}

/// Tables that were opened and are not yet those that there are: see [`Tables::stage`].
pub struct Staged(BTreeMap<String, Open>);

#[derive(Clone)]
struct Open {
    spec: TableSpec,
    kept: Kept,
}

#[derive(Clone)]
enum Kept {
    Hot(Arc<Hot>),
    Relational(Arc<Relational>),
}

impl Tables {
    /// Tables that keep their files in `dir`, which is made when the first one is needed.
    pub fn open(dir: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Ok(Self {
            dir: dir.as_ref().to_owned(),
            clock,
            open: RwLock::default(),
        })
    }

    /// Make the tables be those of `specs`; blocks while files are opened. If one is refused, none
    /// is changed but for files and columns that were added.
    ///
    /// A table stays as it is, with its rows and for those who hold it, while its engine and its key
    /// stay the same; for a hot one also its columns. One that is no longer named is closed when the
    /// last holder lets go of it; the file of a relational one stays on the disk, and naming it again
    /// brings it back. Another key for a relational table that has rows is refused, because they
    /// were merged by the old one.
    pub fn apply(&self, specs: &BTreeMap<String, TableSpec>) -> Result<(), Error> {
        let staged = self.stage(specs)?;
        self.adopt(staged)
    }

    /// Open what [`Tables::apply`] would need, without making it the tables that there are; for those who
    /// have more to change, all or nothing. Nobody else may change tables until it is adopted or dropped.
    pub fn stage(&self, specs: &BTreeMap<String, TableSpec>) -> Result<Staged, Error> {
        for (name, spec) in specs {
            check_name(name)?;
            spec.check(name)?;
        }
        let open = self.open.read();
        let mut next = BTreeMap::new();
        for (name, spec) in specs {
            let before = open.get(name);
            let kept = match before.filter(|before| before.spec == *spec) {
                Some(before) => before.kept.clone(),
                None => self.make(name, spec, before)?,
            };
            let spec = spec.clone();
            next.insert(name.clone(), Open { spec, kept });
        }
        Ok(Staged(next))
    }

    /// Make staged tables those that there are.
    pub fn adopt(&self, Staged(next): Staged) -> Result<(), Error> {
        let mut open = self.open.write();
        for (name, Open { spec, kept }) in &next {
            if let (Kept::Hot(table), Engine::Hot(options)) = (kept, spec.engine(name)?) {
                table.reconfigure(options);
            }
        }
        *open = next;
        Ok(())
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<Arc<dyn Table>> {
        let open = self.open.read();
        Some(match &open.get(name)?.kept {
            Kept::Hot(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::Relational(table) => Arc::clone(table) as Arc<dyn Table>,
        })
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.open.read().keys().cloned().collect()
    }

    /// The spec a table was made from.
    pub fn spec(&self, name: &str) -> Option<TableSpec> {
        self.open.read().get(name).map(|open| open.spec.clone())
    }

    fn make(&self, name: &str, spec: &TableSpec, before: Option<&Open>) -> Result<Kept, Error> {
        let schema = spec.schema(name)?;
        let before = before.filter(|before| before.spec.key == spec.key);
        match spec.engine(name)? {
            Engine::Hot(options) => {
                if let Some(Open {
                    spec: old,
                    kept: Kept::Hot(table),
                }) = before
                    && old.columns == spec.columns
                {
                    return Ok(Kept::Hot(Arc::clone(table)));
                }
                let clock = Arc::clone(&self.clock);
                let table = Hot::new(name, &schema, &spec.key, options, clock)?;
                Ok(Kept::Hot(Arc::new(table)))
            }
            Engine::Relational => {
                if let Some(Open {
                    kept: Kept::Relational(table),
                    ..
                }) = before
                {
                    table.declare(&schema)?;
                    return Ok(Kept::Relational(Arc::clone(table)));
                }
                // For the user of the node alone, as the data folder.
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.dir);
                made.map_err(|cause| {
                    Error::new(Class::Configuration, "table.folder")
                        .with("folder", self.dir.display())
                        .caused_by(cause)
                })?;
                let file = self.dir.join(format!("{name}.db"));
                let table = Relational::open(&file, name, &schema, &spec.key)?;
                Ok(Kept::Relational(Arc::new(table)))
            }
        }
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables")
            .field("dir", &self.dir)
            .field("open", &self.open.read().keys())
            .finish_non_exhaustive()
    }
}

/// A name becomes a file name and a word of SQL.
fn check_name(name: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.len() <= NAME_BYTES_MAX
        && name.chars().all(fits)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name != "input"
    {
        return Ok(());
    }
    let short: String = name.chars().take(NAME_BYTES_MAX).collect();
    Err(Error::new(Class::Configuration, "table.name").with("table", short))
}
