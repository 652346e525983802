//! The elements of a document, with their places.

use std::ops::Range;

use busbar_event::{Class, Error};
use busbar_xml::XmlDocument;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use crate::diagnostic::Diagnostic;
use crate::limits::FILE_BYTES_MAX;

/// A document that is read: its path and its text.
#[derive(Clone, Copy)]
pub(super) struct ProcessDocument<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

/// An element.
#[derive(Debug)]
pub(super) struct ProcessElement {
    pub name: String,
    /// Its start tag, in bytes of the document.
    pub span: Range<usize>,
    attributes: Vec<(String, String)>,
    pub children: Vec<ProcessElement>,
    /// Its own text.
    pub text: String,
}

impl ProcessDocument<'_> {
    /// What is wrong at a place.
    pub fn wrong(
        self,
        span: Range<usize>,
        code: &'static str,
        args: &[(&'static str, &str)],
    ) -> Diagnostic {
        let mut error = Error::new(Class::Configuration, code);
        for (name, value) in args {
            error = error.with(name, *value);
        }
        Diagnostic::new(self.file, self.text, span, error)
    }

    /// Reads the document. Comments and instructions are refused, since a flow's file could not keep them.
    pub fn root(self) -> Result<ProcessElement, Diagnostic> {
        if self.text.len() > FILE_BYTES_MAX {
            let bytes = FILE_BYTES_MAX.to_string();
            let document = ProcessDocument { text: "", ..self };
            return Err(document.wrong(0..0, "process.large", &[("most", &bytes)]));
        }
        // It decides what is XML, and refuses document types, foreign entities and what is nested too deep.
        XmlDocument::of(self.text).map_err(|fault| {
            let lines = self
                .text
                .split_inclusive('\n')
                .take(fault.line.saturating_sub(1));
            let at: usize = lines.map(str::len).sum();
            let rest = self.text.get(at..).unwrap_or("");
            let column: usize = rest
                .chars()
                .take(fault.column.saturating_sub(1))
                .map(char::len_utf8)
                .sum();
            Diagnostic::new(
                self.file,
                self.text,
                at + column..at + column + 1,
                fault.error(),
            )
        })?;
        let mut reader = Reader::from_str(self.text);
        let mut open: Vec<ProcessElement> = Vec::new();
        loop {
            let from = reader.buffer_position() as usize;
            let event = reader
                .read_event()
                .map_err(|_| self.wrong(from..from + 1, "process.syntax", &[]))?;
            let span = from..reader.buffer_position() as usize;
            let ended = match event {
                Event::Start(start) => {
                    open.push(self.element(&start, span)?);
                    None
                }
                Event::Empty(start) => Some(self.element(&start, span)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    self.append(&mut open, &text, span)?;
                    None
                }
                Event::CData(text) => {
                    self.append(&mut open, &text, span)?;
                    None
                }
                Event::GeneralRef(reference) => {
                    let named = match &*reference {
                        "lt" => Some('<'),
                        "gt" => Some('>'),
                        "amp" => Some('&'),
                        "quot" => Some('"'),
                        "apos" => Some('\''),
                        _ => reference.resolve_char_ref().ok().flatten(),
                    };
                    let letter =
                        named.ok_or_else(|| self.wrong(span.clone(), "process.syntax", &[]))?;
                    let mut buffer = [0; 4];
                    self.append(&mut open, letter.encode_utf8(&mut buffer), span)?;
                    None
                }
                Event::Decl(_) => None,
                Event::Comment(_) => return Err(self.wrong(span, "process.comment", &[])),
                Event::PI(_) | Event::DocType(_) => {
                    return Err(self.wrong(span, "process.instruction", &[]));
                }
                Event::Eof => return Err(self.wrong(span, "process.syntax", &[])),
            };
            if let Some(element) = ended {
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }

    fn append(
        self,
        open: &mut [ProcessElement],
        text: &str,
        span: Range<usize>,
    ) -> Result<(), Diagnostic> {
        match open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(self.wrong(span, "process.syntax", &[])),
        }
        Ok(())
    }

    fn element(
        self,
        start: &BytesStart<'_>,
        span: Range<usize>,
    ) -> Result<ProcessElement, Diagnostic> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let wrong = || self.wrong(span.clone(), "process.syntax", &[]);
            let attribute = attribute.map_err(|_| wrong())?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|_| wrong())?;
            attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        Ok(ProcessElement {
            name: start.name().as_ref().to_owned(),
            span,
            attributes,
            children: Vec::new(),
            text: String::new(),
        })
    }
}

impl ProcessElement {
    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// An attribute that must be there.
    pub fn needs(&self, name: &str, document: ProcessDocument<'_>) -> Result<&str, Diagnostic> {
        let value = self.attribute(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            let args = [("element", self.name.as_str()), ("attribute", name)];
            document.wrong(self.span.clone(), "process.misses-attribute", &args)
        })
    }

    /// Refuses attributes and elements other than these, and text where there are elements.
    pub fn only(
        &self,
        attributes: &[&str],
        elements: &[&str],
        document: ProcessDocument<'_>,
    ) -> Result<(), Diagnostic> {
        for (name, _) in &self.attributes {
            if !attributes.contains(&name.as_str()) && name != "xmlns" {
                let args = [("element", self.name.as_str()), ("attribute", name)];
                return Err(document.wrong(self.span.clone(), "process.unknown-attribute", &args));
            }
        }
        for child in &self.children {
            if !elements.contains(&child.name.as_str()) {
                let args = [("element", child.name.as_str()), ("parent", &self.name)];
                return Err(document.wrong(child.span.clone(), "process.unknown-element", &args));
            }
        }
        if !elements.is_empty() && !self.text.trim().is_empty() {
            let args = [("element", self.name.as_str())];
            return Err(document.wrong(self.span.clone(), "process.text", &args));
        }
        Ok(())
    }

    /// The one element of this name; none where there is none.
    pub fn one(
        &self,
        name: &str,
        document: ProcessDocument<'_>,
    ) -> Result<Option<&ProcessElement>, Diagnostic> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            (_, Some(second)) => {
                let args = [("element", name)];
                Err(document.wrong(second.span.clone(), "process.element-twice", &args))
            }
        }
    }
}
