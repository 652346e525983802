//! Flows as they run, in one program: each test program links all of DataFusion.

mod again;
mod bounded;
mod cases;
mod checks;
mod common;
mod connections;
mod conservation;
mod crash;
mod dead_retention;
mod deploy;
mod explain;
mod flow_tests;
mod flows;
mod joined;
mod lookups;
mod nexmark;
mod poison;
mod relay;
mod replay;
mod route;
mod scripts;
mod state;
mod stateful;
mod times;
mod windows_in_sql;
