//! Cases as files: `tests/sql/cases/*.slt`, each a list of blocks
//!
//! ```text
//! query
//! select 1 as one
//! ----
//! one
//! 1
//! ```
//!
//! A block begins with what is asked, `query` (of the engine), `where`, `select`, `batch` or `template`
//! (of the rows of `gauge`), or `window` (the parts of a flow's query); after the dashes stands the answer, or the error with the words it points
//! at. Blocks are parted by an empty line; lines with `#` in front are comments. With
//! `BUSBAR_UPDATE=1` the answers are written instead of compared.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::common::{known, lines, names};
use arrow::array::{Array, RecordBatch, StringArray};
use busbar_event::{Error, Language};
use busbar_sql::{
    BatchQuery, Diagnostic, Engine, Predicate, Projection, QueryLimits, Template, WindowQuery,
};

#[test]
fn cases() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let engine = Engine::new(Arc::new(known(folder.path())), QueryLimits::default()).unwrap();
    let rows = runtime.block_on(async {
        let text = "select topic, time, tags, site, level_mm, \"flowRate\", ok from gauge";
        let mut answer = engine.query(text).await.unwrap();
        let batches = answer.collect().await.unwrap();
        arrow::compute::concat_batches(&answer.schema(), &batches).unwrap()
    });
    let update = std::env::var_os("BUSBAR_UPDATE").is_some();
    let mut files: Vec<PathBuf> =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sql/cases"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
    files.sort();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let mut written = String::new();
        for block in text.trim_end().split("\n\n") {
            let (comments, block): (Vec<&str>, Vec<&str>) =
                block.lines().partition(|line| line.starts_with('#'));
            let block = block.join("\n");
            let (question, expected) = block.split_once("\n----").unwrap_or((&block, ""));
            for comment in comments {
                written.push_str(comment);
                written.push('\n');
            }
            if question.is_empty() {
                written.push('\n');
                continue;
            }
            let (kind, sql) = question.split_once('\n').unwrap();
            let answer = match kind {
                "query" => runtime.block_on(query(&engine, sql)),
                "window" => window(sql),
                _ => ask(kind, sql, &rows),
            };
            asked += 1;
            if answer != expected.trim() {
                wrong.push(format!(
                    "{}: {question}\n-- expected\n{}\n-- found\n{answer}\n",
                    file.display(),
                    expected.trim()
                ));
            }
            written.push_str(&format!("{question}\n----\n{answer}\n\n"));
        }
        if update {
            fs::write(file, written.trim_end().to_owned() + "\n").unwrap();
        }
    }
    assert!(asked > 30, "only {asked} cases were found");
    assert!(update || wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn query(engine: &Engine, sql: &str) -> String {
    let mut answer = match engine.query(sql).await {
        Ok(answer) => answer,
        Err(error) => return explain(sql, &error),
    };
    let batches = match answer.collect().await {
        Ok(batches) => batches,
        Err(error) => return told(&error),
    };
    let mut lines = lines(&names(&answer.schema()), &batches);
    if answer.undecodable() > 0 {
        lines.push(format!("({} undecodable)", answer.undecodable()));
    }
    if answer.partial() > 0 {
        lines.push(format!("({} partial)", answer.partial()));
    }
    lines.join("\n")
}

fn ask(kind: &str, text: &str, rows: &RecordBatch) -> String {
    let schema = rows.schema();
    let answer: Result<Result<RecordBatch, Error>, Diagnostic> = match kind {
        "where" => Predicate::compile(&schema, text).map(|predicate| {
            let kept = predicate.filter(rows)?;
            let shown = Projection::compile(&schema, "time, site, level_mm").unwrap();
            shown.evaluate(&kept)
        }),
        "select" => Projection::compile(&schema, text).map(|list| list.evaluate(rows)),
        "batch" => BatchQuery::compile(&schema, text).map(|mut query| query.execute(rows)),
        "template" => Template::compile(&schema, text).map(|template| {
            let texts: StringArray = template.evaluate(rows)?;
            let again = template.evaluate_dictionary(rows)?;
            let again = arrow::compute::cast(&again, texts.data_type()).unwrap();
            assert_eq!(&texts as &dyn Array, again.as_ref());
            Ok(RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap())
        }),
        other => panic!("what is {other}?"),
    };
    match answer {
        Ok(Ok(batch)) => lines(&names(&batch.schema()), &[batch]).join("\n"),
        Ok(Err(error)) => told(&error),
        Err(error) => explain(text, &error),
    }
}

/// The parts of a flow's query over windows of time.
fn window(sql: &str) -> String {
    let query = match WindowQuery::parse(sql) {
        Ok(Some(query)) => query,
        Ok(None) => return "no window".to_owned(),
        Err(error) => return explain(sql, &error),
    };
    let mut lines = vec![format!(
        "{:?} by `{}`",
        query.window, &query.text[query.call]
    )];
    let mut part = |name: &str, place| lines.push(format!("{name} `{}`", &query.text[place]));
    part("select", query.select);
    query
        .condition
        .into_iter()
        .for_each(|place| part("where", place));
    query.by.into_iter().for_each(|place| part("by", place));
    query
        .having
        .into_iter()
        .for_each(|place| part("having", place));
    lines.join("\n")
}

fn told(error: &Error) -> String {
    format!("{}: {}", error.code(), error.message(Language::En))
}

fn explain(text: &str, error: &Diagnostic) -> String {
    let mut told = format!(
        "{} at `{}`",
        error.code(),
        text[error.span()].replace('\n', " ")
    );
    if let Some(suggestion) = error.suggestion() {
        told.push_str(&format!(", perhaps `{suggestion}`"));
    }
    assert!(error.message(Language::Zh).is_ascii() == error.message(Language::En).is_empty());
    format!("{told}\n{}", error.message(Language::En))
}
