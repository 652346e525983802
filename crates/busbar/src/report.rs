//! Reports with the line they are about and a mark under the word.

use std::io::IsTerminal as _;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use busbar_catalog::{Diagnostic, Severity};

use crate::say;

/// What is wrong with a text, as people see it.
#[derive(Debug)]
pub struct Complaint {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Its name for programs.
    pub code: String,
    /// What would be right.
    pub help: Option<String>,
    /// What the text is called.
    pub name: String,
    /// The text; nothing is drawn of an empty one.
    pub text: String,
    /// The place in it, in bytes.
    pub span: Range<usize>,
}

impl Complaint {
    /// The complaint about a file of a project, in the reader's language.
    pub fn of(diagnostic: &Diagnostic) -> Complaint {
        let language = say::language();
        Complaint {
            severity: diagnostic.severity(),
            message: diagnostic.headline(language),
            code: diagnostic.error().code().to_owned(),
            help: diagnostic.hint(language),
            name: diagnostic.file().to_owned(),
            text: diagnostic.shown(),
            span: diagnostic.marked(),
        }
    }

    /// The complaint as a drawing, in colour where somebody sees it.
    pub fn drawn(&self) -> String {
        let is_seen = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let renderer = match is_seen {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let (level, name) = match self.severity {
            Severity::Error => (Level::ERROR, "cli.report-error"),
            Severity::Warning => (Level::WARNING, "cli.report-warning"),
        };
        let title = level
            .with_name(say::line(name, &[]))
            .primary_title(&self.message)
            .id(&self.code);
        let snippet = (!self.text.is_empty()).then(|| {
            let (marked, shown) = self.places();
            Snippet::source(&self.text)
                .path(&self.name)
                .annotation(AnnotationKind::Primary.span(marked))
                .annotations(shown.map(|line| AnnotationKind::Visible.span(line)))
        });
        let help = self.help.as_ref().map(|help| {
            let name = say::line("cli.report-help", &[]);
            Level::HELP.with_name(name).message(help)
        });
        let group = title.elements(snippet).elements(help);
        let report = renderer.decor_style(DecorStyle::Unicode).render(&[group]);
        format!("{report}\n")
    }

    /// The bytes that are marked, and those of the lines around them, all within the text and between characters.
    fn places(&self) -> (Range<usize>, impl Iterator<Item = Range<usize>> + use<>) {
        let text = &self.text;
        let (start, end) = (self.span.start, self.span.end);
        let start = text.floor_char_boundary(start.min(text.len()));
        let end = text.ceil_char_boundary(end.clamp(start, text.len()));
        let before = text[..start].rfind('\n').map(|at| at..at);
        let after = text[end..].find('\n').map(|at| end + at + 1);
        let after = after.filter(|at| *at < text.len()).map(|at| at..at);
        (start..end, before.into_iter().chain(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str, span: Range<usize>) -> Complaint {
        Complaint {
            severity: Severity::Error,
            message: "there is no column \"nosuch\"".to_owned(),
            code: "sql.unknown-column".to_owned(),
            help: Some("did you mean none?\nor nothing?".to_owned()),
            name: "query".to_owned(),
            text: text.to_owned(),
            span,
        }
    }

    #[test]
    fn the_word_is_marked_between_the_lines_around_it() {
        let text = "first\nsecond\nselect nosuch from t\nfourth\nfifth\n";
        let drawn = complaint(text, 20..26).drawn();
        assert_eq!(
            drawn,
            "error[sql.unknown-column]: there is no column \"nosuch\"
  ╭▸ query:3:8
  │
2 │ second
3 │ select nosuch from t
  │        ━━━━━━
4 │ fourth
  │
  ╰ help: did you mean none?
          or nothing?
"
        );
    }

    #[test]
    fn a_place_outside_the_text_does_no_harm() {
        for (text, span) in [
            ("选择", 4..99),
            ("选择\n", 7..7),
            ("选择\r\n\n", 50..60),
            ("a\u{1b}[31m\tb", 1..2),
            ("\n", 0..1),
        ] {
            let drawn = complaint(text, span).drawn();
            assert!(drawn.contains("query:"), "{drawn}");
            assert!(!drawn.contains('\u{1b}'), "{drawn}");
        }
        assert!(!complaint("", 0..5).drawn().contains("query"));
    }
}
