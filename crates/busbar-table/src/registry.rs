use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use busbar_event::{Class, Error};
use busbar_log::{Clock, Log};
use parking_lot::{Mutex, RwLock};

use crate::hot::Mover;
use crate::journals::Journals;
use crate::limits::WIDE_CACHE_BYTES;
use crate::spec::{Engine, HotPlace, TableSpec};
use crate::wide::WideStore;
use crate::{DatabaseTables, Hot, HotElsewhere, HotTable, Relational, Table, Wide};

/// The tables of a node, by name.
///
/// ```text
/// <data>/tables/<name>.db         one SQLite file a relational table, with its -wal and -shm beside it
/// <data>/tables/_wide/            the cells of all wide tables
/// <data>/hot/<name>/<identity>/   the journal of a hot table; another key or other columns make another one
/// ```
pub struct Tables {
    dir: PathBuf,
    wide: Arc<WideStore>,
    clock: Arc<dyn Clock>,
    journals: Option<Journals>,
    databases: Option<Arc<dyn DatabaseTables>>,
    open: RwLock<BTreeMap<String, Open>>,
    /// By the hot table whose rows are moved to another table.
    movers: Mutex<BTreeMap<String, Mover>>,
    /// By the table whose changes are followed: who follows it, as long as it does.
    followers: Mutex<BTreeMap<String, (String, Weak<()>)>>,
}

/// The right to follow a table alone, until it is dropped.
#[derive(Clone, Debug)]
pub struct ChangesClaim(#[expect(dead_code, reason = "it is there as long as this is")] Arc<()>);

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
    HotElsewhere(Arc<dyn HotElsewhere>),
    Relational(Arc<Relational>),
    Database(Arc<dyn Table>),
    Wide(Arc<Wide>),
}

