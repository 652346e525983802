//! Reports with the line they are about and a caret under the word.

use std::fmt;
use std::io::IsTerminal as _;
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme};

use crate::say;

/// A complaint of a node about a text that was typed here.
#[derive(Debug)]
pub struct Complaint {
    /// What is wrong.
    pub message: String,
    /// Its name for programs.
    pub code: String,
    /// What would be right.
    pub help: Option<String>,
    /// What the text is called.
    pub name: &'static str,
    /// The text.
    pub text: String,
    /// The place in it, in bytes.
    pub span: Range<usize>,
}

impl Complaint {
    /// The complaint as people see it.
    pub fn drawn(mut self) -> String {
        let mut start = self.span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let end = self.span.end.clamp(start, self.text.len());
        self.span = start..end;
        draw(&Drawn {
            source: miette::NamedSource::new(self.name, self.text.clone()),
            about: self,
        })
    }
}

/// A report as a drawing, in colour where somebody sees it.
pub fn draw(diagnostic: &dyn miette::Diagnostic) -> String {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let theme = if color {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
    let mut text = String::new();
    // The library calls a hint by its English name.
    if handler
        .render_report(&mut text, &WithoutHelp(diagnostic))
        .is_err()
    {
        text = diagnostic.to_string();
    }
    if let Some(help) = diagnostic.help() {
        let help = say::line("cli.report-help", &[("help", help.to_string())]);
        text.truncate(text.trim_end().len());
        text.push_str(&format!("\n  {}\n", help.replace('\n', "\n        ")));
    }
    text
}

/// A report without its hint.
struct WithoutHelp<'a>(&'a dyn miette::Diagnostic);

impl fmt::Debug for WithoutHelp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for WithoutHelp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)
    }
}

impl std::error::Error for WithoutHelp<'_> {}

impl miette::Diagnostic for WithoutHelp<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.code()
    }

    fn severity(&self) -> Option<miette::Severity> {
        self.0.severity()
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        self.0.labels()
    }
}

#[derive(Debug)]
struct Drawn {
    about: Complaint,
    source: miette::NamedSource<String>,
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about.message)
    }
}

impl std::error::Error for Drawn {}

impl miette::Diagnostic for Drawn {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.about.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.about.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let span = &self.about.span;
        // An empty span would print no caret.
        let place = (span.start, span.len().max(1));
        let label = miette::LabeledSpan::new_primary_with_span(None, place);
        Some(Box::new(std::iter::once(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_marked() {
        let drawn = Complaint {
            message: "there is no column \"nosuch\"".to_owned(),
            code: "sql.unknown-column".to_owned(),
            help: Some("did you mean none?".to_owned()),
            name: "query",
            text: "select nosuch from t".to_owned(),
            span: 7..13,
        }
        .drawn();
        assert!(drawn.contains("select nosuch from t"), "{drawn}");
        assert!(drawn.contains("──────"), "{drawn}");
        assert!(drawn.contains("did you mean none?"), "{drawn}");
    }

    #[test]
    fn a_place_outside_the_text_does_no_harm() {
        let drawn = Complaint {
            message: "wrong".to_owned(),
            code: "x".to_owned(),
            help: None,
            name: "query",
            text: "选择".to_owned(),
            span: 4..99,
        }
        .drawn();
        assert!(drawn.contains("选择"), "{drawn}");
    }
}
