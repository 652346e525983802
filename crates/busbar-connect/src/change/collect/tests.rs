use super::*;
use busbar_connector::ReachedPositions;

/// Of what was appended before a crash, and not kept, nothing may be taken for what is read now.
#[test]
fn numbers_given_anew_are_above_what_was_appended() {
    let appended = 1 << 62;
    let resume = Resume {
        farthest: ReachedPositions::new(move |part| match part {
            "table:s.t" | "large:0000000000000001" => appended,
            _ => 0,
        }),
        ..Resume::default()
    };
    let mut collector = Collector::new(0, resume);
    let mut table = Table::new("s.t", "t".into(), 0, true, &collector, 0);
    assert!(!table.is_known(), "nothing of it was committed");
    collector.push_read(&mut table, None, b"{}");
    collector.end_read(&mut table, None);
    collector.begin(1, "1".into(), "1".into(), 0, 0);
    collector.number_anew(0);
    for _ in 0..=TRANSACTION_ROWS {
        collector.push(&"t".into(), None, b"{}".to_vec());
        collector.count();
    }
    collector.commit(9);
    let batches: Vec<_> = std::iter::from_fn(|| collector.pop()).collect();
    let parts: Vec<_> = batches.iter().map(|batch| &*batch.part).collect();
    let large = "large:0000000000000001";
    assert_eq!(parts, ["table:s.t", large, large, large, "stream"]);
    for batch in &batches[..4] {
        let first = match &batch.position {
            Position::Rows(positions) => positions.first().copied(),
            other => other.last(),
        };
        assert!(first > Some(appended), "{first:?}");
    }
}

/// What streams hold from before is left out when it comes again.
#[test]
fn what_streams_hold_repeats_until_it_has_passed() {
    let resume = Resume {
        positions: [("stream".to_owned(), 5)].into(),
        farthest: ReachedPositions::new(|part| match part {
            "stream" => 9,
            "large:0000000000000010" => 3,
            _ => 0,
        }),
        ..Resume::default()
    };
    let mut collector = Collector::new(0, resume);
    let mut seen = vec![];
    for (place, end) in [(6, 7), (8, 9), (16, 20)] {
        collector.begin(place, String::new(), String::new(), 0, 0);
        seen.push((collector.repeats(), collector.repeats_transaction()));
        collector.commit(end);
    }
    assert_eq!(seen, [(true, false), (true, false), (false, true)]);
    assert_eq!(collector.reached(), 20);
}

/// Columns are kept behind the transaction that tells them, and say nothing of a snapshot that nobody has taken.
#[test]
fn told_columns_are_kept_behind_their_transaction() {
    let of = |name: &str| ColumnsMark::of_names(std::iter::once(name));
    let mut collector = Collector::new(0, Resume::default());
    let mut table = Table::new("s.t", "t".into(), 0, false, &collector, 0);
    assert_eq!(table.has_told(&of("a")), None);
    collector.begin(1, "1".into(), "1".into(), 0, 0);
    collector.push(&"t".into(), None, b"{}".to_vec());
    table.tell(of("a"));
    collector.end_told(&mut table);
    assert!(collector.pop().is_none(), "the transaction is under way");
    assert_eq!(table.has_told(&of("a")), Some(true));
    collector.commit(1);
    collector.end_told(&mut table);
    let batches: Vec<_> = std::iter::from_fn(|| collector.pop()).collect();
    let parts: Vec<_> = batches.iter().map(|batch| &*batch.part).collect();
    assert_eq!(parts, ["stream", "table:s.t"]);
    let mut resume = Resume::default();
    for batch in batches {
        let position = batch.position.last().expect("a position");
        resume.positions.insert(batch.part.to_string(), position);
        resume.notes.insert(batch.part.to_string(), batch.note);
    }
    let collector = Collector::new(0, resume);
    for snapshot in [false, true] {
        let table = Table::new("s.t", "t".into(), 0, snapshot, &collector, 0);
        assert_eq!(table.has_told(&of("a")), Some(true));
        assert_eq!(table.has_told(&of("b")), Some(false));
        assert_eq!((table.progress.done, table.resumed), (!snapshot, false));
    }
}
