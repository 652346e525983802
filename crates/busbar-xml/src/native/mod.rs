//! XSLT 1.0 and XML Schema by libxslt and libxml2, which are loaded when they are asked for.
//!
//! Both are libraries in C with state for the whole process, so they are used by a worker process only, which may be ended
//! at any time. Nothing that a style sheet, a schema or a document names is loaded unless it lies in the process' current
//! folder; nothing is written, and nothing is asked for over a network.

mod functions;
mod schema;
mod style;
mod tables;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use busbar_event::{Class, Error};
use libmimalloc_sys::{mi_free, mi_malloc, mi_realloc};

use functions::{LibExslt, LibXml, LibXslt};

use crate::read::is_surely_bounded;
use crate::{DocumentFaultKind, XmlDocument, document_text};

pub use schema::XmlSchema;
pub use style::StyleSheet;

/// What a style sheet, a schema or a transformation is refused for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeFault {
    /// What is wrong.
    pub message: String,
    /// The file of the style sheet or schema.
    pub file: Option<String>,
    /// The line in there; of a document that does not fit its schema, the line in the document.
    pub line: Option<u32>,
}

/// The libraries, as far as they are loaded.
pub struct NativeLibraries {
    xml: LibXml,
    xslt: Option<LibXslt>,
    /// Where the libraries write what they have to say.
    said: SaidText,
    /// The memory of documents that are read before the library reads them.
    scratch: RefCell<XmlDocument>,
}

/// A file in memory that the libraries write to.
struct SaidText {
    file: *mut libc::FILE,
    /// What is written, and its length; the C library sets them. Boxed, because it keeps their addresses.
    text: Box<(*mut c_char, libc::size_t)>,
}

/// The loader of the library, which is asked when a name is allowed.
type EntityLoader = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void) -> *mut c_void;
static LOADER: OnceLock<EntityLoader> = OnceLock::new();
/// Why a file was refused, of the last one that was.
static REFUSED: Mutex<Option<String>> = Mutex::new(None);

impl NativeLibraries {
    /// Loads libxml2 and, for style sheets, libxslt with the functions of EXSLT if they are there.
    ///
    /// # Errors
    /// `xml.no-library` if one is missing, with the package that has it.
    pub fn load(with_xslt: bool) -> Result<NativeLibraries, Error> {
        let missing = |library: &str, package: &str| {
            Error::new(Class::Configuration, "xml.no-library")
                .with("library", library)
                .with("package", package)
        };
        let xml = open(c"libxml2.so.2")
            .or_else(|| open(c"libxml2.so.16"))
            .and_then(LibXml::of)
            .ok_or_else(|| missing("libxml2.so.2", "libxml2"))?;
        let xslt = match with_xslt {
            false => None,
            true => Some(
                open(c"libxslt.so.1")
                    .and_then(LibXslt::of)
                    .ok_or_else(|| missing("libxslt.so.1", "libxslt1.1"))?,
            ),
        };
        let said = SaidText::new()?;
        // SAFETY: the functions are those of the libraries' headers; `fprintf` takes the file that it is given.
        unsafe {
            let write = libc::fprintf as *const c_void;
            // A transformation takes and gives back hundreds of pieces of memory, which is a third of its time with the C
            // library's allocator. Before anything is taken.
            (xml.xmlMemSetup)(mi_free, take, take_more, copy_text);
            (xml.xmlInitParser)();
            let _ = LOADER.set((xml.xmlGetExternalEntityLoader)());
            (xml.xmlSetExternalEntityLoader)(load_own);
            (xml.xmlSetGenericErrorFunc)(said.file.cast(), write);
            if let Some(xslt) = &xslt {
                (xslt.xsltSetGenericErrorFunc)(said.file.cast(), write);
                let preferences = (xslt.xsltNewSecurityPrefs)();
                // Files are the loader's affair; writing them, folders and networks are nobody's.
                for option in functions::FORBIDDEN {
                    let forbid = xslt.xsltSecurityForbid as *const c_void;
                    (xslt.xsltSetSecurityPrefs)(preferences, option, forbid);
                }
                (xslt.xsltSetDefaultSecurityPrefs)(preferences);
                tables::keep(xslt, xml.xmlCopyDoc);
                if let Some(exslt) = open(c"libexslt.so.0").and_then(LibExslt::of) {
                    (exslt.exsltRegisterAll)();
                }
            }
        }
        Ok(NativeLibraries {
            xml,
            xslt,
            said,
            scratch: RefCell::default(),
        })
    }

