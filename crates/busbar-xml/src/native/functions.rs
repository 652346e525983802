//! The functions of the libraries that are used, as their headers declare them.

// They have the names of C.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

/// `XML_PARSE_NOENT | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NONET | XML_PARSE_NOCDATA | XML_PARSE_COMPACT`. Without
/// the first one the library reads an ampersand in the name of a namespace as `&#38;`. Nothing else follows from it: only a
/// document type declares entities, and documents with one are refused.
pub(super) const READ_OPTIONS: c_int = 2 | 32 | 64 | 2048 | 16384 | 65536;
/// `XML_PARSE_IGNORE_ENC`: the text is in UTF-8, whatever encoding it declares. To name the encoding instead would have the
/// library convert UTF-8 into UTF-8.
pub(super) const IGNORE_ENCODING: c_int = 1 << 21;
/// `XSLT_SECPREF_WRITE_FILE`, `…_CREATE_DIRECTORY`, `…_READ_NETWORK`, `…_WRITE_NETWORK`.
pub(super) const FORBIDDEN: [c_int; 4] = [2, 3, 4, 5];

/// The beginning of `xmlError`.
#[repr(C)]
pub(super) struct XmlError {
    pub domain: c_int,
    pub code: c_int,
    pub message: *const c_char,
    pub level: c_int,
    pub file: *const c_char,
    pub line: c_int,
    pub texts: [*const c_char; 3],
    pub numbers: [c_int; 2],
    pub context: *mut c_void,
    pub node: *mut c_void,
}

/// The beginning of `xsltTransformContext`, up to the state.
#[repr(C)]
pub(super) struct TransformContext {
    style: *mut c_void,
    kind: c_int,
    template: *mut c_void,
    templates: [c_int; 2],
    template_table: *mut c_void,
    variables: *mut c_void,
    variable_counts: [c_int; 2],
    variable_table: *mut c_void,
    variable_base: c_int,
    /// `extFunctions` to `xpathCtxt`.
    others: [*mut c_void; 12],
    /// 0 while all is well, 1 after an error, 2 where the style sheet has ended it.
    pub state: c_int,
}

pub(super) type OnError = unsafe extern "C" fn(*mut c_void, *const XmlError);
type Loader = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void) -> *mut c_void;

/// Loads a document: its name, a dictionary, options of the parser, who asks, and what for.
pub(super) type DocumentLoader =
    unsafe extern "C" fn(*const c_char, *mut c_void, c_int, *mut c_void, c_int) -> *mut c_void;

macro_rules! library {
    ($(#[$doc:meta])* $library:ident { $($name:ident($($argument:ty),*) $(-> $result:ty)?;)* $(@ $variable:ident: $kind:ty;)* }) => {
        $(#[$doc])*
        pub(super) struct $library {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub $variable: *const $kind,)*
        }

        impl $library {
            /// The functions of a library that was loaded; none if one is missing.
            pub fn of(handle: *mut c_void) -> Option<Self> {
                $(
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: the handle is that of a library that is never unloaded, and the name ends with a zero.
                    let $name = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
                    if $name.is_null() {
                        return None;
                    }
                    // SAFETY: the function of this name has these arguments in every version of the library.
                    let $name = unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>($name)
                    };
                )*
                $(
                    let name = concat!(stringify!($variable), "\0");
                    // SAFETY: as above.
                    let $variable = unsafe { libc::dlsym(handle, name.as_ptr().cast()) }.cast::<$kind>();
                    if $variable.is_null() {
                        return None;
                    }
                )*
                Some(Self { $($name,)* $($variable,)* })
            }
        }
    };
}

/// What libxml2 and libxslt give memory back with.
pub(super) type Free = unsafe extern "C" fn(*mut c_void);
/// What they take memory with.
pub(super) type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
/// What they make it larger with.
pub(super) type Realloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
/// What they copy a text with.
pub(super) type Strdup = unsafe extern "C" fn(*const c_char) -> *mut c_char;

library! {
    /// libxml2.
    LibXml {
        xmlMemSetup(Free, Malloc, Realloc, Strdup) -> c_int;
        xmlInitParser();
        xmlReadMemory(*const c_char, c_int, *const c_char, *const c_char, c_int) -> *mut c_void;
        xmlFreeDoc(*mut c_void);
        xmlCopyDoc(*mut c_void, c_int) -> *mut c_void;
        xmlGetLastError() -> *const XmlError;
        xmlResetLastError();
        xmlSetGenericErrorFunc(*mut c_void, *const c_void);
        xmlGetExternalEntityLoader() -> Loader;
        xmlSetExternalEntityLoader(Loader);
        xmlGetNodePath(*const c_void) -> *mut c_char;
        xmlSchemaNewParserCtxt(*const c_char) -> *mut c_void;
        xmlSchemaSetParserStructuredErrors(*mut c_void, OnError, *mut c_void);
        xmlSchemaParse(*mut c_void) -> *mut c_void;
        xmlSchemaFreeParserCtxt(*mut c_void);
        xmlSchemaFree(*mut c_void);
        xmlSchemaNewValidCtxt(*mut c_void) -> *mut c_void;
        xmlSchemaSetValidStructuredErrors(*mut c_void, OnError, *mut c_void);
        xmlSchemaValidateDoc(*mut c_void, *mut c_void) -> c_int;
        xmlSchemaFreeValidCtxt(*mut c_void);
    }
}

library! {
    /// libxslt.
    LibXslt {
        xsltSetGenericErrorFunc(*mut c_void, *const c_void);
        xsltNewSecurityPrefs() -> *mut c_void;
        xsltSetSecurityPrefs(*mut c_void, c_int, *const c_void) -> c_int;
        xsltSetDefaultSecurityPrefs(*mut c_void);
        xsltSecurityForbid(*mut c_void, *mut c_void, *const c_char) -> c_int;
        xsltParseStylesheetDoc(*mut c_void) -> *mut c_void;
        xsltFreeStylesheet(*mut c_void);
        xsltNewTransformContext(*mut c_void, *mut c_void) -> *mut TransformContext;
        xsltFreeTransformContext(*mut TransformContext);
        xsltQuoteOneUserParam(*mut TransformContext, *const c_char, *const c_char) -> c_int;
        xsltApplyStylesheetUser(*mut c_void, *mut c_void, *const *const c_char, *const c_char, *mut c_void, *mut TransformContext) -> *mut c_void;
        xsltSaveResultToString(*mut *mut c_char, *mut c_int, *mut c_void, *mut c_void) -> c_int;
        xsltSetLoaderFunc(DocumentLoader);
        @ xsltDocDefaultLoader: DocumentLoader;
    }
}

library! {
    /// libexslt.
    LibExslt {
        exsltRegisterAll();
    }
}
