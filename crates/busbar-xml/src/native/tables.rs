//! Documents of the plug-in's folder that style sheets look things up in with `document()`: read once, copied for each transformation.
//!
//! A transformation owns what it loads, marks nodes of it and frees it, so it is given a copy. The folder of a plug-in does not
//! change while its worker lives.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock};

use super::functions::{DocumentLoader, LibXslt};
use crate::limits::LOOKUP_DOCUMENTS_MAX;

/// `XSLT_LOAD_DOCUMENT`: not a style sheet.
const LOADS_DOCUMENT: c_int = 2;

/// What the library loads documents with, and what they are copied with.
static LIBRARY: OnceLock<(DocumentLoader, CopyDocument)> = OnceLock::new();
static TABLES: Mutex<Vec<LookupDocument>> = Mutex::new(Vec::new());

/// Copies a document, with all nodes where the number is 1.
type CopyDocument = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// A document that was read, by the name that it was asked for by. It lives as long as the process.
struct LookupDocument {
    name: Box<CStr>,
    pointer: *mut c_void,
}

// SAFETY: nobody but the holder of the lock has the pointer.
unsafe impl Send for LookupDocument {}

/// Has the library load documents by way of what is kept.
pub(super) fn keep(xslt: &LibXslt, copy: CopyDocument) {
    // SAFETY: the variable holds the loader, since the library is initialised.
    let loader = unsafe { *xslt.xsltDocDefaultLoader };
    if LIBRARY.set((loader, copy)).is_ok() {
        // SAFETY: the function has the form that is asked for.
        unsafe { (xslt.xsltSetLoaderFunc)(load) }
    }
}

unsafe extern "C" fn load(
    name: *const c_char,
    dictionary: *mut c_void,
    options: c_int,
    context: *mut c_void,
    kind: c_int,
) -> *mut c_void {
    let (Some((loader, copy)), false) = (LIBRARY.get(), name.is_null()) else {
        return std::ptr::null_mut();
    };
    let mut tables = match TABLES.lock() {
        Ok(tables) if kind == LOADS_DOCUMENT => tables,
        // SAFETY: it is the library's own loader, with what it was to be given.
        _ => return unsafe { loader(name, dictionary, options, context, kind) },
    };
    // SAFETY: the library gives a text that ends with a zero, and documents are copied that nobody else has.
    unsafe {
        let name = CStr::from_ptr(name);
        if let Some(table) = tables.iter().find(|table| *table.name == *name) {
            return copy(table.pointer, 1);
        }
        let document = loader(name.as_ptr(), dictionary, options, context, kind);
        if !document.is_null() && tables.len() < LOOKUP_DOCUMENTS_MAX {
            let pointer = copy(document, 1);
            if !pointer.is_null() {
                let name = name.into();
                tables.push(LookupDocument { name, pointer });
            }
        }
        document
    }
}
