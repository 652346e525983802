//! Connections and statements: the driver manager's handles with their owners.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::fault::{OdbcDiagnostic, OdbcFault};
use super::library as odbc;
use super::library::{Handle, OdbcLibrary};
use super::limits::{COLUMNS_MAX, DIAGNOSTICS_MAX, NAME_CHARS_MAX};

/// The environment of the process; all connections are made in it.
pub struct OdbcEnvironment {
    pub library: &'static OdbcLibrary,
    handle: Handle,
}

// SAFETY: the driver manager lets threads allocate connections of one environment at the same time.
unsafe impl Send for OdbcEnvironment {}
// SAFETY: as above.
unsafe impl Sync for OdbcEnvironment {}

impl OdbcEnvironment {
    /// The environment, for version 3 of ODBC. It lives as long as the process.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(library: &'static OdbcLibrary) -> Result<OdbcEnvironment, OdbcFault> {
        let mut handle = null_mut();
        // SAFETY: an environment has no parent, and its handle is written to a place of this function.
        let made = unsafe {
            let made = (library.SQLAllocHandle)(odbc::ENVIRONMENT, null_mut(), &raw mut handle);
            match made {
                odbc::SUCCESS | odbc::SUCCESS_WITH_INFO => (library.SQLSetEnvAttr)(
                    handle,
                    odbc::ATTR_ODBC_VERSION,
                    number(odbc::ODBC_3),
                    0,
                ),
                failed => failed,
            }
        };
        match made {
            odbc::SUCCESS | odbc::SUCCESS_WITH_INFO => Ok(OdbcEnvironment { library, handle }),
            _ => Err(OdbcFault::new(
                "for-now",
                "the driver manager has no memory",
            )),
        }
    }
}

/// A number where the interface has a pointer.
fn number(value: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(value)
}

/// What a thread is doing, for the one that ends what takes too long.
#[derive(Default)]
pub struct OdbcRunning {
    /// The statement that the driver is working on.
    statement: Mutex<Option<(&'static OdbcLibrary, usize)>>,
    /// It took too long.
    late: AtomicBool,
}

impl OdbcRunning {
    /// A request begins.
    pub fn begin(&self) {
        self.late.store(false, Ordering::SeqCst);
    }

    /// Whether the request that is under way took too long.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::SeqCst)
    }

    /// Asks the driver to give up what has taken too long.
    pub fn cancel_late(&self) {
        self.late.store(true, Ordering::SeqCst);
        self.cancel();
    }

    /// Asks the driver to give the statement up, if there is one.
    pub fn cancel(&self) {
        // While this is locked the statement is not freed.
        let running = self.statement.lock();
        if let Some((library, statement)) = *running {
            // SAFETY: the statement is alive, and this function may be called from any thread.
            let _ = unsafe { (library.SQLCancel)(number(statement)) };
        }
    }
}

/// A connection to a database. It is closed when it is dropped; what is under way is rolled back before.
pub struct OdbcConnection {
    library: &'static OdbcLibrary,
    handle: Handle,
    connected: bool,
    running: Arc<OdbcRunning>,
    /// A word for the kind of database.
    pub product: String,
}

impl OdbcConnection {
    /// Opens a connection with a connection string, within so many seconds where the driver knows how.
    ///
    /// # Errors
    /// There is no driver, or what the driver says.
    pub fn open(
        environment: &OdbcEnvironment,
        string: &[u16],
        seconds: usize,
        product: &str,
        running: Arc<OdbcRunning>,
    ) -> Result<OdbcConnection, OdbcFault> {
        let library = environment.library;
        let length = i16::try_from(string.len())
            .map_err(|_| OdbcFault::new("refused", "the connection string is too long"))?;
        let mut connection = OdbcConnection {
            library,
            handle: null_mut(),
            connected: false,
            running,
            product: product.to_owned(),
        };
        // SAFETY: the environment lives as long as the process; the handle is written to a place of this function.
        let made = unsafe {
            (library.SQLAllocHandle)(
                odbc::CONNECTION,
                environment.handle,
                &raw mut connection.handle,
            )
        };
        if made != odbc::SUCCESS && made != odbc::SUCCESS_WITH_INFO {
            return Err(OdbcFault::new(
                "for-now",
                "the driver manager has no memory",
            ));
        }
        // Not every driver has it.
        let _ = connection.attribute(odbc::ATTR_LOGIN_TIMEOUT, seconds);
        // SAFETY: the string is valid for the call, with its length; nothing is written, and nothing is asked of people.
        let opened = unsafe {
            (library.SQLDriverConnectW)(
                connection.handle,
                null_mut(),
                string.as_ptr(),
                length,
                null_mut(),
                0,
                null_mut(),
                0,
            )
        };
        connection.checked(opened)?;
        connection.connected = true;
        Ok(connection)
    }

