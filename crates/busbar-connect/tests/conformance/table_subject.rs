//! The row of `table` in the suite of all connectors.

use crate::subjects::Subject;

pub fn subject() -> Subject {
    Subject {
        kind: "table",
        good: vec![
            "table: { follow: { tables: [patient] } }\n",
            "table: { follow: { tables: [a, b], snapshot: false, without: [x_to_a], echo: none } }\ntopic: own/${table}\n",
            "table: { poll: { tables: [{ table: patient, version: changed }], every: 5s } }\ntopic: a/${connection}\n",
        ],
        wrong: vec![
            ("table: {}\n", "poll"),
            (
                "table: { follow: { tables: [a] }, poll: { tables: [{ table: a, version: v }] } }\n",
                "poll",
            ),
            ("table: { follow: { tables: [] } }\n", "follow"),
            ("table: { follow: { tables: [a, a] } }\n", "follow"),
            ("table: { follow: { tables: [a], echo: some } }\n", "some"),
            (
                "table: { follow: { tables: [a, b] } }\ntopic: own\n",
                "topic",
            ),
            (
                "table: { follow: { tables: [a] } }\ntopic: own/${tabel}\n",
                "tabel",
            ),
            ("table: { poll: { tables: [{ table: a }] } }\n", "version"),
            (
                "table: { poll: { tables: [{ table: a, version: v }], every: 1ms } }\n",
                "1ms",
            ),
        ],
        secret: vec![],
        // It has no other side: see `table_source`.
        supply: None,
        taker: None,
    }
}
