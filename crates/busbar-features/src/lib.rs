//! No code: one list of features.
//!
//! Cargo decides the features of a shared dependency by the packages that a command selects, so
//! `cargo test -p busbar-sql` and `cargo build -p busbar` would each compile DataFusion anew. The crate
//! that knows DataFusion depends on this one, which turns on what the whole program turns on, and so
//! every selection shares one build. `crates/busbar/tests/architecture.rs` keeps the list complete.