    fn checked(&self, returned: i16) -> Result<i16, OdbcFault> {
        checked(
            self.library,
            returned,
            odbc::CONNECTION,
            self.handle,
            &self.product,
        )
    }

    fn attribute(&self, attribute: i32, value: usize) -> Result<i16, OdbcFault> {
        // SAFETY: the attributes that are set have numbers as values.
        let set =
            unsafe { (self.library.SQLSetConnectAttrW)(self.handle, attribute, number(value), 0) };
        self.checked(set)
    }

    /// Whether the driver has no functions for wide characters. The driver manager would cut each character to a byte.
    fn is_narrow(&self) -> bool {
        self.product == "sqlite"
    }

    /// Whether each statement is a transaction of its own.
    pub fn set_autocommit(&self, on: bool) -> Result<(), OdbcFault> {
        self.attribute(odbc::ATTR_AUTOCOMMIT, usize::from(on))
            .map(drop)
    }

    /// Ends the transaction: what was done counts.
    pub fn commit(&self) -> Result<(), OdbcFault> {
        self.end(odbc::COMMIT)
    }

    /// Ends the transaction: nothing was done.
    pub fn rollback(&self) -> Result<(), OdbcFault> {
        self.end(odbc::ROLLBACK)
    }

    fn end(&self, how: i16) -> Result<(), OdbcFault> {
        // SAFETY: the connection is alive.
        let ended = unsafe { (self.library.SQLEndTran)(odbc::CONNECTION, self.handle, how) };
        self.checked(ended).map(drop)
    }

    /// What the driver says of itself, as a text.
    pub fn info(&self, what: u16) -> Result<String, OdbcFault> {
        let mut text = [0_u16; 512];
        let mut bytes = 0_i16;
        // SAFETY: the buffer has as many bytes as are said.
        let said = unsafe {
            (self.library.SQLGetInfoW)(
                self.handle,
                what,
                text.as_mut_ptr().cast(),
                size_of_val(&text) as i16,
                &raw mut bytes,
            )
        };
        self.checked(said)?;
        let chars = usize::try_from(bytes).unwrap_or(0) / 2;
        let text = String::from_utf16_lossy(&text[..chars.min(text.len() - 1)]);
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// The same, as a number of up to 32 bits.
    pub fn info_number(&self, what: u16) -> Result<u32, OdbcFault> {
        let mut value = 0_u32;
        // SAFETY: no number is longer.
        let said = unsafe {
            (self.library.SQLGetInfoW)(
                self.handle,
                what,
                (&raw mut value).cast(),
                size_of::<u32>() as i16,
                null_mut(),
            )
        };
        self.checked(said)?;
        Ok(value)
    }
}

impl Drop for OdbcConnection {
    fn drop(&mut self) {
        // SAFETY: statements hold the connection, so there are none any more. Its handle is used by nobody afterwards.
        unsafe {
            if self.connected {
                // A connection with a transaction under way is not closed.
                let _ = (self.library.SQLEndTran)(odbc::CONNECTION, self.handle, odbc::ROLLBACK);
                let _ = (self.library.SQLDisconnect)(self.handle);
            }
            if !self.handle.is_null() {
                let _ = (self.library.SQLFreeHandle)(odbc::CONNECTION, self.handle);
            }
        }
    }
}

/// A statement.
pub struct OdbcStatement {
    pub connection: Rc<OdbcConnection>,
    handle: Handle,
}

/// A column of an answer, as the driver describes it.
#[derive(Clone, Debug)]
pub struct OdbcDescription {
    pub name: String,
    /// The driver's number for its type.
    pub raw: i32,
    pub type_name: String,
    /// Digits of a number, or characters of a text.
    pub size: usize,
    pub digits: i32,
    pub unsigned: bool,
}

/// What came of reading a value.
pub enum OdbcPiece {
    /// There is no value.
    Null,
    /// So many bytes, and these are the last.
    Last(usize),
    /// The buffer is full, and there is more.
    More,
    /// All of it has been read.
    End,
}

impl OdbcStatement {
    pub fn new(connection: &Rc<OdbcConnection>) -> Result<OdbcStatement, OdbcFault> {
        let mut handle = null_mut();
        // SAFETY: the connection is alive, and kept by what is returned.
        let made = unsafe {
            (connection.library.SQLAllocHandle)(odbc::STATEMENT, connection.handle, &raw mut handle)
        };
        connection.checked(made)?;
        Ok(OdbcStatement {
            connection: Rc::clone(connection),
            handle,
        })
    }