impl Kept {
    fn table(&self) -> Arc<dyn Table> {
        match self {
            Kept::Hot(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::HotElsewhere(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::Relational(table) => Arc::clone(table) as Arc<dyn Table>,
            Kept::Database(table) => Arc::clone(table),
            Kept::Wide(table) => Arc::clone(table) as Arc<dyn Table>,
        }
    }

    fn hot(&self) -> Option<Arc<dyn HotTable>> {
        match self {
            Kept::Hot(table) => Some(Arc::clone(table) as Arc<dyn HotTable>),
            Kept::HotElsewhere(table) => Some(Arc::clone(table) as Arc<dyn HotTable>),
            _ => None,
        }
    }
}

impl Tables {
    /// Tables that keep their files in `dir`, which is made when the first one is needed.
    pub fn open(dir: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let folder = dir.as_ref().join("_wide");
        Ok(Self {
            dir: dir.as_ref().to_owned(),
            wide: Arc::new(WideStore::new(
                &folder,
                Arc::clone(&clock),
                WIDE_CACHE_BYTES,
            )),
            clock,
            journals: None,
            databases: None,
            open: RwLock::default(),
            movers: Mutex::default(),
            followers: Mutex::default(),
        })
    }

    /// Keeps so many bytes of wide tables in memory that were read lately, instead of [`WIDE_CACHE_BYTES`]. Before any table is
    /// applied.
    pub fn with_wide_cache(mut self, bytes: u64) -> Self {
        let folder = self.dir.join("_wide");
        self.wide = Arc::new(WideStore::new(&folder, Arc::clone(&self.clock), bytes));
        self
    }

    /// Journals hot tables in this log, so that they survive a restart.
    pub fn with_journals(mut self, log: Log) -> Result<Self, Error> {
        self.journals = Some(Journals::new(log)?);
        Ok(self)
    }

    /// Keeps tables that name a connection in the system it leads to.
    #[must_use]
    pub fn with_databases(mut self, databases: Arc<dyn DatabaseTables>) -> Self {
        self.databases = Some(databases);
        self
    }

    /// Make the tables be those of `specs`; blocks while files are opened. If one is refused, none
    /// is changed but for files and columns that were added.
    ///
    /// A table stays as it is, with its rows and for those who hold it, while its engine and its key
    /// stay the same; for a hot one also its columns. One that is no longer named is closed when the
    /// last holder lets go of it; the file of a relational one stays on the disk, and naming it again
    /// brings it back. Another key for a relational table that has rows is refused, because they
    /// were merged by the old one. What would drop rows of a hot table that are to be moved to another table is refused.
    pub fn apply(&self, specs: &BTreeMap<String, TableSpec>) -> Result<(), Error> {
        let staged = self.stage(specs)?;
        self.adopt(staged)
    }

    /// Open what [`Tables::apply`] would need, without making it the tables that there are; for those who
    /// have more to change, all or nothing. Tables must not be changed otherwise until it is adopted or dropped.
    pub fn stage(&self, specs: &BTreeMap<String, TableSpec>) -> Result<Staged, Error> {
        for (name, spec) in specs {
            spec.check(name)?;
            spec.check_move(name, specs)?;
        }
        check_places(specs)?;
        let open = self.open.read();
        self.check_rows_to_move(&open, specs)?;
        let mut next = BTreeMap::new();
        for (name, spec) in specs {
            let before = open.get(name);
            let kept = match before.filter(|before| before.spec == *spec) {
                Some(before) => before.kept.clone(),
                None => self.make(name, spec, before)?,
            };
            if let (Kept::Hot(table), Engine::Hot(options)) = (&kept, spec.engine(name)?)
                && options.moves_to.is_none()
                && table.has_waiting(&options)
            {
                let error = Error::new(Class::Transient, "table.moves-waiting");
                return Err(error.with("table", name));
            }
            let spec = spec.clone();
            next.insert(name.clone(), Open { spec, kept });
        }
        Ok(Staged(next))
    }

    /// Make staged tables those that there are.
    pub fn adopt(&self, Staged(next): Staged) -> Result<(), Error> {
        let pairs = next.iter().filter_map(|(name, one)| {
            let from = one.kept.hot()?;
            let to = next.get(one.spec.hot.as_ref()?.moves_to.as_ref()?)?;
            Some((name, (from, to.kept.table())))
        });
        let pairs: BTreeMap<_, _> = pairs.collect();
        let mut movers = self.movers.lock();
        // A mover ends before another one begins with the same rows.
        movers.retain(|name, mover| {
            let pair = pairs.get(name);
            pair.is_some_and(|(from, to)| mover.joins(from, to))
        });
        for (name, Open { spec, kept }) in &next {
            match (kept, spec.engine(name)?) {
                (Kept::Hot(table), Engine::Hot(options)) => table.reconfigure(options)?,
                (Kept::Wide(table), Engine::Wide(options)) => {
                    table.reconfigure(options)?;
                    table.keep_changes(spec.changes)?;
                }
                (Kept::Relational(table), _) => {
                    table.keep_changes(spec.changes, self.clock.now_micros())?;
                }
                (Kept::HotElsewhere(table), _) => table.try_rejected_again(),
                _ => {}
            }
        }
        for (name, (from, to)) in pairs {
            if !movers.contains_key(name) {
                movers.insert(name.clone(), Mover::start(from, to)?);
            }
        }
        drop(movers);
        let mut open = self.open.write();
        *open = next;
        let specs = open.iter().map(|(name, open)| (name, &open.spec));
        match &self.journals {
            Some(journals) => journals.keep_only(specs),
            None => Ok(()),
        }
    }

    /// Lets a connection follow the changes of a table: two would take them from each other.
    ///
    /// # Errors
    /// `table.changes-taken` (*transient*) while another connection follows the table.
    pub fn claim_changes(&self, table: &str, connection: &str) -> Result<ChangesClaim, Error> {
        let mut followers = self.followers.lock();
        if let Some((other, claim)) = followers.get(table)
            && other != connection
            && claim.strong_count() > 0
        {
            return Err(Error::new(Class::Transient, "table.changes-taken")
                .with("table", table)
                .with("connection", other));
        }
        let claim = Arc::new(());
        let known = (connection.to_owned(), Arc::downgrade(&claim));
        followers.insert(table.to_owned(), known);
        Ok(ChangesClaim(claim))
    }

    /// Why the rows of a hot table cannot be moved to another table at the moment.
    pub fn move_failure(&self, name: &str) -> Option<Error> {
        self.movers.lock().get(name)?.failure()
    }

    /// Refuses specs that would drop rows that are to be moved to another table.
    fn check_rows_to_move(
        &self,
        open: &BTreeMap<String, Open>,
        specs: &BTreeMap<String, TableSpec>,
    ) -> Result<(), Error> {
        for (name, before) in open {
            let stays = specs
                .get(name)
                .is_some_and(|spec| spec.keeps_rows_of(&before.spec));
            match &before.kept {
                Kept::Hot(table) if !stays => check_gone(table)?,
                Kept::HotElsewhere(table) => {
                    check_waiting(&**table, name, &before.spec, specs.get(name))?;
                }
                _ => {}
            }
        }
        // At a start nothing is open yet, but there are the journals.
        if let (Some(journals), true) = (&self.journals, open.is_empty()) {
            let left = journals.left_behind(specs, &self.clock)?;
            left.iter().try_for_each(check_gone)?;
        }
        Ok(())
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<Arc<dyn Table>> {
        let open = self.open.read();
        Some(open.get(name)?.kept.table())
    }

    /// The wide table of that name, for its cells.
    pub fn wide(&self, name: &str) -> Option<Arc<Wide>> {
        match &self.open.read().get(name)?.kept {
            Kept::Wide(table) => Some(Arc::clone(table)),
            _ => None,
        }
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.open.read().keys().cloned().collect()
    }

    /// The spec a table was made from.
    pub fn spec(&self, name: &str) -> Option<TableSpec> {
        self.open.read().get(name).map(|open| open.spec.clone())
    }

    fn databases(&self, table: &str, connection: &str) -> Result<&dyn DatabaseTables, Error> {
        self.databases.as_deref().ok_or_else(|| {
            Error::new(Class::Configuration, "table.no-connection")
                .with("table", table)
                .with("connection", connection)
        })
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
                    && spec.keeps_rows_of(old)
                {
                    return Ok(Kept::Hot(Arc::clone(table)));
                }
                let clock = Arc::clone(&self.clock);
                let journal = match &self.journals {
                    Some(journals) => Some(journals.open(name, spec)?),
                    None => None,
                };
                let table = Hot::new(name, &schema, &spec.key, options, clock, journal)?;
                Ok(Kept::Hot(Arc::new(table)))
            }
            Engine::HotElsewhere(place) => {
                let databases = self.databases(name, &place.connection)?;
                let clock = Arc::clone(&self.clock);
                let table = databases.hot(name, &place, &schema, &spec.key, clock);
                Ok(Kept::HotElsewhere(table))
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
                let clock = Arc::clone(&self.clock);
                let table = Relational::open(&file, name, &schema, &spec.key, clock)?;
                Ok(Kept::Relational(Arc::new(table)))
            }
            Engine::Database(place) => {
                let databases = self.databases(name, &place.connection)?;
                let table = databases.open(name, &place, &schema, &spec.key)?;
                Ok(Kept::Database(table))
            }
            Engine::Wide(options) => {
                if let Some(Open {
                    kept: Kept::Wide(table),
                    ..
                }) = before
                    && table.place() == options.place.as_ref()
                {
                    table.check_options(&options)?;
                    table.declare(&schema)?;
                    return Ok(Kept::Wide(Arc::clone(table)));
                }
                let table = match options.place.clone() {
                    None => {
                        let store = Arc::clone(&self.wide);
                        Wide::open(name, &schema, &spec.key, options, store)?
                    }
                    Some(place) => {
                        let databases = self.databases(name, &place.connection)?;
                        let store = databases.cells(name, &place.connection);
                        let clock = Arc::clone(&self.clock);
                        Wide::elsewhere(name, &schema, &spec.key, options, place, store, clock)?
                    }
                };
                Ok(Kept::Wide(Arc::new(table)))
            }
        }
    }
}

/// Refuses what would drop rows that are to be moved to another table, of a table that goes: its file is gone, or it has
/// another key, other columns or another engine.
fn check_gone(table: &Hot) -> Result<(), Error> {
    if table.has_rows_to_move() {
        let error = Error::new(Class::Transient, "table.moves-replaced");
        return Err(error.with("table", table.name()));
    }
    Ok(())
}

/// Refuses a file that keeps the rows of a table where they are and lets those that wait to be moved expire.
fn check_waiting(
    table: &dyn HotElsewhere,
    name: &str,
    before: &TableSpec,
    now: Option<&TableSpec>,
) -> Result<(), Error> {
    // A table that goes leaves its rows there, and brings them back when it is named again.
    let Some(now) = now else { return Ok(()) };
    let (Engine::HotElsewhere(was), Engine::HotElsewhere(is)) =
        (before.engine(name)?, now.engine(name)?)
    else {
        return Ok(());
    };
    let is_there = (&was.connection, &was.table) == (&is.connection, &is.table);
    if was.moves && !is.moves && is_there && table.has_waiting()? {
        return Err(Error::new(Class::Transient, "table.moves-waiting").with("table", name));
    }
    Ok(())
}

/// Refuses tables of another system whose rows could have the same keys.
fn check_places(specs: &BTreeMap<String, TableSpec>) -> Result<(), Error> {
    let mut places: Vec<(&String, HotPlace)> = Vec::new();
    for (name, spec) in specs {
        let Engine::HotElsewhere(place) = spec.engine(name)? else {
            continue;
        };
        if let Some((other, _)) = places.iter().find(|(_, known)| known.overlaps(&place)) {
            return Err(Error::new(Class::Configuration, "table.hot-overlap")
                .with("table", name)
                .with("other", other)
                .with("prefix", &place.table));
        }
        places.push((name, place));
    }
    Ok(())
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables")
            .field("dir", &self.dir)
            .field("open", &self.open.read().keys())
            .finish_non_exhaustive()
    }
}
