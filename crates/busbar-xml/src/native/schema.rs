//! XML Schemas.

use std::ffi::{CStr, CString, c_void};

use libmimalloc_sys::mi_free;

use super::functions::{LibXml, XmlError};
use super::{NativeFault, NativeLibraries, refuse_document_type, take_refused};

/// Faults of a document that are kept.
const FAULTS_MAX: usize = 8;

/// A compiled schema.
pub struct XmlSchema<'l> {
    libraries: &'l NativeLibraries,
    pointer: *mut c_void,
}

/// What the library finds, as it finds it.
struct NativeFaults<'l> {
    xml: &'l LibXml,
    found: Vec<NativeFault>,
}

impl<'l> XmlSchema<'l> {
    /// Compiles a schema of the current folder.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub fn compile(
        libraries: &'l NativeLibraries,
        file: &str,
    ) -> Result<XmlSchema<'l>, NativeFault> {
        let xml = &libraries.xml;
        let name = CString::new(file)
            .map_err(|_| NativeFault::said("the file's name has a zero in it"))?;
        let text = std::fs::read(file).map_err(|cause| NativeFault::said(&cause.to_string()))?;
        refuse_document_type(file)?;
        // Of a schema that is not well-formed the library only says that there is none.
        libraries.file(&text, &name)?;
        let mut faults = NativeFaults {
            xml,
            found: Vec::new(),
        };
        take_refused();
        // SAFETY: the context lives until it is freed; the faults outlive it.
        let pointer = unsafe {
            let context = (xml.xmlSchemaNewParserCtxt)(name.as_ptr());
            if context.is_null() {
                return Err(NativeFault::said("there is not enough memory"));
            }
            (xml.xmlSchemaSetParserStructuredErrors)(context, note, (&raw mut faults).cast());
            let pointer = (xml.xmlSchemaParse)(context);
            (xml.xmlSchemaFreeParserCtxt)(context);
            pointer
        };
        let said = libraries.take_said();
        let refused = take_refused();
        if pointer.is_null() || refused.is_some() {
            let mut fault = match faults.found.into_iter().next() {
                Some(fault) => fault,
                None => NativeFault::of_text(&said),
            };
            if let Some(refused) = refused {
                fault.message = format!("{refused}; {}", fault.message);
            }
            fault.file.get_or_insert_with(|| file.to_owned());
            if !pointer.is_null() {
                // SAFETY: nobody else has it.
                unsafe { (xml.xmlSchemaFree)(pointer) }
            }
            return Err(fault);
        }
        Ok(XmlSchema { libraries, pointer })
    }

    /// What is wrong with a document by the schema, the first faults of it; nothing if it fits. The message begins with the path.
    ///
    /// # Errors
    /// The document cannot be read.
    pub fn validate(&self, document: &str) -> Result<Vec<NativeFault>, NativeFault> {
        let xml = &self.libraries.xml;
        let document = self.libraries.document(document)?;
        let mut faults = NativeFaults {
            xml,
            found: Vec::new(),
        };
        // SAFETY: the context lives until it is freed; faults, schema and document outlive it.
        let result = unsafe {
            let context = (xml.xmlSchemaNewValidCtxt)(self.pointer);
            if context.is_null() {
                return Err(NativeFault::said("there is not enough memory"));
            }
            (xml.xmlSchemaSetValidStructuredErrors)(context, note, (&raw mut faults).cast());
            let result = (xml.xmlSchemaValidateDoc)(context, document.pointer);
            (xml.xmlSchemaFreeValidCtxt)(context);
            result
        };
        match (result, faults.found.is_empty()) {
            (0, _) => Ok(Vec::new()),
            (_, true) => Ok(vec![NativeFault::said(
                "the document does not fit the schema",
            )]),
            _ => Ok(faults.found),
        }
    }
}

impl Drop for XmlSchema<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { (self.libraries.xml.xmlSchemaFree)(self.pointer) }
    }
}

/// Takes a fault down.
unsafe extern "C" fn note(faults: *mut c_void, error: *const XmlError) {
    // SAFETY: the library gives what it was given, and an error that is valid for the call.
    unsafe {
        let faults = &mut *faults.cast::<NativeFaults<'_>>();
        if faults.found.len() == FAULTS_MAX || error.is_null() {
            return;
        }
        let mut fault = NativeFault::of_error(error);
        let node = (*error).node;
        if !node.is_null() {
            let path = (faults.xml.xmlGetNodePath)(node);
            if !path.is_null() {
                let text = CStr::from_ptr(path).to_string_lossy().into_owned();
                mi_free(path.cast());
                if fault.file.as_deref() == Some("document") {
                    fault.message = format!("{text}: {}", fault.message);
                }
            }
        }
        faults.found.push(fault);
    }
}