    fn library(&self) -> &'static OdbcLibrary {
        self.connection.library
    }

    fn checked(&self, returned: i16) -> Result<i16, OdbcFault> {
        let product = &self.connection.product;
        checked(
            self.library(),
            returned,
            odbc::STATEMENT,
            self.handle,
            product,
        )
    }

    /// Does something that may take long, and can be given up meanwhile.
    fn running(&self, work: impl FnOnce() -> i16) -> Result<i16, OdbcFault> {
        *self.connection.running.statement.lock() = Some((self.library(), self.handle.addr()));
        let returned = work();
        *self.connection.running.statement.lock() = None;
        self.checked(returned)
    }

    /// Sets an attribute that is a number. Whether the driver took that value, and no other one.
    pub fn set(&self, attribute: i32, value: usize) -> bool {
        self.set_pointer(attribute, number(value))
    }

    fn set_pointer(&self, attribute: i32, value: *mut c_void) -> bool {
        // SAFETY: the attributes are numbers, or places that live as long as they are set.
        let set = unsafe { (self.library().SQLSetStmtAttrW)(self.handle, attribute, value, 0) };
        set == odbc::SUCCESS
    }

    /// Sets where the driver writes numbers of sets or rows.
    ///
    /// # Safety
    /// The place lives until another one is set, or the statement ends.
    pub unsafe fn set_place<T>(&self, attribute: i32, place: *mut T) -> bool {
        self.set_pointer(attribute, place.cast())
    }

    /// Has a statement prepared.
    pub fn prepare(&self, sql: &str) -> Result<(), OdbcFault> {
        let library = self.library();
        self.stated(sql, library.SQLPrepare, library.SQLPrepareW)
    }

    /// Gives a statement to one of two functions: the first takes it in UTF-8, the second in UTF-16.
    fn stated(
        &self,
        sql: &str,
        narrow: unsafe extern "C" fn(Handle, *const u8, i32) -> i16,
        wide: unsafe extern "C" fn(Handle, *const u16, i32) -> i16,
    ) -> Result<(), OdbcFault> {
        if self.connection.is_narrow() {
            let length = length(sql.len())?;
            // SAFETY: the text is valid for the call, with its length.
            let done = self.running(|| unsafe { narrow(self.handle, sql.as_ptr(), length) });
            return done.map(drop);
        }
        let sql: Vec<u16> = sql.encode_utf16().collect();
        let length = length(sql.len())?;
        // SAFETY: the text is valid for the call, with its length.
        let done = self.running(|| unsafe { wide(self.handle, sql.as_ptr(), length) });
        done.map(drop)
    }

    /// Executes what is prepared.
    pub fn execute(&self) -> Result<(), OdbcFault> {
        // SAFETY: what is bound lives as long as it is bound.
        self.running(|| unsafe { (self.library().SQLExecute)(self.handle) })
            .map(drop)
    }

    /// Executes a statement without parameters.
    pub fn direct(&self, sql: &str) -> Result<(), OdbcFault> {
        let library = self.library();
        self.stated(sql, library.SQLExecDirect, library.SQLExecDirectW)
    }

    /// The tables that fit: patterns but for the catalogue.
    pub fn tables(
        &self,
        catalog: Option<&str>,
        name: &str,
        kinds: Option<&str>,
    ) -> Result<(), OdbcFault> {
        let kinds = OdbcArgument::of(kinds)?;
        self.of_catalog([catalog, None, Some(name)], |library, handle, [c, s, n]| {
            let k = kinds.passed();
            // SAFETY: the texts are valid for the call, with their lengths.
            unsafe { (library.SQLTablesW)(handle, c.0, c.1, s.0, s.1, n.0, n.1, k.0, k.1) }
        })
    }