    /// Reads a document of an event, which is in UTF-8 whatever it declares. What [`XmlDocument`] refuses is refused, and what the
    /// library has something to say of is read by [`XmlDocument`] first, which knows the line and the column.
    fn document(&self, text: &str) -> Result<NativeDocument<'_>, NativeFault> {
        let checked = || {
            let read = self.scratch.borrow_mut().read(text);
            read.map_err(|fault| NativeFault::said(&fault.error().to_string()))
        };
        let is_bounded = is_surely_bounded(text);
        if !is_bounded {
            checked()?;
        }
        let options = functions::READ_OPTIONS | functions::IGNORE_ENCODING;
        let document = self.parse(text.as_bytes(), c"document", options);
        if is_bounded && (document.is_err() || self.has_error()) {
            checked()?;
        }
        document
    }

    /// Reads a file of a plug-in, in the encoding that it declares.
    fn file(&self, text: &[u8], name: &CStr) -> Result<NativeDocument<'_>, NativeFault> {
        self.parse(text, name, functions::READ_OPTIONS)
    }

    fn parse(
        &self,
        text: &[u8],
        name: &CStr,
        options: c_int,
    ) -> Result<NativeDocument<'_>, NativeFault> {
        let length = c_int::try_from(text.len())
            .map_err(|_| NativeFault::said("the document is too large"))?;
        // SAFETY: the text is valid for the call, with its length; the result is owned by what is returned.
        let document = unsafe {
            (self.xml.xmlResetLastError)();
            (self.xml.xmlReadMemory)(
                text.as_ptr().cast(),
                length,
                name.as_ptr(),
                std::ptr::null(),
                options,
            )
        };
        match document.is_null() {
            false => Ok(NativeDocument {
                pointer: document,
                libraries: self,
            }),
            true => Err(self.last_error()),
        }
    }

    /// Whether the library has found something to say since it began to read.
    fn has_error(&self) -> bool {
        // SAFETY: it answers null or an error, which is only compared.
        let error = unsafe { (self.xml.xmlGetLastError)() };
        !error.is_null()
    }

    /// What the library says of the last error.
    fn last_error(&self) -> NativeFault {
        // SAFETY: what is returned is valid until the next error.
        unsafe { NativeFault::of_error((self.xml.xmlGetLastError)()) }
    }

    /// What the libraries have said since the last time.
    fn take_said(&self) -> String {
        // SAFETY: the file is open as long as `self`; after `fflush` text and length are valid.
        unsafe {
            libc::fflush(self.said.file);
            let (text, length) = *self.said.text;
            let text = match text.is_null() {
                true => &[][..],
                false => std::slice::from_raw_parts(text.cast::<u8>(), length),
            };
            let text = String::from_utf8_lossy(text).trim().to_owned();
            libc::rewind(self.said.file);
            libc::fflush(self.said.file);
            text
        }
    }
}

impl SaidText {
    fn new() -> Result<SaidText, Error> {
        let mut text = Box::new((std::ptr::null_mut(), 0));
        // SAFETY: both addresses are valid as long as the file, since the box is kept with it.
        let file = unsafe { open_memstream(&raw mut text.0, &raw mut text.1) };
        match file.is_null() {
            false => Ok(SaidText { file, text }),
            true => Err(Error::new(Class::Transient, "xml.no-memory")),
        }
    }
}

unsafe extern "C" {
    fn open_memstream(text: *mut *mut c_char, length: *mut libc::size_t) -> *mut libc::FILE;
}

/// A document of the library.
struct NativeDocument<'l> {
    pointer: *mut c_void,
    libraries: &'l NativeLibraries,
}

impl NativeDocument<'_> {
    /// Gives the document to who frees it.
    fn release(self) -> *mut c_void {
        let pointer = self.pointer;
        std::mem::forget(self);
        pointer
    }
}

impl Drop for NativeDocument<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { (self.libraries.xml.xmlFreeDoc)(self.pointer) }
    }
}

impl NativeFault {
    fn said(message: &str) -> NativeFault {
        NativeFault {
            message: message.to_owned(),
            ..NativeFault::default()
        }
    }

    /// A fault of what libxslt wrote: `compilation error: file main.xsl line 3 element if` and the reason on the next line, or
    /// `main.xsl:3: parser error : …`.
    fn of_text(text: &str) -> NativeFault {
        let mut fault = NativeFault::default();
        let mut lines = Vec::new();
        for line in text.lines() {
            // Where recursion does not end, a list of templates and advice on options follow.
            if line.starts_with("You can adjust") || line.starts_with("Templates:") {
                break;
            }
            let named = line.split_once(" error: file ").and_then(|(_, rest)| {
                let (file, rest) = rest.split_once(" line ")?;
                let (number, _) = rest.split_once(' ').unwrap_or((rest, ""));
                Some((file, number.parse().ok()?))
            });
            let parsed = || {
                let (file, rest) = line.split_once(':')?;
                let (number, rest) = rest.split_once(':')?;
                Some((file, number.parse::<u32>().ok()?, rest))
            };
            match (named, parsed()) {
                (Some((file, number)), _) if fault.line.is_none() => {
                    fault.file = Some(file.to_owned());
                    fault.line = Some(number);
                }
                (Some(_), _) => {}
                (None, Some((file, number, rest))) => {
                    if fault.line.is_none() {
                        fault.file = Some(file.to_owned());
                        fault.line = Some(number);
                    }
                    lines.push(rest.trim());
                }
                (None, None) if line.trim().is_empty() || line.trim() == "^" => {}
                (None, None) => lines.push(line.trim()),
            }
        }
        fault.message = lines.join("; ");
        if let Some(refused) = take_refused() {
            fault.message = format!("{refused}; {}", fault.message);
        }
        fault
    }

