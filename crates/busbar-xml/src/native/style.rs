//! Style sheets.

use std::collections::BTreeSet;
use std::ffi::{CString, c_void};

use libmimalloc_sys::mi_free;

use super::functions::LibXslt;
use super::{NativeFault, NativeLibraries, refuse_document_type, take_refused};
use crate::{XPath, XPathNames, XmlDocument, document_text};

/// A compiled style sheet.
pub struct StyleSheet<'l> {
    libraries: &'l NativeLibraries,
    xslt: &'l LibXslt,
    pointer: *mut c_void,
    parameters: BTreeSet<String>,
}

impl<'l> StyleSheet<'l> {
    /// Compiles a style sheet of the current folder.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub fn compile(
        libraries: &'l NativeLibraries,
        file: &str,
    ) -> Result<StyleSheet<'l>, NativeFault> {
        let refused = |message: &str| NativeFault {
            message: message.to_owned(),
            file: Some(file.to_owned()),
            line: None,
        };
        let xslt = libraries
            .xslt
            .as_ref()
            .ok_or_else(|| refused("libxslt is not loaded"))?;
        let text = std::fs::read(file).map_err(|cause| refused(&cause.to_string()))?;
        let name = CString::new(file).map_err(|_| refused("the file's name has a zero in it"))?;
        refuse_document_type(file)?;
        let document = libraries.file(&text, &name)?;
        take_refused();
        libraries.take_said();
        // The style sheet takes the document over. Where it is refused, both are left to the end of the process, which then
        // has nothing more to do.
        let document = document.release();
        // SAFETY: the document is one, and nobody else has it.
        let pointer = unsafe { (xslt.xsltParseStylesheetDoc)(document) };
        let said = without_version(&libraries.take_said());
        if pointer.is_null() || said.contains(" error") {
            let mut fault = NativeFault::of_text(&said);
            fault.file.get_or_insert_with(|| file.to_owned());
            return Err(fault);
        }
        Ok(StyleSheet {
            libraries,
            xslt,
            pointer,
            parameters: parameters(),
        })
    }

    /// The names of the parameters that the style sheets of the current folder declare.
    pub fn parameters(&self) -> &BTreeSet<String> {
        &self.parameters
    }

    /// Transforms a document, and answers the result and what the style sheet says beside it (`xsl:message`).
    ///
    /// # Errors
    /// What went wrong, with file and line of the style sheet.
    pub fn apply(
        &self,
        document: &str,
        parameters: &[(CString, CString)],
    ) -> Result<(Vec<u8>, String), NativeFault> {
        let document = self.libraries.document(document)?;
        take_refused();
        // SAFETY: context, document and result live until they are freed here, the context before what it refers to.
        unsafe {
            let context = (self.xslt.xsltNewTransformContext)(self.pointer, document.pointer);
            if context.is_null() {
                return Err(NativeFault::said("there is not enough memory"));
            }
            for (name, value) in parameters {
                (self.xslt.xsltQuoteOneUserParam)(context, name.as_ptr(), value.as_ptr());
            }
            let result = (self.xslt.xsltApplyStylesheetUser)(
                self.pointer,
                document.pointer,
                std::ptr::null(),
                std::ptr::null(),
                std::ptr::null_mut(),
                context,
            );
            let state = (*context).state;
            (self.xslt.xsltFreeTransformContext)(context);
            let said = self.libraries.take_said();
            let refused = take_refused();
            // An element of XSLT that there is not is only said when it is come to.
            let is_unknown = said.contains(" was not compiled");
            if result.is_null() || state != 0 || refused.is_some() || is_unknown {
                if !result.is_null() {
                    (self.libraries.xml.xmlFreeDoc)(result);
                }
                let mut fault = NativeFault::of_text(&said);
                if let Some(refused) = refused {
                    fault.message = refused;
                }
                if fault.message.is_empty() {
                    fault.message = "the style sheet has ended the transformation".into();
                }
                return Err(fault);
            }
            let (mut text, mut length) = (std::ptr::null_mut(), 0);
            let saved =
                (self.xslt.xsltSaveResultToString)(&mut text, &mut length, result, self.pointer);
            (self.libraries.xml.xmlFreeDoc)(result);
            if saved < 0 {
                return Err(NativeFault::said(
                    "the result cannot be written in its encoding",
                ));
            }
            let bytes = match text.is_null() {
                true => Vec::new(),
                false => std::slice::from_raw_parts(text.cast::<u8>(), length as usize).to_vec(),
            };
            // The library allocates with this allocator's functions.
            mi_free(text.cast());
            Ok((bytes, said))
        }
    }
}

impl Drop for StyleSheet<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { (self.xslt.xsltFreeStylesheet)(self.pointer) }
    }
}

/// What the library says of a style sheet, without the remark that its version is a later one: such a style sheet is processed as
/// XSLT 1.0 says in "Forwards-Compatible Processing".
fn without_version(said: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in said.lines() {
        match line == "xsl:version: only 1.1 features are supported" {
            // The line before it says where.
            true => drop(lines.pop()),
            false => lines.push(line),
        }
    }
    lines.join("\n")
}

/// The parameters that style sheets of the current folder declare.
fn parameters() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let names = XPathNames {
        prefixes: vec![("x".into(), "http://www.w3.org/1999/XSL/Transform".into())],
        bare_is_any: false,
    };
    let Ok(path) = XPath::compile("/*/x:param/@name", &names) else {
        return found;
    };
    let files = std::fs::read_dir(".").into_iter().flatten().flatten();
    for file in files {
        let path_of = file.path();
        let is_style = path_of
            .extension()
            .is_some_and(|kind| kind == "xsl" || kind == "xslt");
        let Some(bytes) = is_style.then(|| std::fs::read(&path_of).ok()).flatten() else {
            continue;
        };
        let document = document_text(&bytes).and_then(|text| XmlDocument::of(&text));
        if let Ok(document) = document
            && let Ok(nodes) = path.nodes(&document, document.root())
        {
            found.extend(nodes.iter().map(|node| document.value(*node).to_owned()));
        }
    }
    found
}