    /// The columns of a table: patterns but for the catalogue.
    pub fn columns(
        &self,
        catalog: Option<&str>,
        schema: Option<&str>,
        name: &str,
    ) -> Result<(), OdbcFault> {
        self.of_catalog(
            [catalog, schema, Some(name)],
            |library, handle, [c, s, n]| {
                // SAFETY: as above; all columns are wanted.
                unsafe { (library.SQLColumnsW)(handle, c.0, c.1, s.0, s.1, n.0, n.1, null(), 0) }
            },
        )
    }

    /// The columns of a table's primary key.
    pub fn primary_key(
        &self,
        catalog: Option<&str>,
        schema: Option<&str>,
        name: &str,
    ) -> Result<(), OdbcFault> {
        self.of_catalog(
            [catalog, schema, Some(name)],
            |library, handle, [c, s, n]| {
                // SAFETY: as above.
                unsafe { (library.SQLPrimaryKeysW)(handle, c.0, c.1, s.0, s.1, n.0, n.1) }
            },
        )
    }

    /// The columns of a table's unique indices.
    pub fn unique_indices(
        &self,
        catalog: Option<&str>,
        schema: Option<&str>,
        name: &str,
    ) -> Result<(), OdbcFault> {
        self.of_catalog(
            [catalog, schema, Some(name)],
            |library, handle, [c, s, n]| {
                // SAFETY: as above.
                unsafe { (library.SQLStatisticsW)(handle, c.0, c.1, s.0, s.1, n.0, n.1, 0, 0) }
            },
        )
    }

    /// Asks the catalogue about tables with these names: catalogue, schema and table, each with its length.
    fn of_catalog(
        &self,
        names: [Option<&str>; 3],
        ask: impl FnOnce(&OdbcLibrary, Handle, [(*const u16, i16); 3]) -> i16,
    ) -> Result<(), OdbcFault> {
        let [catalog, schema, table] = names;
        let names = [
            OdbcArgument::of(catalog)?,
            OdbcArgument::of(schema)?,
            OdbcArgument::of(table)?,
        ];
        let passed = names.each_ref().map(OdbcArgument::passed);
        self.running(|| ask(self.library(), self.handle, passed))
            .map(drop)
    }

    /// What the driver says of the last call, where some rows of an array were not taken.
    pub fn fault(&self) -> OdbcFault {
        let records = diagnostics(self.library(), odbc::STATEMENT, self.handle);
        OdbcFault::of(&records, &self.connection.product)
    }