    /// # Safety
    /// The pointer is null or that of an error of libxml2.
    unsafe fn of_error(error: *const functions::XmlError) -> NativeFault {
        if error.is_null() {
            return NativeFault::said("the document cannot be read");
        }
        // SAFETY: the caller says so; texts end with a zero.
        unsafe {
            let text = |text: *const c_char| match text.is_null() {
                true => None,
                false => Some(CStr::from_ptr(text).to_string_lossy().trim().to_owned()),
            };
            NativeFault {
                message: text((*error).message).unwrap_or_default(),
                file: text((*error).file),
                line: u32::try_from((*error).line).ok().filter(|line| *line > 0),
            }
        }
    }
}

/// Memory for the libraries. Where there is none the process ends, and its node says so of the event: they would go on, and give
/// results that are wrong.
unsafe extern "C" fn take(size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    given(unsafe { mi_malloc(size) })
}

/// The same for memory that is to be larger.
unsafe extern "C" fn take_more(memory: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the library gives what it was given, or null.
    given(unsafe { mi_realloc(memory, size) })
}

/// A copy of a text that ends with a zero.
unsafe extern "C" fn copy_text(text: *const c_char) -> *mut c_char {
    // SAFETY: the library gives such a text; the copy is as long as it with its zero.
    unsafe {
        let bytes = CStr::from_ptr(text).to_bytes_with_nul();
        let copy = take(bytes.len()).cast::<u8>();
        copy.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        copy.cast()
    }
}

/// What was given, or the end of the process.
fn given(memory: *mut c_void) -> *mut c_void {
    if memory.is_null() {
        // Neither needs memory.
        let text = b"the worker has no more memory\n";
        // SAFETY: the text is valid for the call.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        std::process::abort();
    }
    memory
}

fn take_refused() -> Option<String> {
    REFUSED.lock().ok().and_then(|mut refused| refused.take())
}

fn open(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero. What the library runs when it is loaded is that of the system's own package.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    (!handle.is_null()).then_some(handle)
}

/// Loads what lies in the current folder, and nothing else.
unsafe extern "C" fn load_own(
    url: *const c_char,
    id: *const c_char,
    context: *mut c_void,
) -> *mut c_void {
    if url.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the library gives a text that ends with a zero.
    let name = unsafe { CStr::from_ptr(url) }
        .to_string_lossy()
        .into_owned();
    let refused = match (own_path(&name), LOADER.get()) {
        (Some(path), Some(loader)) => match (has_document_type(&path), CString::new(path)) {
            (None, Ok(path)) => {
                // SAFETY: it is the library's own loader, with what it was to be given but for the name.
                return unsafe { loader(path.as_ptr(), id, context) };
            }
            _ => format!("{name} has a document type (<!DOCTYPE), which is refused"),
        },
        _ => format!("{name} does not lie in the folder of the plug-in"),
    };
    if let Ok(mut last) = REFUSED.lock() {
        *last = Some(refused);
    }
    std::ptr::null_mut()
}

/// The line of the document type of a file of the current folder, if it has one.
fn has_document_type(path: &str) -> Option<usize> {
    let bytes = std::fs::read(path).ok()?;
    let read = document_text(&bytes).and_then(|text| XmlDocument::of(&text));
    let fault = read.err()?;
    (fault.kind == DocumentFaultKind::DocumentType).then_some(fault.line)
}

/// Refuses a style sheet or schema with a document type: what it declares would be left out without a word.
fn refuse_document_type(file: &str) -> Result<(), NativeFault> {
    match has_document_type(file) {
        None => Ok(()),
        Some(line) => Err(NativeFault {
            message:
                "a document type (<!DOCTYPE) is refused. Write characters by number, such as &#160;"
                    .into(),
            file: Some(file.to_owned()),
            line: u32::try_from(line).ok(),
        }),
    }
}

/// The path of a file in the current folder that a name leads to.
fn own_path(name: &str) -> Option<String> {
    let name = name.strip_prefix("file://").unwrap_or(name);
    let folder = std::env::current_dir().ok()?.canonicalize().ok()?;
    let path = Path::new(name).canonicalize().ok()?;
    let own = path.strip_prefix(&folder).ok()?;
    own.to_str().map(str::to_owned)
}
