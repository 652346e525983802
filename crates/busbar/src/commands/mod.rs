//! One file a command.

pub mod apis;
pub mod apply;
pub mod audit;
mod bounded;
pub mod check;
pub mod compare;
pub mod connections;
pub mod copy_table;
pub mod dead_letters;
pub mod doctor;
pub mod flows;
pub mod gateways;
pub mod orchestrations;
pub mod plugins;
pub mod process;
pub mod pull;
pub mod reference;
pub mod run;
pub mod schema;
pub mod sql;
pub mod tap;
pub mod test;
pub mod top;
pub mod trace;
pub mod users;
mod watch;