    /// Rows that were changed.
    pub fn row_count(&self) -> Result<usize, OdbcFault> {
        let mut count = 0_isize;
        // SAFETY: the count is written to a place of this function.
        let said = unsafe { (self.library().SQLRowCount)(self.handle, &raw mut count) };
        self.checked(said)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Columns of the answer; none of a statement that has no answer.
    pub fn column_count(&self) -> Result<u16, OdbcFault> {
        let mut count = 0_i16;
        // SAFETY: the count is written to a place of this function.
        let said = unsafe { (self.library().SQLNumResultCols)(self.handle, &raw mut count) };
        self.checked(said)?;
        match usize::try_from(count).unwrap_or(0) {
            count if count <= COLUMNS_MAX => Ok(count as u16),
            count => Err(OdbcFault::new("refused", format!("{count} columns"))),
        }
    }

    /// What a column of the answer is, counted from 1.
    pub fn describe(&self, column: u16) -> Result<OdbcDescription, OdbcFault> {
        let mut name = [0_u16; NAME_CHARS_MAX];
        let (mut chars, mut raw, mut size) = (0_i16, 0_i16, 0_usize);
        let (mut digits, mut nullable) = (0_i16, 0_i16);
        // SAFETY: the buffer has as many characters as are said; the others are places of this function.
        let said = unsafe {
            (self.library().SQLDescribeColW)(
                self.handle,
                column,
                name.as_mut_ptr(),
                NAME_CHARS_MAX as i16,
                &raw mut chars,
                &raw mut raw,
                &raw mut size,
                &raw mut digits,
                &raw mut nullable,
            )
        };
        self.checked(said)?;
        let chars = usize::try_from(chars).unwrap_or(0).min(NAME_CHARS_MAX - 1);
        Ok(OdbcDescription {
            name: String::from_utf16_lossy(&name[..chars]),
            raw: raw.into(),
            type_name: self.type_name(column),
            size,
            digits: digits.into(),
            unsigned: self.is_unsigned(column),
        })
    }

    fn type_name(&self, column: u16) -> String {
        let mut name = [0_u16; NAME_CHARS_MAX];
        let (mut bytes, mut unused) = (0_i16, 0_isize);
        // SAFETY: the buffer has as many bytes as are said; the others are places of this function.
        let said = unsafe {
            (self.library().SQLColAttributeW)(
                self.handle,
                column,
                odbc::DESC_TYPE_NAME,
                name.as_mut_ptr().cast(),
                size_of_val(&name) as i16,
                &raw mut bytes,
                &raw mut unused,
            )
        };
        match said {
            odbc::SUCCESS | odbc::SUCCESS_WITH_INFO => {
                let chars = usize::try_from(bytes).unwrap_or(0) / 2;
                let text = String::from_utf16_lossy(&name[..chars.min(NAME_CHARS_MAX - 1)]);
                text.trim_end_matches('\0').to_owned()
            }
            // Its number does instead.
            _ => String::new(),
        }
    }

    fn is_unsigned(&self, column: u16) -> bool {
        let (mut bytes, mut value) = (0_i16, 0_isize);
        // SAFETY: this attribute is a number, which is written to a place of this function.
        let said = unsafe {
            (self.library().SQLColAttributeW)(
                self.handle,
                column,
                odbc::DESC_UNSIGNED,
                null_mut(),
                0,
                &raw mut bytes,
                &raw mut value,
            )
        };
        matches!(said, odbc::SUCCESS | odbc::SUCCESS_WITH_INFO) && value == 1
    }

    /// Binds a column of the answer to a buffer with a place of so many bytes for each row, and of its lengths.
    ///
    /// # Safety
    /// Both have places for all rows of a rowset, and live until the statement is unbound or ends.
    pub unsafe fn bind_column(
        &self,
        column: u16,
        c_type: i16,
        buffer: *mut c_void,
        bytes: usize,
        lengths: *mut isize,
    ) -> Result<(), OdbcFault> {
        // SAFETY: the caller says so.
        let bound = unsafe {
            (self.library().SQLBindCol)(
                self.handle,
                column,
                c_type,
                buffer,
                bytes as isize,
                lengths,
            )
        };
        self.checked(bound).map(drop)
    }

    /// Binds a parameter, as [`OdbcStatement::bind_column`] does a column.
    ///
    /// # Safety
    /// Both have places for all sets of parameters, and live until parameters are reset or the statement ends.
    #[expect(clippy::too_many_arguments, reason = "it is the interface's function")]
    pub unsafe fn bind_parameter(
        &self,
        parameter: u16,
        c_type: i16,
        sql_type: i16,
        size: usize,
        digits: i16,
        buffer: *mut c_void,
        bytes: usize,
        lengths: *mut isize,
    ) -> Result<(), OdbcFault> {
        // SAFETY: the caller says so.
        let bound = unsafe {
            (self.library().SQLBindParameter)(
                self.handle,
                parameter,
                odbc::PARAM_INPUT,
                c_type,
                sql_type,
                size,
                digits,
                buffer,
                bytes as isize,
                lengths,
            )
        };
        self.checked(bound).map(drop)
    }

    /// The next row, or rowset; whether there is one.
    pub fn fetch(&self) -> Result<bool, OdbcFault> {
        // SAFETY: what is bound lives as long as it is bound.
        let fetched = self.running(|| unsafe { (self.library().SQLFetch)(self.handle) })?;
        Ok(fetched != odbc::NO_DATA)
    }

    /// Makes a row of the rowset the one that values are read of, counted from 1.
    pub fn position(&self, row: usize) -> Result<(), OdbcFault> {
        // SAFETY: nothing is written.
        let there = unsafe {
            (self.library().SQLSetPos)(self.handle, row, odbc::POSITION, odbc::LOCK_NO_CHANGE)
        };
        self.checked(there).map(drop)
    }

    /// Reads a value of the current row, or the next piece of it, into a buffer. Texts end with a zero of two bytes.
    pub fn get(&self, column: u16, c_type: i16, buffer: &mut [u8]) -> Result<OdbcPiece, OdbcFault> {
        let mut length = 0_isize;
        let got = self.running(|| {
            // SAFETY: the buffer has as many bytes as are said.
            unsafe {
                (self.library().SQLGetData)(
                    self.handle,
                    column,
                    c_type,
                    buffer.as_mut_ptr().cast(),
                    buffer.len() as isize,
                    &raw mut length,
                )
            }
        })?;
        let room = buffer.len() - if c_type == odbc::C_WCHAR { 2 } else { 0 };
        Ok(match (got, length) {
            (odbc::NO_DATA, _) => OdbcPiece::End,
            (_, odbc::NULL_DATA) => OdbcPiece::Null,
            (_, odbc::NO_TOTAL) => OdbcPiece::More,
            (_, length) => match usize::try_from(length) {
                Ok(length) if length <= room => OdbcPiece::Last(length),
                Ok(_) => OdbcPiece::More,
                Err(_) => return Err(OdbcFault::new("worker", "the driver says no length")),
            },
        })
    }

    /// Ends the answer.
    pub fn close(&self) {
        // SAFETY: the statement is alive.
        let _ = unsafe { (self.library().SQLFreeStmt)(self.handle, odbc::CLOSE) };
    }

    /// Nothing is bound any more.
    pub fn unbind(&self) {
        // SAFETY: the statement is alive.
        unsafe {
            let _ = (self.library().SQLFreeStmt)(self.handle, odbc::UNBIND);
            let _ = (self.library().SQLFreeStmt)(self.handle, odbc::RESET_PARAMS);
        }
    }
}

impl Drop for OdbcStatement {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more; what is cancelled holds the lock that says what is running.
        let _ = unsafe { (self.library().SQLFreeHandle)(odbc::STATEMENT, self.handle) };
    }
}

