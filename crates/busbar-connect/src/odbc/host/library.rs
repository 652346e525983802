//! The functions of the driver manager that are used, as `sql.h`, `sqlext.h` and `sqlucode.h` declare them.

// They have the names of C.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_void};

/// A handle of an environment, a connection or a statement; also a pointer to a buffer.
pub type Handle = *mut c_void;

/// What can go wrong before there is a driver manager.
#[derive(Debug)]
pub struct OdbcLibraryMissing {
    /// The file that was looked for.
    pub library: String,
}

macro_rules! odbc_functions {
    ($(#[$doc:meta])* $functions:ident { $($name:ident($($argument:ty),*);)* }) => {
        $(#[$doc])*
        pub struct $functions {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> i16,)*
        }

        impl $functions {
            /// The functions of a library that was loaded; none if one is missing.
            fn of(handle: *mut c_void) -> Option<Self> {
                $(
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: the handle is that of a library that is never unloaded, and the name ends with a zero.
                    let $name = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
                    if $name.is_null() {
                        return None;
                    }
                    // SAFETY: the function of this name has these arguments in every version 3 of ODBC with 64 bits.
                    let $name = unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> i16>($name)
                    };
                )*
                Some(Self { $($name),* })
            }
        }
    };
}

odbc_functions! {
    /// The driver manager: unixODBC.
    OdbcLibrary {
        SQLAllocHandle(i16, Handle, *mut Handle);
        SQLBindCol(Handle, u16, i16, Handle, isize, *mut isize);
        SQLBindParameter(Handle, u16, i16, i16, i16, usize, i16, Handle, isize, *mut isize);
        SQLCancel(Handle);
        SQLColAttributeW(Handle, u16, u16, Handle, i16, *mut i16, *mut isize);
        SQLColumnsW(Handle, *const u16, i16, *const u16, i16, *const u16, i16, *const u16, i16);
        SQLDescribeColW(Handle, u16, *mut u16, i16, *mut i16, *mut i16, *mut usize, *mut i16, *mut i16);
        SQLDisconnect(Handle);
        SQLDriverConnectW(Handle, Handle, *const u16, i16, *mut u16, i16, *mut i16, u16);
        SQLEndTran(i16, Handle, i16);
        SQLExecDirect(Handle, *const u8, i32);
        SQLExecDirectW(Handle, *const u16, i32);
        SQLExecute(Handle);
        SQLFetch(Handle);
        SQLFreeHandle(i16, Handle);
        SQLFreeStmt(Handle, u16);
        SQLGetData(Handle, u16, i16, Handle, isize, *mut isize);
        SQLGetDiagRecW(i16, Handle, i16, *mut u16, *mut i32, *mut u16, i16, *mut i16);
        SQLGetInfoW(Handle, u16, Handle, i16, *mut i16);
        SQLNumResultCols(Handle, *mut i16);
        SQLPrepare(Handle, *const u8, i32);
        SQLPrepareW(Handle, *const u16, i32);
        SQLPrimaryKeysW(Handle, *const u16, i16, *const u16, i16, *const u16, i16);
        SQLRowCount(Handle, *mut isize);
        SQLSetConnectAttrW(Handle, i32, Handle, i32);
        SQLSetEnvAttr(Handle, i32, Handle, i32);
        SQLSetPos(Handle, usize, u16, u16);
        SQLSetStmtAttrW(Handle, i32, Handle, i32);
        SQLStatisticsW(Handle, *const u16, i16, *const u16, i16, *const u16, i16, u16, u16);
        SQLTablesW(Handle, *const u16, i16, *const u16, i16, *const u16, i16, *const u16, i16);
    }
}

impl OdbcLibrary {
    /// Loads the driver manager; it is never unloaded.
    ///
    /// # Errors
    /// It is not installed, or is none.
    pub fn load(name: &CStr) -> Result<&'static OdbcLibrary, OdbcLibraryMissing> {
        // SAFETY: the name ends with a zero. What the library runs when it is loaded is that of the system's own package.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        let found = (!handle.is_null())
            .then(|| OdbcLibrary::of(handle))
            .flatten();
        match found {
            Some(library) => Ok(Box::leak(Box::new(library))),
            None => Err(OdbcLibraryMissing {
                library: name.to_string_lossy().into_owned(),
            }),
        }
    }
}

/// Kinds of handles.
pub const ENVIRONMENT: i16 = 1;
pub const CONNECTION: i16 = 2;
pub const STATEMENT: i16 = 3;

/// What functions return.
pub const SUCCESS: i16 = 0;
pub const SUCCESS_WITH_INFO: i16 = 1;
pub const NO_DATA: i16 = 100;

/// Lengths that are none.
pub const NULL_DATA: isize = -1;
pub const NO_TOTAL: isize = -4;

/// Of environments.
pub const ATTR_ODBC_VERSION: i32 = 200;
pub const ODBC_3: usize = 3;

/// Of connections.
pub const ATTR_AUTOCOMMIT: i32 = 102;
pub const ATTR_LOGIN_TIMEOUT: i32 = 103;
pub const COMMIT: i16 = 0;
pub const ROLLBACK: i16 = 1;

/// Of statements.
pub const ATTR_MAX_ROWS: i32 = 1;
pub const ATTR_PARAM_STATUS: i32 = 20;
pub const ATTR_PARAMS_PROCESSED: i32 = 21;
pub const ATTR_PARAMSET_SIZE: i32 = 22;
pub const ATTR_ROWS_FETCHED: i32 = 26;
pub const ATTR_ROW_ARRAY_SIZE: i32 = 27;
pub const CLOSE: u16 = 0;
pub const UNBIND: u16 = 2;
pub const RESET_PARAMS: u16 = 3;
pub const PARAM_INPUT: i16 = 1;
pub const POSITION: u16 = 0;
pub const LOCK_NO_CHANGE: u16 = 0;

/// States of sets of parameters.
pub const PARAM_ERROR: u16 = 5;
pub const PARAM_UNUSED: u16 = 7;

/// Of columns.
pub const DESC_UNSIGNED: u16 = 8;
pub const DESC_TYPE_NAME: u16 = 14;

/// What drivers say of themselves.
pub const INFO_DBMS_NAME: u16 = 17;
pub const INFO_DBMS_VERSION: u16 = 18;
pub const INFO_DATABASE_NAME: u16 = 16;
pub const INFO_USER_NAME: u16 = 47;
pub const INFO_SEARCH_ESCAPE: u16 = 14;
pub const INFO_TRANSACTIONS: u16 = 46;
pub const INFO_GETDATA: u16 = 81;
/// Columns that are bound can be read again, and those of any row of a rowset.
pub const GETDATA_ANY_COLUMN: u32 = 1;
pub const GETDATA_BLOCK: u32 = 4;
pub const GETDATA_BOUND: u32 = 8;

/// Types of C.
pub const C_WCHAR: i16 = -8;
pub const C_BIT: i16 = -7;
pub const C_SBIGINT: i16 = -25;
pub const C_FLOAT: i16 = 7;
pub const C_DOUBLE: i16 = 8;
pub const C_BINARY: i16 = -2;
pub const C_DATE: i16 = 91;
pub const C_TIMESTAMP: i16 = 93;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_is_another_one_is_said() {
        for name in [c"libno-such-odbc.so.2", c"libc.so.6"] {
            let missing = OdbcLibrary::load(name)
                .map(drop)
                .expect_err("no driver manager");
            assert_eq!(missing.library, name.to_string_lossy());
        }
    }
}