/// A text of a catalogue's function; none is a null.
struct OdbcArgument(Option<Vec<u16>>);

impl OdbcArgument {
    fn of(text: Option<&str>) -> Result<OdbcArgument, OdbcFault> {
        let text: Option<Vec<u16>> = text.map(|text| text.encode_utf16().collect());
        match &text {
            Some(text) if text.len() > NAME_CHARS_MAX => {
                Err(OdbcFault::new("refused", "the name is too long"))
            }
            _ => Ok(OdbcArgument(text)),
        }
    }

    /// Its place and its length, as functions take them.
    fn passed(&self) -> (*const u16, i16) {
        // No name is longer than `NAME_CHARS_MAX`.
        let text = self.0.as_ref();
        text.map_or((null(), 0), |text| (text.as_ptr(), text.len() as i16))
    }
}

fn length(units: usize) -> Result<i32, OdbcFault> {
    i32::try_from(units).map_err(|_| OdbcFault::new("refused", "the statement is too long"))
}

/// What a function returned, or the failure.
fn checked(
    library: &'static OdbcLibrary,
    returned: i16,
    kind: i16,
    handle: Handle,
    product: &str,
) -> Result<i16, OdbcFault> {
    match returned {
        odbc::SUCCESS | odbc::SUCCESS_WITH_INFO | odbc::NO_DATA => Ok(returned),
        _ => Err(OdbcFault::of(&diagnostics(library, kind, handle), product)),
    }
}

/// What the driver says of the last call for a handle.
fn diagnostics(library: &'static OdbcLibrary, kind: i16, handle: Handle) -> Vec<OdbcDiagnostic> {
    let mut all = Vec::new();
    for record in 1..=DIAGNOSTICS_MAX {
        let mut state = [0_u16; 6];
        let mut said = [0_u16; NAME_CHARS_MAX];
        let (mut code, mut chars) = (0_i32, 0_i16);
        // SAFETY: the buffers have as many characters as are said, the state always six.
        let got = unsafe {
            (library.SQLGetDiagRecW)(
                kind,
                handle,
                record,
                state.as_mut_ptr(),
                &raw mut code,
                said.as_mut_ptr(),
                NAME_CHARS_MAX as i16,
                &raw mut chars,
            )
        };
        if got != odbc::SUCCESS && got != odbc::SUCCESS_WITH_INFO {
            break;
        }
        let chars = usize::try_from(chars).unwrap_or(0).min(NAME_CHARS_MAX - 1);
        let state = String::from_utf16_lossy(&state[..5]);
        all.push(OdbcDiagnostic {
            state: state.trim_end_matches('\0').to_owned(),
            code,
            said: String::from_utf16_lossy(&said[..chars])
                .trim_end_matches('\0')
                .to_owned(),
        });
    }
    all
}
